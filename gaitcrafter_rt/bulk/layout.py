"""Where things are in a job's folder, and which clips make which shard.

::

    plan.json                         what every clip is, how many, how they are cut; never changed
    extents/000002.json               more clips of the same plan (--extend); never changed
    conditions/000001.parquet         the table of conditions, if the plan has one
    shards/shard-00000012.parquet     the clips
    receipts/shard-00000012.json      shard 12 is whole and durable; its hashes
    wip/shard-00000013/block-0007     blocks of a shard that is not whole yet
    leases/shard-00000013             somebody works there; advice only
    damaged/  conflicts/              what was found broken; what two writers disagreed on

A clip has a number, 0 .. clips - 1. Its clip index, which determines its noise, is ``first_clip`` of the plan plus its number.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARD_CLIPS, BLOCK_CLIPS = 4096, 64
MAX_SHARD_CLIPS = 1 << 16
_SHARD_NAME = re.compile(r"^shard-(\d{8})(?:\.parquet|\.json)?$")


@dataclass(frozen=True)
class Folder:
    """Paths in one job's folder."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def extents(self) -> Path:
        return self.root / "extents"

    @property
    def conditions(self) -> Path:
        return self.root / "conditions"

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def receipts(self) -> Path:
        return self.root / "receipts"

    @property
    def wip(self) -> Path:
        return self.root / "wip"

    @property
    def leases(self) -> Path:
        return self.root / "leases"

    def extent(self, number: int) -> Path:
        return self.extents / f"{number:06d}.json"

    def table(self, extent: int) -> Path:
        return self.conditions / f"{extent:06d}.parquet"

    def shard(self, number: int) -> Path:
        return self.shards / f"shard-{number:08d}.parquet"

    def receipt(self, shard: int) -> Path:
        return self.receipts / f"shard-{shard:08d}.json"

    def blocks(self, shard: int) -> Path:
        return self.wip / f"shard-{shard:08d}"

    def block(self, shard: int, block: int) -> Path:
        return self.blocks(shard) / f"block-{block:04d}"

    def lease(self, shard: int) -> Path:
        return self.leases / f"shard-{shard:08d}"


def shard_number(name: str) -> int | None:
    """The number in the name of a shard, a receipt, a lease or a folder of blocks; None if it is none of them."""
    match = _SHARD_NAME.match(name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Shard:
    """Clips ``first`` .. ``first + clips - 1``, made in blocks."""

    number: int
    first: int
    clips: int
    block_clips: int

    @property
    def blocks(self) -> int:
        return -(-self.clips // self.block_clips)

    def block(self, number: int) -> tuple[int, int]:
        """(first clip, clips) of a block."""
        start = number * self.block_clips
        return self.first + start, min(self.block_clips, self.clips - start)


@dataclass(frozen=True)
class Span:
    """Clips ``first`` .. ``end - 1`` and how they are cut. Cutting never affects a clip's bits."""

    first: int
    end: int
    shard_clips: int
    block_clips: int

    @property
    def shards(self) -> int:
        return -(-(self.end - self.first) // self.shard_clips)


class ShardTable:
    """All shards of a job, numbered over its spans. Each span begins a new shard, so that growing a job changes no file."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans
        self._firsts = [0]
        for span in spans:
            self._firsts.append(self._firsts[-1] + span.shards)

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, number: int) -> Shard:
        if not 0 <= number < len(self):
            raise IndexError(f"shard {number} of {len(self)}")
        k = bisect_right(self._firsts, number) - 1
        span = self._spans[k]
        first = span.first + (number - self._firsts[k]) * span.shard_clips
        return Shard(number, first, min(span.shard_clips, span.end - first), span.block_clips)

    def __iter__(self) -> Iterator[Shard]:
        return (self[k] for k in range(len(self)))

    def of_clip(self, clip: int) -> Shard:
        """The shard that holds a clip. Raises IndexError if no shard does."""
        for k, span in enumerate(self._spans):
            if span.first <= clip < span.end:
                return self[self._firsts[k] + (clip - span.first) // span.shard_clips]
        raise IndexError(f"clip {clip} of {self._spans[-1].end if self._spans else 0}")


def default_cut(clips: int) -> tuple[int, int]:
    """(clips per shard, clips per block) for a job of that size.

    Small jobs get small pieces, so that every worker has some; large ones get 4096, which is about 9 MB, in blocks of 64.
    """
    shard = min(SHARD_CLIPS, max(64, -(-clips // (64 * 64)) * 64))
    block = 1 << max(0, min(6, (clips // 64).bit_length() - 1))
    return shard, block
