"""Rendered walking people: a population of walkers with body shapes, gait styles, bags and coats.

They stand in for a captured data set. A rendered walker is never a real person.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clip import render_clip
    from .dataset import render_dataset
    from .identity import WalkerIdentity, sample_identity
    from .training_set import render_training_set

__all__ = [
    "COVARIATES",
    "FAMILIES",
    "RENDERER_VERSION",
    "VIEWS",
    "WalkerIdentity",
    "render_clip",
    "render_dataset",
    "render_training_set",
    "sample_identity",
]

# Goes into data cards; any change of the rendered bits raises it.
RENDERER_VERSION = 2
VIEWS = tuple(range(0, 181, 18))
COVARIATES = ("nm", "bg", "cl")
# The same people, drawn twice: anatomical hulls, or boxes seen by a worse camera (boxes.py, damage.py).
FAMILIES = ("hulls", "boxes")

_HOMES = {
    "WalkerIdentity": ".identity",
    "render_clip": ".clip",
    "render_dataset": ".dataset",
    "render_training_set": ".training_set",
    "sample_identity": ".identity",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
