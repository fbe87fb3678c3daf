"""Training from scratch (extra ``train``): ``run(TrainSettings(...))`` is what ``gaitcrafter-rt train`` calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import run
    from .settings import TrainSettings

__all__ = ["TrainSettings", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from .loop import run

        return run
    if name == "TrainSettings":
        from .settings import TrainSettings

        return TrainSettings
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
