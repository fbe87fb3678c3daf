"""The panel: did something that makes clips cheaper also make them worse? (extra ``train``)

Four columns (held-out data, teacher, fast, and the noise floor, which is the teacher with another seed), gates with margins fixed
beforehand, and broken controls that must be flagged. docs/quality.md defines every figure.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .panel import PanelClips, run_panel
    from .table import render_markdown

__all__ = ["PanelClips", "render_markdown", "run_panel"]

_HOMES = {"PanelClips": ".panel", "render_markdown": ".table", "run_panel": ".panel"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
