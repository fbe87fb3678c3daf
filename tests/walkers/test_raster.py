"""Filling and roughening of silhouettes."""

import numpy as np

from gaitcrafter_rt.walkers.raster import CANVAS_HEIGHT, CANVAS_WIDTH, fill, roughen


def disc(frames=4, radius=40):
    angle = 2 * np.pi * np.arange(90) / 90
    polygon = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=-1)
    return fill(np.broadcast_to(polygon, (1, frames, 90, 2)))


def test_fill_draws_each_frame_in_its_own_strip():
    picture = disc()
    assert picture.shape == (4, CANVAS_HEIGHT, CANVAS_WIDTH) and set(np.unique(picture)) == {0, 1}
    assert np.abs(picture.sum((1, 2)) / (np.pi * 40**2) - 1.0).max() < 0.04
    assert (picture == picture[0]).all() and not picture[:, 0].any() and not picture[:, -1].any()


def test_fill_does_not_reach_over_a_neighbouring_frame():
    tall = np.array(((-5.0, -500.0), (5.0, -500.0), (5.0, 0.0), (-5.0, 0.0)))
    small = np.array(((-5.0, -9.0), (5.0, -9.0), (5.0, 0.0), (-5.0, 0.0)))
    picture = fill(np.stack((small, tall, small))[None])
    assert picture[0].sum() == picture[2].sum() < 200 < picture[1].sum()


def test_roughen_moves_the_boundary_and_less_with_less_strength():
    clean = disc()
    y, x = np.ogrid[:CANVAS_HEIGHT, :CANVAS_WIDTH]
    rows, columns = np.nonzero(clean[0])
    distance = np.hypot(y - rows.mean(), x - columns.mean())
    changed = []
    for strength in (0.0, 0.08, 0.16):
        rough = roughen(clean, np.random.default_rng(1), strength, 0.0)
        assert not rough[:, distance > 44].any()
        # Strong noise pierces a few pinholes, ordinary noise (0.11) practically none.
        holes = 1.0 - rough[:, distance < 36].mean()
        assert holes < (0.005 if strength > 0.1 else 1e-9)
        changed.append(int((rough != clean).sum()))
    assert changed[0] < changed[1] < changed[2]


def test_bites_remove_little_and_at_the_expected_rate():
    clean = disc(frames=60)
    smooth = roughen(clean, np.random.default_rng(2), 0.0, 0.0)
    bitten = roughen(clean, np.random.default_rng(2), 0.0, 0.5)
    lost = (smooth.astype(int) - bitten).sum((1, 2))
    assert lost.min() >= 0 and lost.max() < 150
    assert 12 <= (lost > 0).sum() <= 40


def test_an_empty_frame_survives():
    empty = np.zeros((2, CANVAS_HEIGHT, CANVAS_WIDTH), np.uint8)
    assert not roughen(empty, np.random.default_rng(0), 0.1, 5.0).any()
