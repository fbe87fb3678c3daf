"""From outline polygons to noisy raw silhouettes, like those a segmentation leaves."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

CANVAS_HEIGHT, CANVAS_WIDTH = 160, 144
_GROUND_MARGIN = 12
_NOISE_BORDER = 48


def fill(polygons: np.ndarray) -> np.ndarray:
    """Fill polygons [solids, frames, corners, 2] (pixels, y down, x = 0 in the middle).

    Returns:
        uint8 [frames, CANVAS_HEIGHT, CANVAS_WIDTH], 0 or 1.
    """
    frames = polygons.shape[1]
    points = polygons.copy()
    points[..., 0] += CANVAS_WIDTH / 2 - 0.5
    points[..., 1] += CANVAS_HEIGHT - _GROUND_MARGIN - points[..., 1].max()
    # All frames lie below one another in one picture, so nothing may reach over its own strip.
    np.clip(points[..., 1], 1, CANVAS_HEIGHT - 2, out=points[..., 1])
    points[..., 1] += (np.arange(frames) * CANVAS_HEIGHT)[:, None]
    picture = Image.new("L", (CANVAS_WIDTH, CANVAS_HEIGHT * frames))
    draw = ImageDraw.Draw(picture)
    for polygon in points.reshape(-1, points.shape[2] * 2).tolist():
        draw.polygon(polygon, fill=1)
    return np.asarray(picture).reshape(frames, CANVAS_HEIGHT, CANVAS_WIDTH)


def _binomial(image: np.ndarray, axis: int) -> np.ndarray:
    """Five-tap binomial filter (weights 1 4 6 4 1, so the sum grows 16-fold); the borders stay zero."""
    view = np.moveaxis(image, axis, -1)
    out = np.zeros_like(view)
    a, b, c, d, e = (view[..., i : view.shape[-1] - 4 + i] for i in range(5))
    out[..., 2:-2] = a + e + 4 * (b + d) + 6 * c
    return np.moveaxis(out, -1, axis)


def roughen(silhouettes: np.ndarray, generator: np.random.Generator, strength: float, bite_rate: float) -> np.ndarray:
    """Disturb the boundary of 0/1 silhouettes [frames, height, width] (uint8) and bite small pieces out.

    Args:
        silhouettes: as `fill` gives them; empty within 3 pixels of the picture's border.
        generator: source of the noise; 2 draws per frame plus one field.
        strength: noise SD as a share of the blurred edge's height; 0.15 moves the boundary by about half
            a pixel and pierces rare pinholes.
        bite_rate: expected bites per frame.

    Returns:
        uint8 0/1, the same shape.
    """
    frames, height, width = silhouettes.shape
    field = generator.standard_normal((height + _NOISE_BORDER, width + _NOISE_BORDER), dtype=np.float32)
    field = field[:-1, :-1] + field[1:, :-1] + field[:-1, 1:] + field[1:, 1:]
    # Four summed normals have SD 2; the blurred mask runs from 0 to 256.
    field = (field * np.float32(128.0 * strength)).astype(np.int16)
    blurred = _blur(silhouettes)
    rows, columns = generator.integers(0, _NOISE_BORDER, (2, frames))
    result = np.empty_like(silhouettes)
    for frame in range(frames):
        noise = field[rows[frame] : rows[frame] + height, columns[frame] : columns[frame] + width]
        result[frame] = (blurred[frame] + noise > 128) & (blurred[frame] > 0)
    for _ in range(int(generator.poisson(bite_rate * frames))):
        _bite(result[int(generator.integers(frames))], generator)
    return result


def _blur(silhouettes: np.ndarray) -> np.ndarray:
    """Two binomial passes: 0..256 as int16."""
    return _binomial(_binomial(silhouettes, 2).astype(np.int16), 1)


def _bite(frame: np.ndarray, generator: np.random.Generator) -> None:
    """Clear an ellipse around a random boundary point of one frame, in place."""
    edge = np.flatnonzero(frame[:, 1:] != frame[:, :-1])
    pick, rx, ry = generator.random(), generator.uniform(1.5, 4.0), generator.uniform(1.5, 4.0)
    if edge.size == 0:
        return
    row, column = divmod(int(edge[int(pick * edge.size)]), frame.shape[1] - 1)
    top, left = max(row - 4, 0), max(column - 4, 0)
    patch = frame[top : row + 5, left : column + 5]
    y, x = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    patch[((y - row) / ry) ** 2 + ((x - column) / rx) ** 2 <= 1.0] = 0
