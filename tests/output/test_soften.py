"""Soft edges against the greys of rendered walkers before their threshold."""

from __future__ import annotations

import numpy as np

from gaitcrafter_rt.output.soften import soft_edges
from gaitcrafter_rt.walkers import render_clip, sample_identity


def greys(clips: np.ndarray) -> tuple[float, np.ndarray]:
    inside = clips[(clips > 0) & (clips < 255)]
    return inside.size / clips.size, np.histogram(inside, [1, 32, 64, 96, 128, 160, 192, 224, 255])[0] / max(1, inside.size)


def test_share_and_histogram_of_greys() -> None:
    grey = np.concatenate([render_clip(sample_identity(0, i), v, "nm", 0, grey=True) for i in (0, 1) for v in (0, 54, 90)])
    hard = np.where(grey >= 128, np.uint8(255), np.uint8(0))
    soft = soft_edges(hard)
    np.testing.assert_array_equal(soft >= 128, hard >= 128)
    share, histogram = greys(grey)
    soft_share, soft_histogram = greys(soft)
    assert abs(soft_share / share - 1) < 0.2
    # Total variation between the two histograms; resizing up and down again without smoothing gives above 0.4.
    assert np.abs(histogram - soft_histogram).sum() / 2 < 0.2


def test_blank_and_full_frames_stay() -> None:
    clip = np.stack([np.zeros((64, 64), np.uint8), np.full((64, 64), 255, np.uint8)])
    soft = soft_edges(clip)
    assert soft[0].max() == 0
    assert soft[1].min() == 255
