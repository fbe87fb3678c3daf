"""Silhouette gait clips from a trained GaitCrafter model, fast, on your machine.

    import gaitcrafter_rt as gc

    engine = gc.Engine.from_pretrained("walker")
    clips = engine.generate([gc.Condition(identity="001", view="090", covariate="nm")], seed=1)

Importing this package imports neither numpy nor torch; names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clips import ClipBatch
    from .conditions import Condition
    from .engine import Engine, Progress
    from .install import cmake_dir
    from .models import list_models

    __version__: str

_HOME = {
    "ClipBatch": "clips",
    "Condition": "conditions",
    "Engine": "engine",
    "Progress": "engine",
    "cmake_dir": "install",
    "list_models": "models",
}

__all__ = ["ClipBatch", "Condition", "Engine", "Progress", "__version__", "cmake_dir", "list_models"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .install import version

        value: Any = version()
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
