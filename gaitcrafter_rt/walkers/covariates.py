"""What the covariates add to a body: a bag (`bg`) or a coat (`cl`)."""

from __future__ import annotations

import numpy as np

from .body import Figure, add_arms, add_head, add_legs, add_shoulders, add_torso, torso_profile
from .boxes import add_boxes
from .identity import WalkerIdentity
from .kinematics import LEFT, RIGHT, SHANK, SIDE_SIGN, THIGH, GaitVariation, Pose, place, pose_clip, rotation


def dress(
    identity: WalkerIdentity, variation: GaitVariation, covariate: str, frames: int, family: str = "hulls"
) -> Figure:
    """The whole walker of one recording as solids, in walker coordinates (see kinematics.py).

    Args:
        identity: the walker.
        variation: deviations of this recording.
        covariate: one of COVARIATES.
        frames: number of frames.
        family: one of FAMILIES.
    """
    pose = _pose(identity, variation, covariate, frames)
    figure = Figure(frames)
    grow = identity.accessories.coat_thickness if covariate == "cl" else 0.0
    if family == "boxes":
        add_boxes(figure, pose, identity.shape, grow)
    else:
        add_legs(figure, pose, identity.shape)
        add_torso(figure, pose, torso_profile(identity.shape), grow)
        add_shoulders(figure, pose, identity.shape, 0.7 * grow)
        add_arms(figure, pose, identity.shape, 0.7 * grow)
        add_head(figure, pose, identity.shape)
    if covariate == "cl":
        _add_coat(figure, pose, identity)
    elif covariate == "bg":
        _BAGS[identity.accessories.bag_kind](figure, pose, identity)
    return figure


def _pose(identity: WalkerIdentity, variation: GaitVariation, covariate: str, frames: int) -> Pose:
    things = identity.accessories
    if covariate != "bg" or things.bag_kind == "backpack":
        return pose_clip(identity, variation, frames)
    side = LEFT if things.bag_side > 0 else RIGHT
    if things.bag_kind == "shoulder_bag" and things.holds_strap:
        return pose_clip(identity, variation, frames, held_strap=side)
    loaded = 0.40 if things.bag_kind == "hand_bag" else 0.75
    scale = [1.0, 1.0]
    scale[side] = loaded
    return pose_clip(identity, variation, frames, arm_scale=(scale[0], scale[1]))


def _add_coat(figure: Figure, pose: Pose, identity: WalkerIdentity) -> None:
    shape, things = identity.shape, identity.accessories
    profile = torso_profile(shape)
    grow = things.coat_thickness
    width, depth, shift = profile[2]
    waist = figure.blob(
        place(pose.spine[2], pose.spine_frames[2], shift, 0.0, 0.0),
        pose.spine_frames[2],
        depth + grow,
        width + grow,
        0.012,
    )
    width, depth, shift = profile[1]
    hips = figure.blob(
        place(pose.spine[1], pose.spine_frames[1], shift, 0.0, 0.0),
        pose.spine_frames[1],
        depth + 1.1 * grow + 0.3 * things.coat_flare,
        width + 1.1 * grow + 0.3 * things.coat_flare,
        0.012,
    )
    figure.add(waist, hips)
    hem = [_hem_node(figure, pose, identity, side) for side in (RIGHT, LEFT)]
    figure.add(hips, *hem)
    if things.collar > 0.004:
        neck = place(pose.neck, pose.spine_frames[-1], -0.008, 0.0, 0.010)
        radius = shape.neck_radius + 0.4 * things.collar + 0.004
        figure.add(
            figure.blob(neck, pose.spine_frames[-1], radius + 0.3 * things.collar, radius, 0.010 + things.collar)
        )


def _hem_node(figure: Figure, pose: Pose, identity: WalkerIdentity, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the hem around one leg: the cloth follows the leg, but only about two thirds of the way."""
    shape, things = identity.shape, identity.accessories
    drop = 0.05 + things.coat_length
    thigh = THIGH * shape.leg_ratio
    if drop <= thigh:
        on_leg = pose.hip[side] - pose.thigh_frame[side][..., 2] * drop
    else:
        on_leg = pose.knee[side] - pose.shank_frame[side][..., 2] * min(drop - thigh, 0.5 * SHANK)
    hanging = place(pose.hip[side], pose.pelvis_frame, 0.0, 0.0, 0.0)
    hanging = hanging - np.array((0.0, 0.0, drop))
    centre = 0.65 * on_leg + 0.35 * hanging
    centre[:, 2] = hanging[:, 2]
    radius = 0.96 * shape.thigh_radius + 0.7 * things.coat_thickness + things.coat_flare
    sideways = np.array((0.0, SIDE_SIGN[side] * 0.4 * things.coat_flare, 0.0))
    return figure.blob(centre + sideways, pose.pelvis_frame, radius, radius, 0.008)


def _add_backpack(figure: Figure, pose: Pose, identity: WalkerIdentity) -> None:
    shape, things = identity.shape, identity.accessories
    size = things.bag_size
    frame = pose.spine_frames[5]
    depth, width, height = 0.044 * size, 0.084 * size, 0.118 * size
    back = shape.chest_depth + 0.75 * depth
    centre = place(pose.spine[5], frame, -back, 0.0, -0.012 + 0.016 * things.bag_height)
    figure.box(centre, frame, (depth, width, height), 0.026)
    # The outer pocket bulges lower down, as a filled rucksack does.
    figure.box(
        place(centre, frame, -0.7 * depth, 0.0, -0.40 * height), frame, (0.6 * depth, 0.8 * width, 0.5 * height), 0.020
    )
    for side in (RIGHT, LEFT):
        strap = SIDE_SIGN[side] * 0.55 * shape.shoulder_half
        figure.add(
            figure.ball(place(pose.spine[7], pose.spine_frames[7], 0.010, strap, 0.020), 0.014),
            figure.ball(place(centre, frame, 0.4 * depth, strap, 0.85 * height), 0.014),
        )


def _add_shoulder_bag(figure: Figure, pose: Pose, identity: WalkerIdentity) -> None:
    shape, things = identity.shape, identity.accessories
    size = things.bag_size
    side = LEFT if things.bag_side > 0 else RIGHT
    sign = SIDE_SIGN[side]
    # The bag hangs from the shoulder and rocks a little with the pelvis.
    frame = rotation(sign * 6.0, 0.0, 3.0 * pose.pelvis_frame[:, 0, 1] * 57.3 * 0.3)
    depth, width, height = 0.112 * size, 0.042 * size, 0.086 * size
    # Behind the arm and clear of the hip: from the front it stands out beside the body, from the side behind it.
    centre = place(
        pose.pelvis,
        pose.pelvis_frame,
        -0.068,
        sign * (shape.pelvis_half + 1.0 * width),
        -0.045 + 0.030 * things.bag_height,
    )
    figure.box(centre, frame, (depth, width, height), 0.018)
    shoulder = place(pose.shoulder[side], pose.spine_frames[7], -0.004, -0.25 * sign * shape.shoulder_half, 0.022)
    for fore in (-0.7, 0.7):
        figure.add(
            figure.ball(shoulder, 0.009),
            figure.ball(place(centre, frame, fore * depth, -0.9 * sign * width, 0.9 * height), 0.007),
        )


def _add_hand_bag(figure: Figure, pose: Pose, identity: WalkerIdentity) -> None:
    things = identity.accessories
    size = things.bag_size
    side = LEFT if things.bag_side > 0 else RIGHT
    grip = place(pose.wrist[side], pose.forearm_frame[side], 0.006, 0.0, -0.050)
    # A pendulum: the bag swings half as far as the forearm.
    forearm = pose.forearm_frame[side]
    swing = np.degrees(np.arctan2(forearm[:, 0, 2], forearm[:, 2, 2]))
    frame = rotation(0.0, 0.0, 0.5 * (swing - swing.mean()))
    depth, width, height = 0.088 * size, 0.032 * size, 0.068 * size
    drop = 0.040 + 0.012 * things.bag_height
    centre = place(grip, frame, 0.0, 0.0, -drop - height)
    figure.box(centre, frame, (depth, width, height), 0.014)
    for fore in (-0.6, 0.6):
        figure.add(figure.ball(grip, 0.008), figure.ball(place(centre, frame, fore * depth, 0.0, height), 0.008))


_BAGS = {"backpack": _add_backpack, "shoulder_bag": _add_shoulder_bag, "hand_bag": _add_hand_bag}
