"""The second family's body: the same joints inside boxes and straight capsules instead of anatomical hulls.

Whoever tells walkers of the first family apart may lean on how its primitives look. The second family has other primitives for the
same poses, so a figure that holds for both is not a figure of the primitives.
"""

from __future__ import annotations

from .body import Figure
from .identity import BodyShape
from .kinematics import ANKLE_HEIGHT, LEFT, RIGHT, SIDE_SIGN, Pose, place


def add_boxes(figure: Figure, pose: Pose, shape: BodyShape, grow: float = 0.0) -> None:
    """The whole body; ``grow`` thickens trunk and sleeves (a coat)."""
    _add_trunk(figure, pose, shape, grow)
    _add_head(figure, pose, shape)
    for side in (RIGHT, LEFT):
        _add_arm(figure, pose, shape, side, grow)
        _add_leg(figure, pose, shape, side)


def _add_trunk(figure: Figure, pose: Pose, shape: BodyShape, grow: float) -> None:
    depth = 0.9 * shape.chest_depth + grow
    levels = (
        (1, shape.pelvis_half, depth + 0.4 * shape.buttock, -0.4 * shape.buttock, 0.055),
        (3, shape.waist_half, depth + 0.5 * shape.belly, 0.5 * shape.belly, 0.055),
        (5, shape.chest_half, depth + 0.4 * shape.bust, 0.4 * shape.bust, 0.060),
        (7, 0.8 * shape.chest_half, 0.8 * depth, 0.0, 0.035),
    )
    for level, width, thick, shift, height in levels:
        frame = pose.spine_frames[level]
        figure.box(place(pose.spine[level], frame, shift, 0.0, 0.0), frame, (thick, width + grow, height), 0.016)
    radius = 1.1 * shape.arm_radius + 0.5 * grow
    figure.add(figure.ball(pose.shoulder[RIGHT], radius), figure.ball(pose.shoulder[LEFT], radius))


def _add_head(figure: Figure, pose: Pose, shape: BodyShape) -> None:
    scale, frame = shape.head_scale, pose.head_frame
    neck = place(pose.neck, pose.spine_frames[-1], 0.0, 0.0, 0.0)
    middle = place(neck, frame, 0.006, 0.0, 0.095 + shape.neck_length)
    figure.add(figure.ball(neck, shape.neck_radius), figure.ball(middle, shape.neck_radius))
    half = (shape.head_depth * scale, 0.046 * scale, 0.068 * scale)
    figure.box(middle, frame, half, 0.030 * scale)
    if shape.hair_length > 0.0:
        figure.box(
            place(middle, frame, -0.8 * half[0], 0.0, -0.5 * shape.hair_length), frame,
            (0.4 * half[0] + 0.3 * shape.hair_volume, half[1], 0.5 * half[2] + 0.5 * shape.hair_length), 0.012,
        )  # fmt: skip


def _add_arm(figure: Figure, pose: Pose, shape: BodyShape, side: int, grow: float) -> None:
    radius = 0.95 * shape.arm_radius + 0.7 * grow
    elbow, wrist = figure.ball(pose.elbow[side], 0.9 * radius), figure.ball(pose.wrist[side], 0.75 * radius)
    figure.add(figure.ball(pose.shoulder[side], 1.05 * radius), elbow)
    figure.add(elbow, wrist)
    frame = pose.forearm_frame[side]
    figure.box(place(pose.wrist[side], frame, 0.006, 0.0, -0.036), frame, (0.018, 0.012, 0.036), 0.010)


def _add_leg(figure: Figure, pose: Pose, shape: BodyShape, side: int) -> None:
    cloth = 0.4 * shape.trouser_width
    hip = place(pose.hip[side], pose.pelvis_frame, 0.0, SIDE_SIGN[side] * 0.004, -0.02)
    knee = figure.ball(pose.knee[side], 0.036 + cloth)
    figure.add(figure.ball(hip, 0.95 * shape.thigh_radius), knee)
    figure.add(knee, figure.ball(pose.ankle[side], 0.026 + 1.5 * cloth))
    frame, length = pose.foot_frame[side], shape.foot_length
    # The heel is a quarter of the foot behind the ankle.
    middle = place(pose.ankle[side], frame, 0.25 * length, 0.0, 0.02 - ANKLE_HEIGHT)
    figure.box(middle, frame, (0.5 * length, 0.026, 0.02), 0.010)
