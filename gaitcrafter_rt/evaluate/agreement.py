"""How far two engines, tiers or settings agree on the same clips: overlap, and where pixels flip."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InvalidRequestError


@dataclass(frozen=True)
class Agreement:
    """Binarised clips against a reference.

    ``iou_mean``, ``iou_p1`` (1st percentile, linear between neighbours) and ``iou_min`` over clips, each clip's overlap being
    intersection over union of all its foreground pixels. ``edge_flips`` and ``interior_flips`` are shares of all pixels: a flip
    lies at an edge if the reference frame has both kinds among the pixel and its eight neighbours.
    """

    clips: int
    iou_mean: float
    iou_p1: float
    iou_min: float
    edge_flips: float
    interior_flips: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def agreement(reference: np.ndarray, other: np.ndarray) -> Agreement:
    """Clips ``[N, F, H, W]``, foreground where not zero. Raises InvalidRequestError if shapes differ or there is no clip."""
    a, b = np.asarray(reference) != 0, np.asarray(other) != 0
    if a.shape != b.shape or a.ndim != 4 or not len(a):
        raise InvalidRequestError(f"clips of shape {a.shape} and {b.shape}; both must be the same [clips, frames, height, width]")
    union = (a | b).sum((1, 2, 3))
    iou = np.where(union == 0, 1.0, (a & b).sum((1, 2, 3)) / np.maximum(union, 1))
    flips = a != b
    edge = int((flips & near_boundary(a)).sum())
    return Agreement(
        len(a), float(iou.mean()), float(np.percentile(iou, 1)), float(iou.min()), edge / a.size, (int(flips.sum()) - edge) / a.size
    )


def near_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of ``mask [..., H, W]`` (bool) with a pixel of the other kind among their eight neighbours."""
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)], mode="edge")
    h, w = mask.shape[-2:]
    around = [padded[..., y : y + h, x : x + w] for y in range(3) for x in range(3)]
    return np.logical_or.reduce(around) & ~np.logical_and.reduce(around)
