"""Windows that start at the same phase of the gait, checked against figures and rendered walkers whose phase is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gaitcrafter_rt.data.windows import double_supports, lower_body_spread, spread_period, window_starts
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.walkers import render_clip, sample_identity

Make = Callable[..., np.ndarray]


@pytest.mark.parametrize("period", [20, 26, 34])
@pytest.mark.parametrize("start", [0, 5, 11])
def test_double_supports_of_a_swing(period: int, start: int, figure: Make) -> None:
    clip = figure(90, start=start, period=period)
    # The legs are furthest apart where |sin| = 1.
    want = [
        t
        for t in range(1, 89)
        if abs(abs(np.sin(2 * np.pi * (t + start) / period)) - 1) < 1e-9 or (t + start - period / 4) % (period / 2) < 1
    ]
    got = double_supports(clip)
    assert spread_period(lower_body_spread(clip)) == pytest.approx(period / 2, abs=1)
    assert len(got) >= 90 // (period / 2) - 2
    assert all(min(abs(t - w) for w in want) <= 1 for t in got)


@pytest.mark.parametrize("walker", [0, 1, 2])
@pytest.mark.parametrize("view", [54, 90, 126])
def test_period_of_rendered_walkers(walker: int, view: int) -> None:
    identity = sample_identity(0, walker)
    clip = render_clip(identity, view, "nm", 0, frames=90)
    half = identity.style.stride_time * 25 / 2
    period = spread_period(lower_body_spread(clip))
    assert period is not None
    assert min(abs(period - half), abs(period - 2 * half)) < 1.2


def test_aligned_windows_do_not_depend_on_where_the_recording_was_cut() -> None:
    clip = render_clip(sample_identity(0, 1), 90, "nm", 0, frames=100)
    whole, aligned = window_starts(clip, 30, align=True)
    assert aligned
    assert len(whole) == 2
    peaks = double_supports(clip)
    for cut in (3, 7, 12, 20):
        starts, _ = window_starts(clip[cut:], 30, align=True)
        assert all(min(abs(s + cut - p) for p in peaks) <= 1 for s in starts)


def test_unaligned_windows(figure: Make) -> None:
    clip = figure(95)
    assert window_starts(clip) == ([0, 30, 60], False)
    assert window_starts(clip, stride=20) == ([0, 20, 40, 60], False)
    assert window_starts(clip[:29]) == ([], False)
    assert window_starts(clip[:30]) == ([0], False)
    assert window_starts(clip[:0]) == ([], False)


def test_no_rhythm_falls_back(figure: Make) -> None:
    still = np.repeat(figure(1), 70, axis=0)
    assert spread_period(lower_body_spread(still)) is None
    assert window_starts(still, align=True) == ([0, 30], False)
    # Exactly one window long: a double support inside leaves no room, the recording is still used.
    assert window_starts(figure(30), align=True) == ([0], False)


def test_bad_settings(figure: Make) -> None:
    for settings in ({"length": 0}, {"stride": 0}):
        with pytest.raises(InvalidRequestError):
            window_starts(figure(40), **settings)
