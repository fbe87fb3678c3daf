"""Bad segmentation, as the second family has it: holes that last, lost feet, shadows on the floor."""

from __future__ import annotations

import numpy as np

HOLES, LOST_FEET, SHADOWS = 1.2, 0.5, 0.5  # expected events per clip of 30 frames


def damage(silhouettes: np.ndarray, generator: np.random.Generator) -> None:
    """Damage 0/1 silhouettes ``[frames, height, width]`` (uint8) in place. Every event spans two to six frames."""
    frames = len(silhouettes)
    for event, rate in ((_hole, HOLES), (_lose_foot, LOST_FEET), (_shadow, SHADOWS)):
        for _ in range(int(generator.poisson(rate * frames / 30))):
            first, count = int(generator.integers(frames)), int(generator.integers(2, 7))
            event(silhouettes[first : first + count], generator)


def _ellipse(shape: tuple[int, ...], row: float, column: float, height: float, width: float) -> np.ndarray:
    y, x = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1.0)


def _extent(frame: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row and column of the figure. A raw silhouette is never empty."""
    rows, columns = np.flatnonzero(frame.any(axis=1)), np.flatnonzero(frame.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


def _hole(frames: np.ndarray, generator: np.random.Generator) -> None:
    """A hole in the trunk or a leg, at one place of the figure."""
    down, across = generator.uniform(0.25, 0.85), generator.uniform(0.3, 0.7)
    height, width = generator.uniform(2.0, 6.0, 2)
    for frame in frames:
        top, bottom, left, right = _extent(frame)
        frame[_ellipse(frame.shape, top + down * (bottom - top), left + across * (right - left), height, width)] = 0


def _lose_foot(frames: np.ndarray, generator: np.random.Generator) -> None:
    """The lowest rows of one half of the figure are gone."""
    rows, is_left = int(generator.integers(4, 11)), bool(generator.integers(2))
    for frame in frames:
        _, bottom, left, right = _extent(frame)
        middle = (left + right) // 2
        part = frame[bottom - rows + 1 :, : middle + 1] if is_left else frame[bottom - rows + 1 :, middle + 1 :]
        part[:] = 0


def _shadow(frames: np.ndarray, generator: np.random.Generator) -> None:
    """A flat blob on the floor beside the feet counts as figure."""
    side, width, height = generator.choice((-1, 1)), generator.uniform(6.0, 14.0), generator.uniform(1.5, 3.0)
    for frame in frames:
        _, bottom, left, right = _extent(frame)
        column = (left + right) / 2 + side * (0.3 * (right - left) + 0.6 * width)
        frame[_ellipse(frame.shape, bottom - height, column, height, width)] = 1
