"""The gait period against signals of known period, and against the stride time that a walker was rendered with."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_world import World

from gaitcrafter_rt.evaluate.model_run import walker_periods
from gaitcrafter_rt.evaluate.period import can_measure, gait_period, lower_body_width, within_tolerance


@pytest.mark.parametrize("stride", [20.0, 23.3, 27.5, 32.4, 38.0])
def test_known_period_is_found_between_frames(stride: float) -> None:
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, (40, 1))
    turn = 2 * np.pi * 2 * np.arange(30) / stride + phase
    widths = np.round(26 + 9 * np.cos(turn) + 2 * np.cos(2 * turn + 1))
    assert np.abs(gait_period(widths) - stride).max() < 0.03 * stride


def test_constant_width_has_no_period() -> None:
    period = gait_period(np.full((2, 30), 17.0))
    assert np.isnan(period).all()
    assert within_tolerance(period, np.array([27.0, 27.0])).tolist() == [0.0, 0.0]


def test_tolerance_is_ten_percent_both_ways() -> None:
    got = within_tolerance(np.array([27.0, 30.2, 29.9, 33.1, 32.9]), np.full(5, 30.0))
    assert got.tolist() == [1.0, 1.0, 1.0, 0.0, 1.0]


def test_clips_too_short_are_refused_not_guessed() -> None:
    assert can_measure(30)
    assert not can_measure(13)


def test_width_ignores_the_upper_body_and_single_pixels() -> None:
    clip = np.zeros((1, 1, 20, 20), np.uint8)
    clip[0, 0, :12] = 1  # the upper 60 %
    clip[0, 0, 14:20, 5] = clip[0, 0, 12:16, 9] = 1
    clip[0, 0, 19, 17] = 1
    assert lower_body_width(clip) == [[5.0]]
    assert lower_body_width(0 * clip) == [[0.0]]


def test_rendered_walkers_have_their_own_stride_time(world: World) -> None:
    truth = walker_periods(world.data)
    side = [i for i, c in enumerate(world.conditions) if c["view"] == "090"]
    expected = np.array([truth[world.conditions[i]["identity"]] for i in side])
    widths = lower_body_width(world.fresh[side])
    assert within_tolerance(gait_period(widths), expected).mean() >= 0.9  # 20 clips at 32 pixels; 98 % at 64 (docs/evaluation.md)
    shuffled = np.random.default_rng(0).permuted(np.repeat(widths, 8, axis=0), axis=1)
    assert within_tolerance(gait_period(shuffled), np.repeat(expected, 8)).mean() < 0.4
