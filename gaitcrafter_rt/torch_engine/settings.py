"""Sampler settings of a request: the model's defaults filled in, checked as the native engine checks them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..config import AXES, ModelConfig, SamplerDefaults
from ..errors import InvalidRequestError
from ..samplers.table import Row, compile_rows

_CHOICES = {
    "kind": ("ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc"), "spacing": ("leading", "trailing", "linspace"),
    "thresholding": ("none", "clip", "dynamic"),
}  # fmt: skip
_RANGES = {
    "eta": (0.0, 1.0, "0 (deterministic) to 1 (as much noise as ddpm)"), "guidance": (0.0, 100.0, "0 to 100 (1 = no guidance)"),
    "dynamic_percentile": (0.0, 1.0, "between 0 and 1, for example 0.9"),
}  # fmt: skip


def resolve(config: ModelConfig, given: dict[str, Any]) -> dict[str, Any]:
    """All fields of ``SamplerDefaults`` and ``null_axes``. Raises InvalidRequestError for what this model does not allow."""
    merged = {**config.sampler.model_dump(), "null_axes": list(AXES)}
    if unknown := given.keys() - merged.keys():
        raise InvalidRequestError(f"a sampler has no field {sorted(unknown)[0]!r:.64}")
    kind = given.get("kind", merged["kind"])
    if kind not in (merged["kind"], "ddim"):
        merged["eta"] = 0.0  # the model's eta belongs to its own sampler; another kind may have none
    merged |= {name: _checked(name, value, config.diffusion.timesteps) for name, value in given.items()}
    compile_settings(config, merged)  # for its checks
    if merged["guidance"] != 1 and not config.conditioning.guidance_trained:
        raise InvalidRequestError(
            f"guidance is {merged['guidance']}, but this model was not trained for guidance (its null condition is untrained); "
            "use guidance 1"
        )
    return merged


def defaults_of(settings: dict[str, Any]) -> SamplerDefaults:
    """Resolved settings without their axes."""
    return SamplerDefaults.model_validate({k: v for k, v in settings.items() if k != "null_axes"})


def compile_settings(config: ModelConfig, settings: dict[str, Any]) -> list[Row]:
    """The table of resolved settings."""
    return compile_rows(defaults_of(settings), config.diffusion)


def _checked(name: str, value: Any, timesteps: int) -> Any:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise InvalidRequestError(f"sampler {name} is {value!r:.64}; allowed are {', '.join(_CHOICES[name])}")
        return value
    if name == "null_axes":
        return _axes(value)
    if name == "rederive_eps":
        if not isinstance(value, bool):
            raise InvalidRequestError(f"sampler rederive_eps has the wrong type: {value!r:.80}")
        return value
    wanted = int if name == "steps" else int | float
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise InvalidRequestError(f"sampler {name} has the wrong type or size: {value!r:.80}")
    if name == "steps":
        if not 1 <= value <= timesteps:
            raise InvalidRequestError(f"steps is {value}; this model allows 1 to {timesteps}, its training timesteps")
        return value
    low, high, meaning = _RANGES[name]
    if not low <= value <= high or (name == "dynamic_percentile" and value in (low, high)):
        raise InvalidRequestError(f"{name} is {value}; it must lie in {meaning}")
    return float(value)


def _axes(value: Sequence[str]) -> list[str]:
    if isinstance(value, str):
        raise InvalidRequestError("null_axes must be a list of axis names")
    names = list(value)
    if not names:
        raise InvalidRequestError("null_axes is empty; name at least one axis, or leave it out for all")
    for name in names:
        if name not in AXES:
            raise InvalidRequestError(f"axis is {name!r:.64}; allowed are {', '.join(AXES)}")
    return [axis for axis in AXES if axis in names]
