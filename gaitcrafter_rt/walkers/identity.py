"""Who a rendered walker is: body shape, gait style and what the person wears or carries.

Lengths are fractions of the stature unless a field says otherwise; angles are degrees. The means and
spreads of the gait style follow published gait statistics (docs/walkers.md lists them); the body
proportions start from Drillis & Contini (in Winter, Biomechanics and Motor Control of Human Movement,
2009, table 4.1). Widths of clothed bodies are our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gaitcrafter_rt.errors import InvalidRequestError

BAG_KINDS = ("backpack", "shoulder_bag", "hand_bag")

# Separates the random streams of this package that share a seed.
IDENTITY_STREAM = 0x1D
_CURVE_HARMONICS = 3


@dataclass(frozen=True)
class BodyShape:
    """Build of a walker. All lengths are fractions of the stature except `stature_m` (metres)."""

    stature_m: float
    leg_ratio: float
    shoulder_half: float
    shoulder_slope: float
    hip_joint_half: float
    pelvis_half: float
    waist_half: float
    chest_half: float
    chest_depth: float
    belly: float
    bust: float
    buttock: float
    thigh_radius: float
    calf_radius: float
    trouser_width: float
    arm_radius: float
    neck_length: float
    neck_radius: float
    head_scale: float
    head_depth: float
    hair_volume: float
    hair_length: float
    ponytail: float
    foot_length: float
    shirt_hem: float


@dataclass(frozen=True)
class GaitStyle:
    """How a walker moves. Angles are degrees, `stride_time` is seconds, lags are gait cycles."""

    stride_time: float
    hip_amplitude: float
    hip_offset: float
    knee_amplitude: float
    knee_offset: float
    ankle_amplitude: float
    ankle_offset: float
    hip_adduction: float
    toe_out: float
    pelvis_yaw: float
    pelvis_roll: float
    thorax_yaw: float
    trunk_lean: float
    stoop: float
    head_pitch: float
    sway: float
    arm_swing_right: float
    arm_swing_left: float
    arm_offset: float
    arm_abduction: float
    arm_lag: float
    elbow_flexion: float
    elbow_range: float
    left_lag: float
    # (hip, knee, ankle) x harmonics 1..3 x (cosine, sine), degrees
    curve_perturbation: tuple[float, ...]


@dataclass(frozen=True)
class Accessories:
    """Bag and coat of a walker; worn only under the covariates `bg` and `cl`."""

    bag_kind: str
    bag_side: int
    bag_size: float
    bag_height: float
    holds_strap: bool
    coat_length: float
    coat_flare: float
    coat_thickness: float
    collar: float


@dataclass(frozen=True)
class WalkerIdentity:
    """A rendered walker, fully determined by (seed, index).

    Attributes:
        seed: seed of the population the walker belongs to.
        index: number of the walker inside that population, 0 or larger.
        shape, style, accessories: what was drawn for the walker.
    """

    seed: int
    index: int
    shape: BodyShape
    style: GaitStyle
    accessories: Accessories


class _Draw:
    """Truncated normal and uniform draws; truncation keeps every body and gait plausible."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def normal(self, mean: float, sd: float, limit: float = 2.2) -> float:
        return mean + sd * float(np.clip(self._generator.standard_normal(), -limit, limit))

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._generator.random())

    def chance(self, probability: float) -> bool:
        return bool(self._generator.random() < probability)


def require_int(name: str, value: object, low: int, high: int) -> int:
    """Return `value` as an int, or raise InvalidRequestError naming the allowed range low..high."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidRequestError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        raise InvalidRequestError(f"{name} must be in {low}..{high}, got {value}")
    return int(value)


def _sample_shape(draw: _Draw) -> BodyShape:
    # One number runs from a slight, broad-hipped build (0) to a broad-shouldered one (1); a second is
    # how heavy the person is. Real proportions are correlated through these two.
    frame = draw.normal(0.8, 0.15) if draw.chance(0.6) else draw.normal(0.2, 0.15)
    heavy = draw.normal(0.0, 1.0)
    hair_length = draw.uniform(0.03, 0.16) if draw.chance(0.75 - 0.72 * min(max(frame, 0.0), 1.0)) else 0.0
    return BodyShape(
        stature_m=draw.normal(1.60 + 0.13 * frame, 0.05),
        leg_ratio=draw.normal(1.0, 0.025),
        shoulder_half=draw.normal(0.098 + 0.012 * frame, 0.004),
        shoulder_slope=draw.normal(0.021, 0.006),
        hip_joint_half=draw.normal(0.052, 0.003),
        pelvis_half=draw.normal(0.093 - 0.004 * frame + 0.009 * heavy, 0.004),
        waist_half=draw.normal(0.074 + 0.007 * frame + 0.012 * heavy, 0.004),
        chest_half=draw.normal(0.083 + 0.008 * frame + 0.007 * heavy, 0.003),
        chest_depth=draw.normal(0.059 + 0.004 * frame + 0.006 * heavy, 0.003),
        belly=max(0.0, draw.normal(0.004 + 0.012 * heavy, 0.006)),
        bust=max(0.0, draw.normal(0.016 * (1.0 - frame), 0.004)),
        buttock=max(0.0, draw.normal(0.014 - 0.003 * frame, 0.006)),
        thigh_radius=draw.normal(0.047 + 0.0035 * heavy, 0.002),
        calf_radius=draw.normal(0.033 + 0.0015 * heavy, 0.0015),
        trouser_width=draw.uniform(0.0, 0.016),
        arm_radius=draw.normal(0.0245 + 0.002 * frame + 0.0018 * heavy, 0.0012),
        neck_length=draw.normal(0.0, 0.006),
        neck_radius=draw.normal(0.027 + 0.005 * frame + 0.0015 * heavy, 0.0015),
        head_scale=draw.normal(1.0, 0.045),
        head_depth=draw.normal(0.056, 0.0025),
        hair_volume=draw.uniform(0.0, 0.018),
        hair_length=hair_length,
        ponytail=draw.uniform(0.6, 1.0) if hair_length > 0.0 and draw.chance(0.4) else 0.0,
        foot_length=draw.normal(0.152, 0.007),
        shirt_hem=draw.uniform(0.0, 0.012),
    )


def _sample_style(draw: _Draw) -> GaitStyle:
    arm_swing = draw.normal(15.5, 5.0)
    perturbation = []
    for joint_sd in (1.6, 2.0, 1.6):
        for harmonic in range(1, _CURVE_HARMONICS + 1):
            sd = joint_sd * (1.2 - 0.2 * harmonic)
            perturbation += [draw.normal(0.0, sd), draw.normal(0.0, sd)]
    return GaitStyle(
        stride_time=draw.normal(1.10, 0.09),
        hip_amplitude=draw.normal(1.0, 0.10),
        hip_offset=draw.normal(0.0, 2.2),
        knee_amplitude=draw.normal(1.0, 0.06),
        knee_offset=draw.normal(0.5, 2.4),
        ankle_amplitude=draw.normal(1.0, 0.12),
        ankle_offset=draw.normal(0.0, 1.6),
        hip_adduction=draw.normal(1.7, 1.4),
        toe_out=draw.normal(7.0, 4.5),
        pelvis_yaw=draw.normal(4.6, 1.5),
        pelvis_roll=draw.normal(3.4, 1.2),
        thorax_yaw=draw.normal(3.4, 1.2),
        trunk_lean=draw.normal(2.0, 2.7),
        stoop=draw.normal(4.0, 5.0),
        head_pitch=draw.normal(2.0, 5.0),
        sway=draw.normal(0.012, 0.004),
        arm_swing_right=max(2.0, arm_swing * draw.normal(1.0, 0.12)),
        arm_swing_left=max(2.0, arm_swing * draw.normal(1.0, 0.12)),
        arm_offset=draw.normal(-6.0, 6.5),
        arm_abduction=draw.normal(10.0, 2.7),
        arm_lag=draw.normal(0.01, 0.02),
        elbow_flexion=draw.normal(22.0, 9.0),
        elbow_range=max(0.0, draw.normal(8.0, 3.0)),
        left_lag=draw.normal(0.0, 0.008),
        curve_perturbation=tuple(perturbation),
    )


def _sample_accessories(draw: _Draw) -> Accessories:
    return Accessories(
        bag_kind=BAG_KINDS[int(draw.uniform(0.0, 3.0)) % 3],
        bag_side=1 if draw.chance(0.5) else -1,
        bag_size=draw.uniform(0.95, 1.30),
        bag_height=draw.uniform(-1.0, 1.0),
        holds_strap=draw.chance(0.35),
        coat_length=draw.uniform(0.09, 0.27),
        coat_flare=draw.uniform(0.002, 0.014),
        coat_thickness=draw.uniform(0.008, 0.013),
        collar=draw.uniform(0.0, 0.020),
    )


def sample_identity(seed: int, index: int) -> WalkerIdentity:
    """Draw walker number `index` of population `seed`.

    Args:
        seed: 0..2**63-1.
        index: 0..2**31-1. The walker depends on (seed, index) alone, never on earlier calls.

    Returns:
        The walker.

    Raises:
        InvalidRequestError: an argument is no integer or out of range.
    """
    seed = require_int("seed", seed, 0, 2**63 - 1)
    index = require_int("identity index", index, 0, 2**31 - 1)
    sequence = np.random.SeedSequence([IDENTITY_STREAM, seed, index])
    draw = _Draw(np.random.Generator(np.random.PCG64(sequence)))
    return WalkerIdentity(seed, index, _sample_shape(draw), _sample_style(draw), _sample_accessories(draw))
