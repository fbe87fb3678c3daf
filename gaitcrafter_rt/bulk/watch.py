"""A job as its folder shows it, finished or running: nothing is asked of the processes that work on it, nothing is changed.

How far it is comes from receipts and from blocks of shards that are not whole yet, when things happened from the times of those
files, who is at work from the leases. A folder that was copied without its times shows no rate; everything else holds.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataFormatError
from .commit import CONFLICTS, DAMAGED
from .errors import UNREADABLE
from .filesystem import FileSystem, LocalFileSystem
from .layout import Folder, ShardTable, shard_number
from .leases import FRESH_SECONDS
from .plan import Plan, read_extents, read_plan, shard_table
from .receipts import Failure, Receipt, read_receipt

# The present rate is that of the last ten minutes, and of ten commits at least.
_WINDOW_SECONDS, _WINDOW_COMMITS = 600.0, 10


@dataclass(frozen=True)
class Commit:
    """``clips`` clips became part of the job at ``time`` (seconds since 1970): a shard, or a block of one that is not whole."""

    time: float
    clips: int
    shard: int
    block: int | None = None


@dataclass
class JobView:
    """What ``look`` saw at ``now``.

    Attributes:
        clips: in shards that have a receipt; waiting: in blocks beside them; clips_total: of the whole job.
        commits: in order of time. working: seconds since a lease was renewed, by shard, of those that are alive.
        problems: damage and conflicts, one sentence each.
    """

    root: Path
    plan: Plan
    clips_total: int
    shards_total: int
    now: float
    created: float
    clips: int = 0
    waiting: int = 0
    shards: int = 0
    blocks: int = 0
    bytes: int = 0
    engine_seconds: float = 0.0
    retries: int = 0
    quality: Counter[str] = field(default_factory=Counter)
    hosts: Counter[str] = field(default_factory=Counter)
    quarantined: list[Failure] = field(default_factory=list)
    working: dict[int, float] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Every shard has a receipt."""
        return self.shards == self.shards_total

    @property
    def state(self) -> str:
        """complete, running (a lease is alive), or stopped."""
        return "complete" if self.complete else "running" if self.working else "stopped"

    @property
    def last(self) -> float:
        """Time of the last commit; that of the plan if there is none."""
        return self.commits[-1].time if self.commits else self.created

    @property
    def rate(self) -> float | None:
        """Clips per second, lately; of a job that is not running, at its end. None if there is too little to tell."""
        if not self.commits:
            return None
        end = self.now if self.state == "running" else self.last
        begin = min(end - _WINDOW_SECONDS, self.commits[-min(_WINDOW_COMMITS, len(self.commits))].time)
        begin = max(begin, self.created)
        clips = sum(c.clips for c in self.commits if begin < c.time <= end)
        return clips / (end - begin) if clips and end > begin else None

    @property
    def seconds_left(self) -> float | None:
        """At that rate; 0 if the job is complete, None if nobody works on it or there is no rate."""
        if self.complete:
            return 0.0
        if self.state != "running" or not self.rate:
            return None
        return (self.clips_total - self.clips - self.waiting) / self.rate

    def throughput(self, bins: int) -> list[tuple[float, float]]:
        """(begin of a bin in seconds since 1970, clips per second in it) from the plan to the last commit.

        A commit's clips were made since the one before, but not in a pause: they count over that time, four usual gaps at most.
        """
        begin, end = min([self.created, *(c.time for c in self.commits[:1])]), max(self.last, self.created)
        if not self.commits or end <= begin:
            return []
        width = (end - begin) / bins
        times = [begin, *(c.time for c in self.commits)]
        gaps = [b - a for a, b in itertools.pairwise(times)]
        longest = max(4 * statistics.median(gaps), width)
        counts = [0.0] * bins
        for commit, gap in zip(self.commits, gaps, strict=True):
            _spread(counts, (commit.time - min(gap, longest) - begin) / width, (commit.time - begin) / width, commit.clips)
        return [(begin + k * width, count / width) for k, count in enumerate(counts)]


def _spread(counts: list[float], begin: float, end: float, amount: float) -> None:
    """Add ``amount`` to the bins between two places, each its share."""
    last = len(counts) - 1
    first = max(0, min(last, int(begin)))
    if end - begin < 1e-9:
        counts[max(0, min(last, int(end)))] += amount
        return
    for k in range(first, min(last, int(end)) + 1):
        # The last bin takes what lies on its far edge.
        counts[k] += amount * max(0.0, min(end, k + 1) - max(begin, k)) / (end - begin)


def look(
    root: str | Path, *, fs: FileSystem | None = None, now: Callable[[], float] = time.time,
    progress: Callable[[int, int], object] | None = None,
) -> JobView:  # fmt: skip
    """Look at a job's folder. Raises DataFormatError if it is none, or its plan is damaged."""
    fs = fs or LocalFileSystem()
    folder = Folder(Path(root))
    plan = read_plan(fs, folder)
    if plan is None:
        raise DataFormatError(f"{root}: no plan.json there; a job's folder is made by gaitcrafter-rt generate")
    extents = read_extents(fs, folder, plan)
    table = shard_table(plan, extents)
    entry = fs.entry(folder.plan)
    view = JobView(
        folder.root, plan, extents[-1].clips if extents else plan.clips, len(table), now(), entry.modified if entry else 0.0
    )
    done = _receipts(fs, folder, table, view, progress)
    _blocks(fs, folder, table, view, done)
    _leases(fs, folder, view, done)
    for name, what in ((CONFLICTS, "two workers made different clips"), (DAMAGED, "files that were found broken")):
        if kept := fs.names(folder.root / name):
            view.problems.append(f"{name}/ holds {len(kept)} files: {what}")
    view.commits.sort(key=lambda c: (c.time, c.shard))
    return view


def _receipts(
    fs: FileSystem, folder: Folder, table: ShardTable, view: JobView, progress: Callable[[int, int], object] | None
) -> set[int]:
    done: set[int] = set()
    numbers = [n for name in fs.names(folder.receipts) if (n := shard_number(name)) is not None and n < len(table)]
    for seen, number in enumerate(numbers, 1):
        path = folder.receipt(number)
        try:
            receipt = read_receipt(fs, folder, view.plan, table[number])
            entry, shard = fs.entry(path), fs.entry(folder.shard(number))
        except FileNotFoundError:
            continue
        except (*UNREADABLE, OSError) as e:
            view.problems.append(f"{path.name}: {e}")
            continue
        if entry is None or shard is None or shard.size != receipt.bytes:
            size = "is not there" if shard is None else f"has {shard.size} bytes, its receipt says {receipt.bytes}"
            view.problems.append(f"{folder.shard(number).name} {size}")
            continue
        done.add(number)
        _count(view, receipt)
        view.commits.append(Commit(entry.modified, receipt.clips, number))
        if progress:
            progress(seen, len(numbers))
    return done


def _count(view: JobView, receipt: Receipt) -> None:
    view.shards += 1
    view.clips += receipt.clips
    view.bytes += receipt.bytes
    view.engine_seconds += receipt.made_by.seconds
    view.retries += receipt.made_by.retries
    view.quality.update(receipt.quality)
    view.hosts[receipt.made_by.host] += 1
    view.quarantined += receipt.quarantined


def _blocks(fs: FileSystem, folder: Folder, table: ShardTable, view: JobView, done: set[int]) -> None:
    for name in fs.names(folder.wip):
        number = shard_number(name)
        if number is None or number in done or number >= len(table):
            continue
        present = set(fs.names(folder.blocks(number)))
        for block in range(table[number].blocks):
            path = folder.block(number, block)
            if path.name in present and (entry := fs.entry(path)) is not None:
                clips = table[number].block(block)[1]
                view.blocks += 1
                view.waiting += clips
                view.commits.append(Commit(entry.modified, clips, number, block))


def _leases(fs: FileSystem, folder: Folder, view: JobView, done: set[int]) -> None:
    for name in fs.names(folder.leases):
        number = shard_number(name)
        if number is None or number in done or (entry := fs.entry(folder.lease(number))) is None:
            continue
        age = view.now - entry.modified
        if abs(age) < FRESH_SECONDS:
            view.working[number] = max(0.0, age)


def as_dict(view: JobView, bins: int = 60) -> dict[str, Any]:
    """For JSON; times are seconds since 1970."""
    rate, left = view.rate, view.seconds_left
    return {
        "path": str(view.root), "plan_id": view.plan.plan_id, "state": view.state, "complete": view.complete,
        "clips": view.clips, "clips_waiting": view.waiting, "clips_total": view.clips_total, "shards": view.shards,
        "shards_total": view.shards_total, "blocks_waiting": view.blocks, "bytes": view.bytes, "created": view.created,
        "last_commit": view.last, "now": view.now, "clips_per_second": None if rate is None else round(rate, 4),
        "seconds_left": None if left is None else round(left, 1), "engine_seconds": round(view.engine_seconds, 3),
        "retries": view.retries, "hosts": dict(view.hosts), "quality": dict(view.quality),
        "working": [{"shard": k, "seconds_since_renewed": round(age, 1)} for k, age in sorted(view.working.items())],
        "quarantined": len(view.quarantined),
        "failures": [{"clip": f.clip, "clip_index": f.clip_index, "error": f.error} for f in view.quarantined[:100]],
        "problems": view.problems,
        "throughput": [{"time": round(t, 1), "clips_per_second": round(r, 4)} for t, r in view.throughput(bins)],
    }  # fmt: skip
