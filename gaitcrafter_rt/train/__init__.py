"""Training from scratch (extra ``train``): ``run(TrainSettings(...))`` is what ``gaitcrafter-rt train`` calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import forecast, run
    from .settings import TrainSettings

__all__ = ["TrainSettings", "forecast", "run"]


def __getattr__(name: str) -> Any:
    if name in ("forecast", "run"):
        from . import loop

        return getattr(loop, name)
    if name == "TrainSettings":
        from .settings import TrainSettings

        return TrainSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
