"""A pinhole camera that turns solids into outline polygons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .body import Figure

_DIRECTIONS = 24


@dataclass(frozen=True)
class Camera:
    """Where the walker is seen from.

    Attributes:
        view: degrees; 0 = the walker comes towards the camera, 90 = side view walking to the right of the
            image, 180 = the walker goes away.
        distance: from the walker, in statures.
        height: of the horizontal optical axis above the pelvis, in statures.
        pixels: image height of one stature at the walker's distance.
        recession: how much farther than `distance` the last frame is, and nearer the first, as a share of it.
    """

    view: float
    distance: float = 3.2
    height: float = 0.05
    pixels: float = 115.0
    recession: float = 0.0


def outlines(figure: Figure, camera: Camera) -> np.ndarray:
    """Outline polygons of every solid in every frame.

    The outline of a hull in direction u is the outline point of whichever ellipsoid reaches furthest
    along u. Each ellipsoid is projected with the camera's derivative at its centre.

    Returns:
        [solids, frames, 24, 2] pixels, x to the right and y DOWN, origin at the projected pelvis.
    """
    angle = np.radians(camera.view)
    towards = np.array((np.cos(angle), -np.sin(angle), 0.0))
    right = np.array((np.sin(angle), np.cos(angle), 0.0))
    up = np.array((0.0, 0.0, 1.0))
    around = 2.0 * np.pi * np.arange(_DIRECTIONS) / _DIRECTIONS
    ux, uy = np.cos(around), np.sin(around)
    focal = camera.pixels * camera.distance
    distance = camera.distance * (1.0 + camera.recession * np.linspace(-1.0, 1.0, figure.frames))
    polygons = []
    for centres, axes in figure.groups():
        depth = distance - _dot(centres, towards)
        x = _dot(centres, right) / depth
        y = (camera.height - centres[..., 2]) / depth
        scale = focal / depth
        along = _dot_axes(axes, towards)
        ax = (_dot_axes(axes, right) + x[..., None] * along) * scale[..., None]
        ay = (-_dot_axes(axes, up) + y[..., None] * along) * scale[..., None]
        x, y = (x * focal)[..., None], (y * focal)[..., None]
        xx, xy, yy = (ax * ax).sum(-1)[..., None], (ax * ay).sum(-1)[..., None], (ay * ay).sum(-1)[..., None]
        px, py = xx * ux + xy * uy, xy * ux + yy * uy
        reach = np.sqrt(px * ux + py * uy)
        px, py = x + px / reach, y + py / reach
        if centres.shape[1] > 1:
            best = (x * ux + y * uy + reach).argmax(axis=1)[:, None]
            px, py = np.take_along_axis(px, best, axis=1), np.take_along_axis(py, best, axis=1)
        polygons.append(np.stack((px[:, 0], py[:, 0]), axis=-1))
    return np.concatenate(polygons)


def _dot(points: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return points[..., 0] * vector[0] + points[..., 1] * vector[1] + points[..., 2] * vector[2]


def _dot_axes(axes: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return axes[..., 0, :] * vector[0] + axes[..., 1, :] * vector[1] + axes[..., 2, :] * vector[2]
