"""A merged set: shards of several jobs in one folder, and the document that lists them.

::

    dataset.json                                  every shard with its plan, clips and hashes; a checksum over itself
    shards/<plan>-<first clip>.parquet            byte for byte the shards of the jobs: each still explains itself
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ..bulk.documents import MAX_BYTES, Document
from ..bulk.errors import DamagedError
from ..bulk.filesystem import LocalFileSystem
from ..bulk.plan import Hash, _Part
from .source import ShardEntry

DOCUMENT, SHARDS = "dataset.json", "shards"


class MergedShard(_Part):
    """One file; ``content_sha256`` is the hash over clips and flags that its receipt has too."""

    file: str = Field(pattern=r"^[0-9a-f]{16}-\d{12}\.parquet$")
    plan_id: Hash
    shard: int = Field(ge=0)
    first: int = Field(ge=0)
    clips: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: Hash
    content_sha256: Hash


class MergedSource(_Part):
    """One of the folders that were merged: its name, and how much of it is here."""

    name: str
    shards: int
    clips: int
    missing: int


class Merged(Document):
    """``dataset.json``. ``dropped_clips`` counts clips that were there twice, bit for bit."""

    format: Literal["gaitcrafter-dataset"] = "gaitcrafter-dataset"
    synthetic: Literal[True] = True
    frames: int
    height: int
    width: int
    clips: int
    dropped_clips: int
    sources: list[MergedSource]
    shards: list[MergedShard] = Field(min_length=1)

    def entries(self, root: Path) -> list[ShardEntry]:
        """Where the shards lie."""
        return [
            ShardEntry(root / SHARDS / s.file, s.plan_id, s.shard, s.first, s.clips, s.bytes, s.content_sha256, s.sha256)
            for s in self.shards
        ]


def read_merged(root: Path) -> Merged:
    """Raises DamagedError, or UnsupportedVersionError for a newer format."""
    path = root / DOCUMENT
    try:
        return Merged.from_bytes(LocalFileSystem().read(path, MAX_BYTES), path)
    except OSError as e:
        raise DamagedError(f"{path}: cannot be read: {e.strerror or e}") from e


def file_name(entry: ShardEntry) -> str:
    """The name of a shard in a merged set: clips of one plan never overlap there."""
    return f"{entry.plan_id[:16]}-{entry.first:012d}.parquet"
