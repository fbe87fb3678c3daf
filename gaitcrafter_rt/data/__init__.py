"""Real data in, packed training sets out."""

from __future__ import annotations

from .packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips, PackedMeta, PackedWriter, pack, unpack

__all__ = ["SPLIT_TEST", "SPLIT_TRAIN", "PackedClips", "PackedMeta", "PackedWriter", "pack", "unpack"]
