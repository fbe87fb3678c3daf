"""Loaders for torch (extra ``train``): clips by position, P x K batches, clips made inside the loader's workers, and mixtures."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import Batch
    from .clips import Clips
    from .generated import GeneratedClips
    from .mixed import MixedClips
    from .sampler import PKSampler

_HOMES = {
    "Batch": ".batch", "Clips": ".clips", "GeneratedClips": ".generated", "MixedClips": ".mixed", "PKSampler": ".sampler",
}  # fmt: skip
__all__ = ["Batch", "Clips", "GeneratedClips", "MixedClips", "PKSampler"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name], __name__), name)
    except ImportError as e:
        if e.name != "torch":
            raise
        from ..errors import MissingExtraError

        raise MissingExtraError.for_extra("train", "loaders for torch", e.name) from e
