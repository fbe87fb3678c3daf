"""What bulk jobs made, as one data set: merge job folders, pack them into a cache that loaders map, export them to other tools."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache import build_cache
    from .cached import ClipCache
    from .exporting import export
    from .merging import merge
    from .opening import open_source
    from .select import Selection
    from .source import Source

_HOMES = {
    "ClipCache": ".cached", "Selection": ".select", "Source": ".source", "build_cache": ".cache", "export": ".exporting",
    "merge": ".merging", "open_source": ".opening",
}  # fmt: skip
__all__ = ["ClipCache", "Selection", "Source", "build_cache", "export", "merge", "open_source"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
