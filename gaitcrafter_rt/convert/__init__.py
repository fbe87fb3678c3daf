"""Checkpoints of the base network (video-diffusion-pytorch) to model packages (extra ``train``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .convert import convert_checkpoint

__all__ = ["convert_checkpoint"]


def __getattr__(name: str) -> Any:
    if name != "convert_checkpoint":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(".convert", __name__).convert_checkpoint
