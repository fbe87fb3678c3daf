"""Signals, distances and scores against hand-made cases and the definitions written out."""

from __future__ import annotations

import numpy as np
import pytest

from gaitcrafter_rt.evaluate.clipset import ClipSet
from gaitcrafter_rt.panel import signals
from gaitcrafter_rt.panel.controls import CONTROLS
from gaitcrafter_rt.panel.distribution import Kid, density_coverage, diversity
from gaitcrafter_rt.panel.identity import identity_scores, unit_parts


def test_signals_of_a_block_with_one_blinking_pixel() -> None:
    clip = np.zeros((1, 5, 8, 8), np.uint8)
    clip[:, :, 2:4, 2:4] = 1
    clip[0, 2, 6, 6] = 1
    assert signals.toggles(clip)[0] == pytest.approx(1 / 3)  # one of three inner frames
    assert signals.flicker(clip)[0] == pytest.approx((2 / 4) / (21 / 5))
    assert signals.components(clip)[0] == pytest.approx(6 / 5)
    assert signals.foreground(clip)[0] == pytest.approx(21 / 320)


def test_gait_band_tells_steps_from_shaking_and_from_stillness() -> None:
    def walker(period: float) -> np.ndarray:
        clip = np.zeros((30, 32, 32), np.uint8)
        for t in range(30):
            half = round(6 + 4 * np.sin(2 * np.pi * t / period))
            clip[t, 20:, 16 - half : 16 + half] = 1
        return clip

    steps, shaking = signals.gait_band(np.stack([walker(14.0), walker(3.0)]))
    assert steps > 0.9
    assert shaking < 0.1
    assert signals.gait_band(np.stack([walker(14.0)])[:, :1].repeat(30, 1))[0] == 0


def test_every_control_changes_clips_in_its_own_way() -> None:
    rng = np.random.default_rng(0)
    clips = np.zeros((9, 6, 16, 16), np.uint8)
    for i in range(9):
        for t in range(6):
            clips[i, t, 4 : 9 + (i + t) % 4, 5 : 8 + rng.integers(4)] = 1
    made = {name: control(clips, 3) for name, control in CONTROLS.items()}
    assert all(m.shape == clips.shape and set(np.unique(m)) <= {0, 1} for m in made.values())
    np.testing.assert_array_equal(np.sort(made["frames shuffled"].sum((2, 3))), np.sort(clips.sum((2, 3))))
    assert (made["frozen"] == clips[:, :1]).all()
    assert ((made["dilated"] >= clips).all(), made["dilated"].sum() > clips.sum()) == (True, True)
    assert len(np.unique(made["mode collapse"].reshape(9, -1), axis=0)) <= 8
    share = (made["2 % edge flicker"] != clips).mean()
    assert 0 < share < 0.02


def test_kid_is_the_unbiased_estimate_for_any_weights() -> None:
    rng = np.random.default_rng(1)
    x, y = unit_parts(rng.normal(size=(12, 2, 4))), unit_parts(rng.normal(size=(9, 2, 4)) + 0.7)
    x_owner, y_owner = np.arange(12) % 3, np.arange(9) % 3

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a.astype(float) @ b.T.astype(float) + 1) ** 3

    def unbiased(a: np.ndarray, b: np.ndarray) -> float:
        n, m = len(a), len(b)
        kaa, kbb = kernel(a, a), kernel(b, b)
        within = (kaa.sum() - np.trace(kaa)) / (n * (n - 1)) + (kbb.sum() - np.trace(kbb)) / (m * (m - 1))
        return 1000 * (within - 2 * kernel(a, b).mean())

    kid = Kid.between(x, x_owner, y, y_owner, 3)
    assert kid.values(np.ones((1, 3)))[0] == pytest.approx(unbiased(x, y), rel=1e-6)
    without_one = kid.values(np.array([[1.0, 0.0, 1.0]]))[0]
    assert without_one == pytest.approx(unbiased(x[x_owner != 1], y[y_owner != 1]), rel=1e-6)


def test_density_and_coverage_by_their_definition() -> None:
    rng = np.random.default_rng(2)
    reference, generated, k = rng.normal(size=(20, 3)), rng.normal(size=(15, 3)) * 1.3, 3
    radius = [np.sort(np.linalg.norm(reference - r, axis=1))[k] for r in reference]
    inside = [[np.linalg.norm(g - r) < d for g in generated] for r, d in zip(reference, radius, strict=True)]
    density, coverage = density_coverage(reference, generated, k)
    assert density == pytest.approx(np.sum(inside) / (k * 15))
    assert coverage == pytest.approx(np.mean([any(row) for row in inside]))
    assert np.isnan(density_coverage(reference[:3], generated, 3)[0])


def test_identity_scores_on_directions_made_by_hand() -> None:
    """Person 0 lies along x, person 1 along y; the probe of person 0 lies at 30 degrees, that of person 1 at 20 degrees from x."""

    def clips(identity: list[int], sequence: list[int]) -> ClipSet:
        zeros = np.zeros(len(identity), np.int64)
        return ClipSet(np.zeros((len(identity), 8), np.uint8), (1, 8, 8), np.array(identity), zeros, zeros, np.array(sequence))

    def at(*degrees: float) -> np.ndarray:
        turns = np.radians(degrees)
        return unit_parts(np.stack([np.cos(turns), np.sin(turns)], 1)[:, None])

    references = clips([0, 0, 1], [4, 5, 4])
    scores = identity_scores(clips([0, 1], [-1, -1]), at(30, 20), references, at(0, 0, 90))
    np.testing.assert_allclose(scores.same, [np.cos(np.radians(30)), np.cos(np.radians(70))], atol=1e-6)
    np.testing.assert_allclose(scores.impostor, [np.cos(np.radians(60)), np.cos(np.radians(20))], atol=1e-6)
    np.testing.assert_allclose(scores.margin, scores.same - scores.impostor, atol=1e-6)
    np.testing.assert_array_equal(scores.rank1, [1, 0])
    # A recording is not compared with itself: person 1 has no other one.
    own = identity_scores(references, at(0, 10, 90), references, at(0, 10, 90))
    np.testing.assert_allclose(own.same, [np.cos(np.radians(10)), np.cos(np.radians(10)), np.nan], atol=1e-6)


def test_diversity_is_the_distance_within_a_cell() -> None:
    unit = unit_parts(np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]], [[1.0, 0.0]]]))
    zeros = np.zeros(4, np.int64)
    np.testing.assert_allclose(diversity(unit, np.array([0, 0, 0, 1]), zeros, zeros), [0.5, 1.0, 0.5, np.nan])
