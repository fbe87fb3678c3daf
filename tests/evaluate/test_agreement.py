"""Overlap of clips and where pixels flip, on masks whose figures can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.evaluate.agreement import agreement, near_boundary


def test_near_boundary() -> None:
    mask = np.zeros((1, 6, 7), bool)
    mask[0, 2:, 1:5] = True
    near = near_boundary(mask)[0]
    assert not near[0].any() and not near[:, 6].any()
    assert near[1, 0:6].all() and near[1:, 0].all() and near[2:, 5].all()
    assert near[2, 1:5].all() and not near[3:5, 2:4].any()
    assert not near[5, 2:4].any(), "the frame's edge is no boundary"


def test_near_boundary_is_dilation_without_erosion() -> None:
    mask = np.random.default_rng(0).random((20, 30)) < 0.1
    square = np.ones((3, 3), bool)
    grown, shrunk = binary_dilation(mask, square), binary_erosion(mask, square, border_value=1)
    assert np.array_equal(near_boundary(mask), grown & ~shrunk)


def test_figures_by_hand() -> None:
    reference = np.zeros((3, 2, 10, 10), np.uint8)
    reference[:2, :, 2:8, 2:8] = 255  # 72 pixels a clip; the third clip is empty
    other = reference.copy()
    other[0, 0, 4, 4] = 0  # inside: interior
    other[0, 1, 2, 2] = 0  # a corner of the square: edge
    other[0, 1, 1, 5] = 255  # beside the square: edge
    other[0, 1, 0, 0] = 255  # far off: interior
    got = agreement(reference, other)
    assert got.clips == 3
    iou = 70 / 74
    assert got.iou_min == pytest.approx(iou)
    assert got.iou_mean == pytest.approx((iou + 1 + 1) / 3)
    assert got.iou_p1 == pytest.approx(iou + 0.02 * (1 - iou))
    assert (got.edge_flips, got.interior_flips) == (2 / 600, 2 / 600)
    with pytest.raises(InvalidRequestError, match="must be the same"):
        agreement(reference, other[:2])
