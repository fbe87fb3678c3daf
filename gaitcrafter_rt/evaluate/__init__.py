"""The numbers of a model card (extra ``train``): how well generated clips show what was asked for.

``run`` generates every (identity, view, covariate) cell and measures it; ``evaluate_model`` measures clips that exist;
``render_markdown`` makes the table. docs/evaluation.md says how every figure is defined.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .markdown import render_markdown, write_card
    from .model_run import run
    from .report import evaluate_model

__all__ = ["evaluate_model", "render_markdown", "run", "write_card"]

_HOMES = {"evaluate_model": ".report", "render_markdown": ".markdown", "run": ".model_run", "write_card": ".markdown"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
