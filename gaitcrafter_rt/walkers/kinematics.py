"""From gait style to the joints of a walker in every frame.

Axes: x forward (walking direction), y to the walker's left, z up. Lengths are fractions of the stature.
The root moves on a treadmill: it sways and bobs, but does not advance, so the camera angle stays constant.

Joint curves: sagittal means of 15 healthy adults (BioCV, Evans et al. 2024, doi:10.15125/BATH-01258),
one value every 4 % of the gait cycle from heel strike, kept as Fourier harmonics.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .identity import GaitStyle, WalkerIdentity

FRAMES_PER_SECOND = 25.0
RIGHT, LEFT = 0, 1
# Sign of y for each side, indexed by RIGHT and LEFT.
SIDE_SIGN = (-1.0, 1.0)
_HARMONICS = 6
_Angle = float | np.ndarray

_HIP = (21.6, 20.1, 18.9, 17.6, 13.6, 8.8, 3.7, -0.9, -5.1, -9.1, -12.7, -15.7, -17.8,
        -19.3, -18.5, -13.6, -6.2, 1.9, 9.2, 14.9, 19.0, 21.5, 22.2, 21.3, 20.2, 20.4)  # fmt: skip
_KNEE = (5.2, 8.3, 14.3, 19.7, 19.0, 16.4, 13.0, 9.6, 7.0, 5.4, 5.0, 5.8, 8.5,
         14.1, 23.6, 37.6, 51.4, 60.7, 63.9, 60.9, 52.8, 40.6, 25.2, 9.3, 4.0, 4.3)  # fmt: skip
_ANKLE = (6.9, -1.0, -4.2, -0.7, 1.9, 3.8, 5.0, 5.9, 7.0, 8.2, 9.9, 11.7, 12.8,
          11.6, 4.9, -8.9, -19.2, -14.7, -8.0, -2.8, 0.7, 2.7, 3.4, 3.7, 4.7, 6.3)  # fmt: skip
# The three mean curves leave the foot about this much toe-down while it is flat on the floor.
_FOOT_PITCH_BIAS = 3.5

# Drillis & Contini: fractions of the stature.
HIP_HEIGHT = 0.530
SHOULDER_HEIGHT = 0.818
THIGH, SHANK = 0.245, 0.246
UPPER_ARM, FOREARM = 0.186, 0.146
ANKLE_HEIGHT = 0.039


def _harmonics(curve: tuple[float, ...]) -> np.ndarray:
    values = np.asarray(curve)
    # The measured cycle does not close exactly; spreading the gap over it avoids a jump at heel strike.
    closed = values[:-1] - (values[-1] - values[0]) * (np.arange(25) / 25.0 - 0.5)
    return np.fft.rfft(closed)[: _HARMONICS + 1] / 25.0


_CURVES = tuple(_harmonics(curve) for curve in (_HIP, _KNEE, _ANKLE))


@dataclass(frozen=True)
class GaitVariation:
    """What differs between two recordings of one walker: factors near 1, offsets near 0 (degrees, cycles)."""

    start_phase: float = 0.0
    stride_time: float = 1.0
    leg_amplitude: tuple[float, float, float] = (1.0, 1.0, 1.0)
    leg_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    arm_swing: tuple[float, float] = (1.0, 1.0)
    arm_offset: tuple[float, float] = (0.0, 0.0)
    elbow_offset: tuple[float, float] = (0.0, 0.0)
    abduction_offset: tuple[float, float] = (0.0, 0.0)
    lean_offset: float = 0.0
    head_offset: float = 0.0


@dataclass(frozen=True)
class Pose:
    """Joints of one clip. Points are [frames, 3]; frames of reference are [frames, 3, 3], columns = axes.

    Lists are indexed by RIGHT and LEFT. The third axis of a limb frame points from its lower to its upper end.
    """

    pelvis: np.ndarray
    pelvis_frame: np.ndarray
    spine: np.ndarray
    spine_frames: np.ndarray
    neck: np.ndarray
    head_frame: np.ndarray
    hip: list[np.ndarray]
    knee: list[np.ndarray]
    ankle: list[np.ndarray]
    thigh_frame: list[np.ndarray]
    shank_frame: list[np.ndarray]
    foot_frame: list[np.ndarray]
    toe_frame: list[np.ndarray]
    shoulder: list[np.ndarray]
    elbow: list[np.ndarray]
    wrist: list[np.ndarray]
    upper_arm_frame: list[np.ndarray]
    forearm_frame: list[np.ndarray]


# Heights of the nine torso slices: 0 = hip joints, 1 = shoulder height (so -0.2 is the crotch).
TORSO_LEVELS = (-0.20, -0.08, 0.10, 0.27, 0.45, 0.63, 0.80, 0.93, 1.03)


def rotation(yaw: _Angle, roll: _Angle, pitch: _Angle) -> np.ndarray:
    """Rz(yaw) Rx(roll) Ry(pitch), degrees, broadcast over frames; result [frames, 3, 3]."""
    yaw, roll, pitch = np.broadcast_arrays(*(np.atleast_1d(np.radians(a)) for a in (yaw, roll, pitch)))
    sin_y, cos_y, sin_r, cos_r = np.sin(yaw), np.cos(yaw), np.sin(roll), np.cos(roll)
    sin_p, cos_p = np.sin(pitch), np.cos(pitch)
    out = np.empty((*yaw.shape, 3, 3))
    row0 = (cos_p, np.zeros_like(cos_p), sin_p)
    row1 = (sin_r * sin_p, cos_r, -sin_r * cos_p)
    for column in range(3):
        out[..., 0, column] = cos_y * row0[column] - sin_y * row1[column]
        out[..., 1, column] = sin_y * row0[column] + cos_y * row1[column]
    out[..., 2, 0], out[..., 2, 1], out[..., 2, 2] = -cos_r * sin_p, sin_r, cos_r * cos_p
    return out


def place(origin: np.ndarray, frame: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """Point at (x, y, z) of a frame: origin + frame @ (x, y, z), [frames, 3]."""
    return origin + frame[..., 0] * x + frame[..., 1] * y + frame[..., 2] * z


def gait_phase(style: GaitStyle, variation: GaitVariation, frames: int) -> np.ndarray:
    """Gait cycle fraction of the right leg per frame (0 = right heel strike), [frames]."""
    stride_time = style.stride_time * variation.stride_time
    return variation.start_phase + np.arange(frames) / (FRAMES_PER_SECOND * stride_time)


def leg_angles(style: GaitStyle, variation: GaitVariation, phase: np.ndarray) -> np.ndarray:
    """Hip flexion, knee flexion and ankle dorsiflexion in degrees, [3, frames], of a leg at `phase`."""
    waves = np.exp(2j * np.pi * np.arange(1, _HARMONICS + 1)[:, None] * phase)
    extra = np.asarray(style.curve_perturbation).reshape(3, -1, 2)
    amplitude = (style.hip_amplitude, style.knee_amplitude, style.ankle_amplitude)
    offset = (style.hip_offset, style.knee_offset, style.ankle_offset)
    angles = []
    for joint, curve in enumerate(_CURVES):
        swing = 2.0 * (curve[1:, None] * waves).real.sum(axis=0)
        coefficients = extra[joint, :, 0] - 1j * extra[joint, :, 1]
        swing = swing + (coefficients[:, None] * waves[: len(coefficients)]).real.sum(axis=0)
        scale = amplitude[joint] * variation.leg_amplitude[joint]
        angles.append(curve[0].real + offset[joint] + variation.leg_offset[joint] + scale * swing)
    # A knee does not bend forward; the soft floor keeps the curve smooth.
    angles[1] = np.logaddexp(0.0, angles[1] / 2.0) * 2.0
    return np.stack(angles)


def _legs(
    identity: WalkerIdentity, variation: GaitVariation, phase: np.ndarray, pelvis: np.ndarray, pelvis_frame: np.ndarray
) -> dict[str, list[np.ndarray]]:
    shape, style = identity.shape, identity.style
    names = ("hip", "knee", "ankle", "thigh_frame", "shank_frame", "foot_frame", "toe_frame")
    legs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for side in (RIGHT, LEFT):
        sign = SIDE_SIGN[side]
        cycle = phase if side == RIGHT else phase + 0.5 + style.left_lag
        flexion, knee_angle, dorsiflexion = leg_angles(style, variation, cycle)
        adduction = style.hip_adduction + 1.5 * np.cos(2 * np.pi * (cycle - 0.2))
        tilt = -sign * adduction
        turn = sign * style.toe_out
        shank_angle = flexion - knee_angle
        foot_pitch = shank_angle + dorsiflexion + _FOOT_PITCH_BIAS
        thigh = rotation(0.3 * turn, tilt, -flexion)
        shank = rotation(0.6 * turn, tilt, -shank_angle)
        hip = place(pelvis, pelvis_frame, 0.0, sign * shape.hip_joint_half, 0.0)
        knee = hip - thigh[..., 2] * THIGH * shape.leg_ratio
        legs["hip"].append(hip)
        legs["knee"].append(knee)
        legs["ankle"].append(knee - shank[..., 2] * SHANK * shape.leg_ratio)
        legs["thigh_frame"].append(thigh)
        legs["shank_frame"].append(shank)
        legs["foot_frame"].append(rotation(turn, 0.3 * tilt, -foot_pitch))
        # Toes stay on the floor while the heel rises.
        legs["toe_frame"].append(rotation(turn, 0.3 * tilt, -np.where(foot_pitch < 0, 0.45 * foot_pitch, foot_pitch)))
    return legs


def _arms(
    identity: WalkerIdentity,
    variation: GaitVariation,
    phase: np.ndarray,
    chest: np.ndarray,
    chest_frame: np.ndarray,
    arm_scale: tuple[float, float],
    held_strap: int | None,
) -> dict[str, list[np.ndarray]]:
    shape, style = identity.shape, identity.style
    arms: dict[str, list[np.ndarray]] = {
        name: [] for name in ("shoulder", "elbow", "wrist", "upper_arm_frame", "forearm_frame")
    }
    for side in (RIGHT, LEFT):
        sign = SIDE_SIGN[side]
        cycle = phase + (0.0 if side == RIGHT else 0.5) - style.arm_lag
        wave = -np.cos(2 * np.pi * cycle)
        swing = (style.arm_swing_right, style.arm_swing_left)[side] * variation.arm_swing[side] * arm_scale[side]
        flexion = style.arm_offset + variation.arm_offset[side] + swing * wave
        elbow = style.elbow_flexion + variation.elbow_offset[side] + style.elbow_range * arm_scale[side] * wave
        elbow = np.maximum(elbow, 4.0)
        abduction = style.arm_abduction + variation.abduction_offset[side]
        forearm_roll, inward = sign * (abduction - 9.0), 8.0
        if arm_scale[side] < 1.0:
            # A loaded arm hangs straighter and further from the body.
            elbow, abduction = elbow * (0.4 + 0.5 * arm_scale[side]), abduction + 7.0 * (1.0 - arm_scale[side])
            forearm_roll = sign * (abduction - 4.0)
        if held_strap == side:
            flexion, elbow, forearm_roll, inward = 0.2 * swing * wave - 16.0, 143.0 + 3.0 * wave, sign * 14.0, 24.0
        upper = rotation(0.0, sign * abduction, -flexion)
        forearm = rotation(-sign * inward, forearm_roll, -(flexion + elbow))
        shoulder = place(chest, chest_frame, -0.004, sign * shape.shoulder_half, -shape.shoulder_slope)
        elbow_joint = shoulder - upper[..., 2] * UPPER_ARM
        arms["shoulder"].append(shoulder)
        arms["elbow"].append(elbow_joint)
        arms["wrist"].append(elbow_joint - forearm[..., 2] * FOREARM)
        arms["upper_arm_frame"].append(upper)
        arms["forearm_frame"].append(forearm)
    return arms


def _spine(
    identity: WalkerIdentity,
    variation: GaitVariation,
    phase: np.ndarray,
    pelvis: np.ndarray,
    pelvis_yaw: np.ndarray,
    pelvis_roll: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Centres [levels, frames, 3] and frames [levels, frames, 3, 3] of the torso slices."""
    shape, style = identity.shape, identity.style
    chest_yaw = -style.thorax_yaw * np.cos(2 * np.pi * (phase - 0.02))
    lean = style.trunk_lean + variation.lean_offset + 0.8 * np.cos(4 * np.pi * (phase - 0.08))
    length = (1.0 - HIP_HEIGHT * shape.leg_ratio) / (1.0 - HIP_HEIGHT) * (SHOULDER_HEIGHT - HIP_HEIGHT)
    frames = []
    for level in TORSO_LEVELS:
        share = min(max(level, 0.0), 1.0)
        # The stoop bends only the upper back; the lower spine leans with the trunk.
        pitch = lean * (0.5 + 0.5 * share) + style.stoop * (2.0 * share * share - 0.4)
        yaw = pelvis_yaw * (1.0 - share) + chest_yaw * share
        frames.append(rotation(yaw, pelvis_roll * (1.0 - 1.25 * share), pitch))
    zero = int(np.searchsorted(TORSO_LEVELS, 0.0))
    centres: list[np.ndarray] = [None] * len(TORSO_LEVELS)  # type: ignore[list-item]
    position, level = pelvis, 0.0
    for index in range(zero, len(TORSO_LEVELS)):
        position = position + frames[index][..., 2] * ((TORSO_LEVELS[index] - level) * length)
        centres[index], level = position, TORSO_LEVELS[index]
    for index in range(zero):
        centres[index] = pelvis + frames[index][..., 2] * (TORSO_LEVELS[index] * length)
    return np.stack(centres), np.stack(frames)


def pose_clip(
    identity: WalkerIdentity,
    variation: GaitVariation,
    frames: int,
    arm_scale: tuple[float, float] = (1.0, 1.0),
    held_strap: int | None = None,
) -> Pose:
    """Joints of `frames` frames at 25 per second.

    Args:
        identity: the walker.
        variation: deviations of this recording.
        frames: number of frames, at least 1.
        arm_scale: swing factor of the right and left arm; below 1 the arm counts as loaded.
        held_strap: RIGHT or LEFT if that hand holds a bag strap in front of the chest.
    """
    style = identity.style
    phase = gait_phase(style, variation, frames)
    pelvis_yaw = style.pelvis_yaw * np.cos(2 * np.pi * phase)
    pelvis_roll = -style.pelvis_roll * np.cos(2 * np.pi * (phase - 0.12))
    pelvis_frame = rotation(pelvis_yaw, pelvis_roll, np.zeros(frames))
    pelvis = np.zeros((frames, 3))
    pelvis[:, 1] = -style.sway * np.cos(2 * np.pi * (phase - 0.30))
    legs = _legs(identity, variation, phase, pelvis, pelvis_frame)
    spine, spine_frames = _spine(identity, variation, phase, pelvis, pelvis_yaw, pelvis_roll)
    chest = int(np.searchsorted(TORSO_LEVELS, 0.93))
    arms = _arms(identity, variation, phase, spine[chest], spine_frames[chest], arm_scale, held_strap)
    lean = style.trunk_lean + variation.lean_offset
    head_pitch = style.head_pitch + variation.head_offset + 0.4 * lean
    head_frame = rotation(np.zeros(frames), 0.3 * pelvis_roll, np.full(frames, head_pitch))
    return Pose(pelvis, pelvis_frame, spine, spine_frames, spine[-1], head_frame, **legs, **arms)
