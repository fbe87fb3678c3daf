"""Real data in, packed training sets out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import BuildReport, build_packed
    from .mapping import Mapping
    from .normalise import normalise_silhouettes
    from .packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips, PackedMeta, PackedWriter, pack, unpack
    from .pickles import read_pickle
    from .scanning import ScanReport, scan
    from .windows import window_starts

_HOMES = {
    "BuildReport": ".build", "build_packed": ".build", "Mapping": ".mapping", "normalise_silhouettes": ".normalise",
    "SPLIT_TEST": ".packed", "SPLIT_TRAIN": ".packed", "PackedClips": ".packed", "PackedMeta": ".packed", "PackedWriter": ".packed",
    "pack": ".packed", "unpack": ".packed", "read_pickle": ".pickles", "ScanReport": ".scanning", "scan": ".scanning",
    "window_starts": ".windows",
}  # fmt: skip
__all__ = [
    "SPLIT_TEST", "SPLIT_TRAIN", "BuildReport", "Mapping", "PackedClips", "PackedMeta", "PackedWriter", "ScanReport",
    "build_packed", "normalise_silhouettes", "pack", "read_pickle", "scan", "unpack", "window_starts",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
