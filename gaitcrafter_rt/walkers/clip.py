"""One recording of a walker: the random deviations of that recording, and its silhouettes from any view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gaitcrafter_rt.data.normalise import normalise_silhouettes
from gaitcrafter_rt.errors import InvalidRequestError

from . import COVARIATES, FAMILIES
from .body import Figure
from .camera import Camera, outlines
from .covariates import dress
from .damage import damage
from .identity import WalkerIdentity, require_int
from .kinematics import GaitVariation
from .raster import fill, roughen

_GAIT_STREAM, _CAMERA_STREAM, _DAMAGE_STREAM = 0x6A, 0xCA, 0xDA
_MAX_FRAMES = 1000


@dataclass(frozen=True)
class _Capture:
    """How one camera saw one recording."""

    camera: Camera
    noise: float
    bite_rate: float


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _normal(generator: np.random.Generator, sd: float, count: int | None = None) -> np.ndarray:
    return sd * np.clip(generator.standard_normal(count), -2.2, 2.2)


def _pair(generator: np.random.Generator, mean: float, sd: float) -> tuple[float, float]:
    draws = mean + _normal(generator, sd, 2)
    return float(draws[0]), float(draws[1])


def _triple(generator: np.random.Generator, mean: float, sd: float) -> tuple[float, float, float]:
    draws = mean + _normal(generator, sd, 3)
    return float(draws[0]), float(draws[1]), float(draws[2])


def sample_variation(identity: WalkerIdentity, covariate: str, sequence: int, seed: int) -> GaitVariation:
    """Deviations of one recording; the same for all views of it, as with simultaneous cameras."""
    key = (_GAIT_STREAM, seed, identity.seed, identity.index, COVARIATES.index(covariate), sequence)
    generator = _generator(*key)
    return GaitVariation(
        start_phase=float(_normal(generator, 0.01)),
        stride_time=float(1.0 + _normal(generator, 0.015)),
        leg_amplitude=_triple(generator, 1.0, 0.035),
        leg_offset=_triple(generator, 0.0, 0.9),
        arm_swing=_pair(generator, 1.0, 0.10),
        arm_offset=_pair(generator, 0.0, 1.5),
        elbow_offset=_pair(generator, 0.0, 2.5),
        abduction_offset=_pair(generator, 0.0, 0.8),
        lean_offset=float(_normal(generator, 0.7)),
        head_offset=float(_normal(generator, 1.5)),
    )


def _sample_capture(
    identity: WalkerIdentity, view: float, covariate: str, sequence: int, seed: int, stream: int = _CAMERA_STREAM
) -> tuple[_Capture, np.random.Generator]:
    key = (
        stream,
        seed,
        identity.seed,
        identity.index,
        COVARIATES.index(covariate),
        sequence,
        round(view * 1000),
    )
    generator = _generator(*key)
    stature = identity.shape.stature_m
    camera = Camera(
        view=view + float(_normal(generator, 1.6)),
        distance=float((5.6 + _normal(generator, 0.3)) / stature),
        # The optical axis is about 1.15 m above the floor; the pelvis is at 0.53 statures.
        height=float((1.15 + _normal(generator, 0.04)) / stature - 0.53),
        pixels=float(115.0 + _normal(generator, 3.0)),
    )
    noise = float(0.11 + _normal(generator, 0.025))
    if stream == _DAMAGE_STREAM:
        return _Capture(replace(camera, recession=float(_normal(generator, 0.05))), 1.4 * noise, bite_rate=0.15), generator
    return _Capture(camera, noise, bite_rate=0.05), generator


@lru_cache(maxsize=4)
def _figure(identity: WalkerIdentity, covariate: str, sequence: int, seed: int, frames: int, family: str) -> Figure:
    return dress(identity, sample_variation(identity, covariate, sequence, seed), covariate, frames, family)


def check_request(
    view: object, covariate: object, sequence: object, seed: object, frames: object, size: object, family: object = "hulls"
) -> None:
    """Raise InvalidRequestError unless every argument of `render_clip` is allowed."""
    if isinstance(view, bool) or not isinstance(view, (int, float, np.integer, np.floating)) or not 0 <= view <= 180:
        raise InvalidRequestError(f"view must be an angle in 0..180 degrees, got {view!r}")
    if covariate not in COVARIATES:
        raise InvalidRequestError(f"covariate must be one of {', '.join(COVARIATES)}, got {covariate!r}")
    if family not in FAMILIES:
        raise InvalidRequestError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    require_int("sequence", sequence, 0, 2**31 - 1)
    require_int("seed", seed, 0, 2**63 - 1)
    require_int("frames", frames, 1, _MAX_FRAMES)
    if require_int("size", size, 16, 128) % 2:
        raise InvalidRequestError(f"size must be even, got {size}")


def render_clip(
    identity: WalkerIdentity,
    view: float,
    covariate: str,
    sequence: int,
    seed: int = 0,
    frames: int = 30,
    size: int = 64,
    grey: bool = False,
    family: str = "hulls",
) -> np.ndarray:
    """Render one clip of a walker at 25 frames per second, normalised as OpenGait does.

    The clip depends on the arguments alone. It starts near right heel strike.

    Args:
        identity: a walker from `sample_identity`.
        view: 0..180 degrees: 0 = walks towards the camera, 90 = side view walking right, 180 = walks away.
        covariate: "nm" (normal), "bg" (with a bag) or "cl" (in a coat).
        sequence: number of the recording, 0 or larger.
        seed: separates whole data sets of the same walkers, 0..2**63-1.
        frames: 1..1000.
        size: height and width, an even number 16..128.
        grey: keep the grey edges of the resize instead of thresholding at 128.
        family: "hulls", or "boxes": the same person as boxes and capsules, with a worse segmentation and a distance that drifts.

    Returns:
        uint8 [frames, size, size]; 0 or 255 unless `grey`.

    Raises:
        InvalidRequestError: an argument is not allowed.
    """
    if not isinstance(identity, WalkerIdentity):
        raise InvalidRequestError(f"identity must come from sample_identity(), got {type(identity).__name__}")
    check_request(view, covariate, sequence, seed, frames, size, family)
    stream = _DAMAGE_STREAM if family == "boxes" else _CAMERA_STREAM
    capture, generator = _sample_capture(identity, float(view), covariate, int(sequence), int(seed), stream)
    figure = _figure(identity, covariate, int(sequence), int(seed), int(frames), family)
    raw = roughen(fill(outlines(figure, capture.camera)), generator, capture.noise, capture.bite_rate)
    if family == "boxes":
        damage(raw, generator)
    _trim_tips(raw)
    clip = normalise_silhouettes(raw * np.uint8(255), int(size))
    return clip if grey else np.where(clip >= 128, np.uint8(255), np.uint8(0))


def _trim_tips(silhouettes: np.ndarray) -> None:
    """Clear top and bottom rows of under four pixels, which the resize would thin to nothing, in place."""
    for frame in silhouettes:
        wide = np.flatnonzero(frame.sum(axis=1, dtype=np.int64) >= 4)
        frame[: wide[0]] = 0
        frame[wide[-1] + 1 :] = 0
