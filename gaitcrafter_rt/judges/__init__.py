"""Judges: gait recognisers that say whom a clip shows (extra ``train``).

Two kinds that fail differently. ``set`` (:class:`~.networks.SetRecogniser`) looks at frames one by one and pools them as a set,
so it cannot see their order; ``temporal`` (:class:`~.networks.TemporalRecogniser`) convolves over time. The panel asks both.
``train_judge`` trains one on a packed set, ``Judge.open`` reads it back, ``protocol.rank1_table`` is the CASIA-B protocol.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .judge import Judge
    from .settings import JudgeSettings
    from .training import train_judge

__all__ = ["Judge", "JudgeSettings", "train_judge"]

_HOMES = {"Judge": ".judge", "JudgeSettings": ".settings", "train_judge": ".training"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
