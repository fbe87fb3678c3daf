"""Distillation of a trained model to a few network calls, guidance baked in (extra ``train``): ``gaitcrafter-rt distill``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import run
    from .settings import DistillSettings

__all__ = ["DistillSettings", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from .loop import run

        return run
    if name == "DistillSettings":
        from .settings import DistillSettings

        return DistillSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
