"""The walker's body as convex solids: each solid is the convex hull of one or more ellipsoids."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from .identity import BodyShape
from .kinematics import ANKLE_HEIGHT, LEFT, RIGHT, SIDE_SIGN, Pose, place

_EYE = np.eye(3)


class Figure:
    """A growing list of convex solids, all with the same number of frames.

    A node is a pair (centre [frames, 3], axes [frames, 3, 3]); the columns of `axes` are the semi-axes
    of an ellipsoid. Lengths are fractions of the stature.
    """

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self._solids: dict[int, list[tuple[tuple[np.ndarray, np.ndarray], ...]]] = {}

    def ball(self, centre: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """A sphere node."""
        return centre, np.broadcast_to(_EYE * radius, (self.frames, 3, 3))

    def blob(
        self, centre: np.ndarray, frame: np.ndarray, x: float, y: float, z: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """An ellipsoid node with semi-axes x, y, z along the columns of `frame` [frames, 3, 3]."""
        return centre, frame * np.array((x, y, z))

    def add(self, *nodes: tuple[np.ndarray, np.ndarray]) -> None:
        """Add the convex hull of the nodes as one solid."""
        self._solids.setdefault(len(nodes), []).append(nodes)

    def add_chain(self, nodes: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Add the hull of every two neighbours, which gives a body with a profile that need not be convex."""
        for first, second in pairwise(nodes):
            self.add(first, second)

    def box(self, origin: np.ndarray, frame: np.ndarray, half: tuple[float, float, float], rounding: float) -> None:
        """Add a box with rounded edges; `half` are its outer half sizes along the columns of `frame`."""
        x, y, z = (max(size - rounding, 1e-4) for size in half)
        self.add(
            *(
                self.ball(place(origin, frame, sx * x, sy * y, sz * z), rounding)
                for sx in (-1, 1)
                for sy in (-1, 1)
                for sz in (-1, 1)
            )
        )

    def groups(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Solids by node count: centres [solids, nodes, frames, 3] and axes [solids, nodes, frames, 3, 3]."""
        result = []
        for count in sorted(self._solids):
            solids = self._solids[count]
            centres = np.stack([node[0] for solid in solids for node in solid])
            axes = np.stack([node[1] for solid in solids for node in solid])
            result.append(
                (
                    centres.reshape(len(solids), count, self.frames, 3),
                    axes.reshape(len(solids), count, self.frames, 3, 3),
                )
            )
        return result


def torso_profile(shape: BodyShape) -> np.ndarray:
    """Half width, half depth and forward shift of the nine torso slices, [9, 3] (fractions of the stature)."""
    s = shape
    hem = s.shirt_hem
    return np.array(
        (
            (0.72 * s.pelvis_half, 0.80 * s.chest_depth, -0.004 - 0.3 * s.buttock),
            (1.00 * s.pelvis_half + 0.6 * hem, 1.02 * s.chest_depth + 0.5 * s.buttock + 0.6 * hem, -0.6 * s.buttock),
            (
                0.97 * s.pelvis_half + 0.7 * hem,
                0.96 * s.chest_depth + 0.3 * s.buttock + 0.5 * s.belly + 0.4 * hem,
                0.5 * s.belly - 0.35 * s.buttock,
            ),
            (s.waist_half + 0.5 * hem, 0.88 * s.chest_depth + 0.6 * s.belly + 0.3 * hem, 0.002 + 0.6 * s.belly),
            (0.45 * s.waist_half + 0.55 * s.chest_half, 0.92 * s.chest_depth + 0.4 * s.belly, 0.001 + 0.4 * s.belly),
            (s.chest_half, 1.02 * s.chest_depth + 0.55 * s.bust, 0.55 * s.bust),
            (1.02 * s.chest_half, 1.02 * s.chest_depth + 0.30 * s.bust, 0.30 * s.bust - 0.002),
            (0.94 * s.chest_half, 0.82 * s.chest_depth, -0.006),
            (0.50 * s.chest_half, 0.56 * s.chest_depth, -0.010),
        )
    )


def add_torso(figure: Figure, pose: Pose, profile: np.ndarray, grow: float = 0.0) -> None:
    """Torso and shoulders; `grow` thickens every slice (a coat)."""
    slices = [
        figure.blob(
            place(pose.spine[i], pose.spine_frames[i], shift, 0.0, 0.0),
            pose.spine_frames[i],
            depth + grow,
            width + grow,
            0.012,
        )
        for i, (width, depth, shift) in enumerate(profile)
    ]
    figure.add_chain(slices)


def add_shoulders(figure: Figure, pose: Pose, shape: BodyShape, grow: float = 0.0) -> None:
    """The slope from the neck to the deltoid, and the armpit filling behind it."""
    for side in (RIGHT, LEFT):
        sign = SIDE_SIGN[side]
        neck = figure.ball(
            place(pose.neck, pose.spine_frames[-1], -0.006, 0.4 * sign * shape.neck_radius, 0.006),
            0.9 * shape.neck_radius + 0.5 * grow,
        )
        # Set in and down from the joint, so that the shoulder is round and not a corner.
        deltoid = figure.ball(
            place(pose.shoulder[side], pose.spine_frames[7], 0.0, -0.10 * sign * shape.arm_radius, -0.16 * shape.arm_radius),
            1.06 * shape.arm_radius + grow,
        )
        chest = figure.blob(
            place(pose.spine[6], pose.spine_frames[6], -0.002, 0.45 * sign * shape.chest_half, 0.0),
            pose.spine_frames[6],
            0.8 * shape.chest_depth,
            0.5 * shape.chest_half,
            0.02,
        )
        figure.add(neck, deltoid, chest)


def add_head(figure: Figure, pose: Pose, shape: BodyShape) -> None:
    """Neck, skull, face and hair."""
    scale, frame = shape.head_scale, pose.head_frame
    neck = place(pose.neck, pose.spine_frames[-1], 0.0, 0.0, 0.0)
    # The face is a little ahead of the neck, as in an upright stance.
    skull = place(neck, frame, 0.010, 0.0, 0.090 + shape.neck_length)
    figure.add(
        figure.ball(neck, shape.neck_radius),
        figure.ball(place(skull, frame, -0.008, 0.0, -0.030), 0.92 * shape.neck_radius),
    )
    cranium = figure.blob(
        place(skull, frame, -0.004, 0.0, 0.020), frame, shape.head_depth * scale, 0.0465 * scale, 0.051 * scale
    )
    jaw = figure.blob(
        place(skull, frame, 0.016 * scale, 0.0, -0.028 * scale), frame, 0.030 * scale, 0.030 * scale, 0.024 * scale
    )
    figure.add(cranium, jaw)
    figure.add(
        figure.blob(place(skull, frame, 0.052 * scale, 0.0, 0.000), frame, 0.010, 0.009, 0.010),
        figure.blob(place(skull, frame, 0.042 * scale, 0.0, 0.020), frame, 0.006, 0.007, 0.008),
    )
    _add_hair(figure, pose, shape, skull)


def _add_hair(figure: Figure, pose: Pose, shape: BodyShape, skull: np.ndarray) -> None:
    scale, frame, volume = shape.head_scale, pose.head_frame, shape.hair_volume
    crown = figure.blob(
        place(skull, frame, -0.012, 0.0, 0.026 + 0.3 * volume),
        frame,
        (shape.head_depth + 0.35 * volume) * scale,
        (0.045 + 0.35 * volume) * scale,
        (0.047 + 0.45 * volume) * scale,
    )
    figure.add(crown)
    if shape.hair_length <= 0.0:
        return
    if shape.ponytail > 0.0:
        root = place(skull, frame, -0.062 * scale, 0.0, 0.030)
        tip = place(root, frame, -0.030 * shape.ponytail, 0.0, -0.03 - 0.8 * shape.hair_length)
        figure.add(figure.ball(root, 0.014), figure.ball(tip, 0.010))
        return
    nape = figure.blob(
        place(skull, frame, -0.030 * scale, 0.0, -0.020 - shape.hair_length),
        frame,
        0.022 + 0.4 * volume,
        0.040 + 0.5 * volume,
        0.020,
    )
    back = figure.blob(
        place(skull, frame, -0.022 * scale, 0.0, 0.010), frame, 0.038 + 0.3 * volume, 0.046 + 0.5 * volume, 0.030
    )
    figure.add(back, nape)


def add_arms(figure: Figure, pose: Pose, shape: BodyShape, grow: float = 0.0) -> None:
    """Arms and hands; `grow` thickens the sleeves."""
    radius = shape.arm_radius
    for side in (RIGHT, LEFT):
        shoulder, elbow, wrist = pose.shoulder[side], pose.elbow[side], pose.wrist[side]
        frame = pose.forearm_frame[side]
        upper = figure.blob(
            place(shoulder, pose.upper_arm_frame[side], 0.0, 0.0, -0.03),
            pose.upper_arm_frame[side],
            1.12 * radius + grow,
            1.02 * radius + grow,
            0.045,
        )
        joint = figure.ball(elbow, 0.86 * radius + grow)
        figure.add(upper, joint)
        figure.add(
            joint,
            figure.ball(place(elbow, frame, 0.0, 0.0, -0.045), 0.86 * radius + grow),
            figure.ball(wrist, 0.62 * radius + grow),
        )
        # A relaxed hand: fingers half closed, so shorter than the 0.108 of an outstretched one.
        figure.add(
            figure.blob(place(wrist, frame, 0.002, 0.0, -0.020), frame, 0.018, 0.012, 0.020),
            figure.blob(place(wrist, frame, 0.010, 0.0, -0.056), frame, 0.017, 0.013, 0.020),
        )


def add_legs(figure: Figure, pose: Pose, shape: BodyShape) -> None:
    """Thighs, shanks in trousers, and shoes."""
    thigh, calf, cloth = shape.thigh_radius, shape.calf_radius, shape.trouser_width
    for side in (RIGHT, LEFT):
        upper, lower = pose.thigh_frame[side], pose.shank_frame[side]
        hip, knee, ankle = pose.hip[side], pose.knee[side], pose.ankle[side]
        top = figure.blob(place(hip, upper, -0.004, 0.0, -0.03), upper, thigh + 0.006, thigh, 0.05)
        middle = figure.blob(place(hip, upper, 0.002, 0.0, -0.13), upper, 0.90 * thigh, 0.86 * thigh, 0.03)
        joint = figure.blob(
            place(knee, upper, 0.002, 0.0, 0.0), upper, 0.034 + 0.35 * cloth, 0.031 + 0.35 * cloth, 0.034
        )
        belly = figure.blob(
            place(knee, lower, -0.007, 0.0, -0.070), lower, calf + 0.4 * cloth, 0.94 * calf + 0.4 * cloth, 0.03
        )
        cuff = figure.blob(
            place(ankle, lower, -0.004, 0.0, 0.018), lower, 0.024 + 0.8 * cloth, 0.022 + 0.8 * cloth, 0.008
        )
        figure.add_chain([top, middle, joint, belly, cuff])
        _add_shoe(figure, pose, shape, side)


def _add_shoe(figure: Figure, pose: Pose, shape: BodyShape, side: int) -> None:
    ankle, frame, toe_frame = pose.ankle[side], pose.foot_frame[side], pose.toe_frame[side]
    length = shape.foot_length
    sole = -ANKLE_HEIGHT
    ankle_node = figure.ball(place(ankle, frame, -0.002, 0.0, -0.004), 0.023)
    heel = figure.ball(place(ankle, frame, -0.24 * length + 0.018, 0.0, sole + 0.018), 0.019)
    ball_centre = place(ankle, frame, 0.46 * length, 0.0, sole + 0.014)
    ball = figure.blob(ball_centre, frame, 0.018, 0.026, 0.015)
    figure.add(ankle_node, heel, ball)
    tip = place(ball_centre, toe_frame, 0.29 * length - 0.012, 0.0, -0.001)
    figure.add(ball, figure.blob(tip, toe_frame, 0.014, 0.020, 0.011))
