"""Gait curves and body proportions against the published numbers, and the camera against geometry."""

from dataclasses import replace

import numpy as np
import pytest

from gaitcrafter_rt.walkers import sample_identity
from gaitcrafter_rt.walkers.body import Figure
from gaitcrafter_rt.walkers.camera import Camera, outlines
from gaitcrafter_rt.walkers.kinematics import (
    LEFT,
    RIGHT,
    GaitVariation,
    gait_phase,
    leg_angles,
    place,
    pose_clip,
    rotation,
)

# Every 20 % of the cycle, means of BioCV (Evans et al. 2024): hip flexion, knee flexion, ankle dorsiflexion.
PUBLISHED = np.array(((21.6, 8.8, -12.7, -13.6, 19.0), (5.2, 16.4, 5.0, 37.6, 52.8), (6.9, 3.8, 9.9, -8.9, 0.7)))


def average_walker():
    walker = sample_identity(0, 0)
    style = replace(
        walker.style,
        hip_amplitude=1.0, knee_amplitude=1.0, ankle_amplitude=1.0, hip_offset=0.0, knee_offset=0.0,
        ankle_offset=0.0, left_lag=0.0, curve_perturbation=(0.0,) * 18,
    )  # fmt: skip
    return replace(walker, style=style, shape=replace(walker.shape, leg_ratio=1.0))


def test_mean_curves_follow_the_published_table():
    angles = leg_angles(average_walker().style, GaitVariation(), np.arange(5) / 5.0)
    spread = np.array((6.0, 6.0, 6.0))[:, None]
    # Six harmonics round the corners off; the deviation stays well inside the between-subject SD of about 6.
    assert (np.abs(angles - PUBLISHED) < 0.75 * spread).all()
    dense = leg_angles(average_walker().style, GaitVariation(), np.linspace(0, 1, 101))
    assert dense[1].max() == pytest.approx(63.9, abs=2.5) and dense[1].argmax() == pytest.approx(72, abs=3)
    assert np.allclose(dense[:, 0], dense[:, -1])


def test_knees_never_bend_forward():
    for index in range(60):
        angles = leg_angles(sample_identity(1, index).style, GaitVariation(), np.linspace(0, 1, 50))
        assert angles[1].min() >= 0.0


def test_segment_lengths_are_drillis_and_contini():
    pose = pose_clip(average_walker(), GaitVariation(), 10)
    for side in (RIGHT, LEFT):
        for upper, lower, length in (
            (pose.hip, pose.knee, 0.245), (pose.knee, pose.ankle, 0.246),
            (pose.shoulder, pose.elbow, 0.186), (pose.elbow, pose.wrist, 0.146),
        ):  # fmt: skip
            assert np.allclose(np.linalg.norm(upper[side] - lower[side], axis=1), length)


def test_left_leg_is_half_a_cycle_behind_and_arms_swing_against_the_legs():
    walker = average_walker()
    walker = replace(walker, style=replace(walker.style, stride_time=0.8, pelvis_yaw=0.0))
    pose = pose_clip(walker, GaitVariation(), 21)
    assert np.allclose(pose.ankle[RIGHT][:11, 0], pose.ankle[LEFT][10:, 0])
    forward_leg = pose.ankle[RIGHT][:20, 0] - pose.ankle[LEFT][:20, 0]
    forward_arm = pose.wrist[RIGHT][:20, 0] - pose.wrist[LEFT][:20, 0]
    assert np.corrcoef(forward_leg, forward_arm)[0, 1] < -0.8


def test_stance_foot_is_flat_in_mid_stance():
    pose = pose_clip(average_walker(), GaitVariation(start_phase=0.22), 1)
    assert abs(np.degrees(np.arcsin(pose.foot_frame[RIGHT][0, 2, 0]))) < 5.0


def test_phase_advances_25_frames_per_second():
    style = replace(sample_identity(0, 0).style, stride_time=1.0)
    assert np.allclose(gait_phase(style, GaitVariation(start_phase=0.1), 26), 0.1 + np.arange(26) / 25.0)


def test_rotations_are_orthonormal_with_the_stated_signs():
    frames = rotation(np.array([10.0, 80.0]), np.array([-20.0, 5.0]), np.array([30.0, -70.0]))
    assert np.allclose(frames @ frames.transpose(0, 2, 1), np.eye(3))
    assert np.allclose(np.linalg.det(frames), 1.0)
    assert np.allclose(rotation(90.0, 0.0, 0.0)[0] @ (1, 0, 0), (0, 1, 0))
    assert np.allclose(rotation(0.0, 90.0, 0.0)[0] @ (0, 1, 0), (0, 0, 1))
    assert np.allclose(rotation(0.0, 0.0, 90.0)[0] @ (0, 0, 1), (1, 0, 0))
    assert np.allclose(place(np.ones((2, 3)), frames, 0.1, 0.2, 0.3), 1 + frames @ (0.1, 0.2, 0.3))


def ball_outline(centre, camera, radius=0.05):
    figure = Figure(1)
    figure.add(figure.ball(np.array([centre], dtype=float), radius))
    return outlines(figure, camera)[0, 0]


def test_a_ball_projects_to_a_circle_of_the_right_size_and_place():
    camera = Camera(view=90.0, distance=4.0, height=0.0, pixels=100.0)
    circle = ball_outline((0, 0, 0), camera)
    assert np.allclose(np.hypot(circle[:, 0], circle[:, 1]), 5.0)
    # Twice as near (on the walker's right, where the side camera stands), twice as large.
    assert np.allclose(np.hypot(*ball_outline((0, -2, 0), camera).T), 10.0)
    forward, upward = ball_outline((0.2, 0, 0), camera).mean(0), ball_outline((0, 0, 0.2), camera).mean(0)
    assert np.allclose(forward, (20, 0), atol=0.05) and np.allclose(upward, (0, -20), atol=0.05)


def test_the_walkers_left_is_on_the_right_from_the_front_and_on_the_left_from_behind():
    assert ball_outline((0, 0.2, 0), Camera(view=0.0)).mean(0)[0] > 20
    assert ball_outline((0, 0.2, 0), Camera(view=180.0)).mean(0)[0] < -20


def test_hull_of_two_balls_reaches_both():
    figure = Figure(1)
    ends = [figure.ball(np.array([(x, 0.0, 0.0)]), 0.02) for x in (-0.3, 0.3)]
    figure.add(*ends)
    hull = outlines(figure, Camera(view=90.0, distance=50.0, height=0.0, pixels=100.0))[0, 0]
    assert hull[:, 0].min() == pytest.approx(-32, abs=0.1) and hull[:, 0].max() == pytest.approx(32, abs=0.1)
    assert np.abs(hull[:, 1]).max() == pytest.approx(2, abs=0.1)
