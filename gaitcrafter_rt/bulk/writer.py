"""From the blocks of a shard to its Parquet file and its receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import quality
from .arrow import arrow
from .blocks import Block, content_digest
from .commit import Digest, HashingFile, hash_file, publish
from .conditions import Conditions
from .errors import DamagedError, NonDeterminismError, output_error
from .filesystem import FileSystem
from .format import ROW_GROUP, WRITER_OPTIONS, clip_bytes, footer, rows, schema
from .layout import Folder, Shard
from .plan import Plan
from .receipts import Failure, Receipt, commit_receipt, content_of, maker

Blocks = Callable[[int], Block]


@dataclass
class _Totals:
    row_groups: list[str]
    flags: list[np.ndarray]
    failures: list[Failure]
    seconds: float = 0.0
    retries: int = 0


def seal(fs: FileSystem, folder: Folder, plan: Plan, conditions: Conditions, shard: Shard, blocks: Blocks) -> Receipt:
    """Write a shard from its blocks, then its receipt; returns the receipt.

    ``blocks(k)`` gives block k, in any number of calls. A shard that is there already is compared: equal is fine, damaged is set
    aside and replaced, other bits raise NonDeterminismError. Raises OutputError if the disk does not take it.
    """
    totals = _Totals([], [], [])

    def write(file: HashingFile) -> None:
        nonlocal totals
        totals = _write(file, plan, conditions, shard, blocks)

    def agree(mine: Digest) -> Digest:
        from .reader import check_shard

        there = hash_file(fs, folder.shard(shard.number))
        if there.sha256 == mine.sha256:
            return there
        # Another release of pyarrow or zstd may write the same clips in other bytes.
        other = check_shard(fs, folder.shard(shard.number), plan, shard, conditions)
        if other.row_groups != totals.row_groups:
            groups = [k for k, (a, b) in enumerate(zip(other.row_groups, totals.row_groups, strict=True)) if a != b]
            raise NonDeterminismError(
                f"{folder.shard(shard.number)}: another writer made other clips in row groups {groups[:8]} "
                f"(clips {shard.first + groups[0] * ROW_GROUP} and on)"
            )
        return there

    published = publish(fs, folder.shard(shard.number), write, agree, folder.root)
    flags = np.concatenate(totals.flags)
    receipt = Receipt(
        plan_id=plan.plan_id, shard=shard.number, first=shard.first, clips=shard.clips, bytes=published.digest.size,
        sha256=published.digest.sha256, content_sha256=content_of(totals.row_groups), row_groups=totals.row_groups,
        quality=quality.count(flags), quarantined=totals.failures, made_by=maker(totals.seconds, totals.retries),
    )  # fmt: skip
    commit_receipt(fs, folder, plan, shard, receipt)
    return receipt


def adopt(fs: FileSystem, folder: Folder, plan: Plan, conditions: Conditions, shard: Shard) -> Receipt:
    """A receipt for a shard whose writer died before it wrote one. Raises DamagedError if the shard is not sound."""
    from .reader import check_shard

    path = folder.shard(shard.number)
    facts = check_shard(fs, path, plan, shard, conditions)
    digest = hash_file(fs, path)
    try:
        fs.sync_path(path)
        fs.sync_folder(path.parent)
    except OSError as e:
        raise output_error(path, e) from e
    lost = "the error went with the receipt"
    failures = [Failure(clip=k, clip_index=plan.spec.first_clip + k, error=lost) for k in facts.failed]
    receipt = Receipt(
        plan_id=plan.plan_id, shard=shard.number, first=shard.first, clips=shard.clips, bytes=digest.size, sha256=digest.sha256,
        content_sha256=content_of(facts.row_groups), row_groups=facts.row_groups, quality=facts.quality, quarantined=failures,
        made_by=maker(),
    )  # fmt: skip
    commit_receipt(fs, folder, plan, shard, receipt)
    return receipt


def _write(file: HashingFile, plan: Plan, conditions: Conditions, shard: Shard, blocks: Blocks) -> _Totals:
    totals = _Totals([], [], [])
    width = clip_bytes(plan)
    pa = arrow()
    with pa.parquet.ParquetWriter(file, schema(width), **WRITER_OPTIONS) as out:
        for group in _regroup(shard, blocks, totals, plan):
            totals.row_groups.append(content_digest(group.quality, group.packed))
            totals.flags.append(group.quality)
            out.write_table(rows(plan, conditions, group), row_group_size=ROW_GROUP)
        out.add_key_value_metadata(footer(plan, shard.number, shard.first, shard.clips, totals.row_groups))
    return totals


def _regroup(shard: Shard, blocks: Blocks, totals: _Totals, plan: Plan) -> Any:
    """Blocks of any size as row groups of 64 clips, the last one shorter."""
    held: list[Block] = []
    count = 0
    for number in range(shard.blocks):
        block = blocks(number)
        first, clips = shard.block(number)
        if (block.first, len(block)) != (first, clips):
            raise DamagedError(f"block {number} of shard {shard.number} holds other clips than it must")
        totals.seconds += block.seconds
        totals.retries += block.retries
        for clip, error in sorted(block.errors.items()):
            totals.failures.append(Failure(clip=clip, clip_index=plan.spec.first_clip + clip, error=error))
        held.append(block)
        count += clips
        while count >= ROW_GROUP or (number == shard.blocks - 1 and count):
            group, held = _take(held, min(ROW_GROUP, count))
            count -= len(group)
            yield group


def _take(held: list[Block], clips: int) -> tuple[Block, list[Block]]:
    """The first ``clips`` clips of the blocks, and what is left."""
    if len(held[0]) == clips:
        return held[0], held[1:]
    packed, flags = (np.concatenate([getattr(b, name) for b in held]) for name in ("packed", "quality"))
    first = held[0].first
    rest = Block(first + clips, packed[clips:], flags[clips:])
    return Block(first, packed[:clips], flags[:clips]), [rest] if len(rest) else []
