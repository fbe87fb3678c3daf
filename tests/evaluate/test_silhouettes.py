"""Figures of single clips against hand-made frames and a plain flood fill."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gaitcrafter_rt.errors import MissingExtraError
from gaitcrafter_rt.evaluate import silhouettes


def flood_fill_share(frame: np.ndarray) -> float:
    """Largest 8-connected component by walking over neighbours, pixel by pixel."""
    left = set(zip(*np.nonzero(frame), strict=True))
    total, best = len(left), 0
    while left:
        queue, size = [left.pop()], 0
        while queue:
            y, x = queue.pop()
            size += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            queue += near
        best = max(best, size)
    return best / total if total else 0.0


@pytest.mark.parametrize("density", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_components_match_a_flood_fill(density: float) -> None:
    clips = (np.random.default_rng(1).random((3, 4, 12, 9)) < density).astype(np.uint8)
    expected = [[flood_fill_share(frame) for frame in clip] for clip in clips]
    np.testing.assert_allclose(silhouettes.largest_component_share(clips), expected)


def test_corners_join_and_frames_do_not() -> None:
    clip = np.zeros((1, 2, 4, 4), np.uint8)
    clip[0, 0, 0, 0] = clip[0, 0, 1, 1] = 255  # touch at a corner
    clip[0, 1, 0, 0] = clip[0, 1, 3, 3] = 255  # joined only through the other frame, if that counted
    np.testing.assert_array_equal(silhouettes.largest_component_share(clip), [[1.0, 0.5]])


def test_energy_foreground_flicker_and_overlap_by_hand() -> None:
    clip = np.zeros((1, 4, 2, 2), np.uint8)
    clip[0, :, 0, 0] = 1
    clip[0, 1, 1, 1] = 1
    np.testing.assert_array_equal(silhouettes.energy_image(clip), [[1, 0, 0, 0.25]])
    assert silhouettes.foreground_share(clip) == [5 / 16]
    assert silhouettes.flicker(clip) == [2 / 12]
    other = np.zeros_like(clip)
    other[0, :, 0, 0] = 1
    assert silhouettes.overlap(clip, other) == [4 / 5]
    assert silhouettes.overlap(0 * clip, 0 * clip) == [1.0]


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"gaitcrafter-rt\[train\]"):
        silhouettes.largest_component_share(np.zeros((1, 1, 4, 4), np.uint8))
