"""A fleet of machines on one folder, simulated: the real planner, schedule, leases, workers, commits and receipts (``run_job`` as
it is) over a file system in memory and a clock that only this module moves.

    python tests/bulk/fleet.py                                    # 1,000 workers, 2,000 shards; a few minutes
    python tests/bulk/fleet.py --workers 100 --shards 300 --seed 5

Workers die at any call, some for good; others freeze for half an hour in the middle of a commit and go on as if nothing had
happened; some are ten times slower; clocks are off by minutes; system calls fail. In the end every clip must be there once, every
file equal to that of one undisturbed worker, and nothing may be left over. The same seed gives the same history.

Each worker is a thread, of which one runs at a time: whoever waits (for the engine, for a call of the file system) hands over to
the one whose moment comes next.
"""

from __future__ import annotations

import argparse
import errno
import heapq
import itertools
import json
import random
import sys
import threading
import time as real_time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from faulty_fs import CHANGING, READING, Crash, MemoryFileSystem
from jobs import GRID, ROOT, assert_whole, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import Request, commit, leases, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import Entry
from gaitcrafter_rt.bulk.interrupts import Interrupt
from gaitcrafter_rt.bulk.receipts import Receipt
from gaitcrafter_rt.engine import Progress
from gaitcrafter_rt.errors import OutputError

SHAPE = (2, 8, 8)
SHARD_CLIPS, BLOCK_CLIPS = 16, 4
EPOCH = 1.7e9


@dataclass(frozen=True)
class World:
    """How bad it is. Times in seconds.

    Attributes:
        clip_seconds: of a usual worker. hours_between_failures: of one worker, mean. lost: share of deaths without a return.
        slow, slowness: share of workers that are so many times slower. freezes: chance per block, and per changing call, of
        standing still for ``freeze_seconds``. skewed: share of clocks that are off by up to ``skew_seconds``.
        call_errors: chance of EIO per changing call. yields: chance that others act between two calls.
    """

    workers: int = 1000
    shards: int = 2000
    seed: int = 1
    clip_seconds: float = 60.0
    hours_between_failures: float = 2.0
    lost: float = 0.2
    slow: float = 0.05
    slowness: float = 10.0
    freezes: float = 0.005
    freezes_in_commits: float = 0.0005
    freeze_seconds: float = 1800.0
    skewed: float = 0.05
    skew_seconds: float = 600.0
    call_errors: float = 0.0003
    yields: float = 0.05
    poison: tuple[int, ...] = (105, 333, 334, 1234)


@dataclass
class Node:
    """One worker's machine."""

    rank: int
    slowness: float
    skew: float
    death: float = float("inf")
    lives: int = 0
    baton: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class FleetFileSystem(MemoryFileSystem):
    """The folder that all see. Its server's clock is the fleet's."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__()
        self._fleet, self._times = fleet, {}
        self._times: dict[str, float]

    def entry(self, path: Path) -> Entry | None:
        found = super().entry(path)
        return found and found._replace(modified=self._times.get(str(path), 0.0))

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        if target.parent.name == "receipts":
            self._fleet.last_receipt = self._fleet.now

    def touch(self, path: Path) -> None:
        super().touch(path)
        self._times[str(path)] = self._fleet.now + EPOCH

    def create(self, path: Path) -> Any:
        file = super().create(path)
        write = file.write

        def hooked(data: Any) -> int:
            self._fleet.step("write")
            return write(data)

        file.write = hooked  # type: ignore[method-assign]
        return file


def _hook(name: str) -> Callable[..., Any]:
    call = getattr(FleetFileSystem, name)

    def hooked(self: FleetFileSystem, *args: Any) -> Any:
        self._fleet.step(name)
        return call(self, *args)

    return hooked


for _name in (*CHANGING, *READING, "touch"):
    if _name != "write":
        setattr(FleetFileSystem, _name, _hook(_name))


class Fleet:
    """Runs a world. ``now`` are simulated seconds."""

    def __init__(self, world: World) -> None:
        self.world, self.now = world, 0.0
        self.calls: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.clips_made, self.last_receipt = 0, 0.0
        self.finished: list[float] = []
        self._random = random.Random(world.seed)
        self._current: Node | None = None
        self._due: list[tuple[float, int, Node]] = []
        self._order = itertools.count()
        self._main = threading.Semaphore(0)
        self._trouble: BaseException | None = None
        self._interrupt = Interrupt()
        self.fs = FleetFileSystem(self)
        self.engine = _Engine(self)
        self.job = open_or_create(self.fs, ROOT, self.request(), self.engine)

    def request(self) -> Request:
        return Request(GRID, self.world.shards * SHARD_CLIPS - 3, 3, 100, shard_clips=SHARD_CLIPS, block_clips=BLOCK_CLIPS)

    # The clock: what workers see, and how it moves.

    def time(self) -> float:
        """As ``time.time`` on the machine of whoever asks."""
        return self.now + EPOCH + (self._current.skew if self._current else 0.0)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let others act; raises Crash if this worker's machine dies meanwhile."""
        node = self._current
        if node is None:
            return
        heapq.heappush(self._due, (min(self.now + seconds, max(node.death, self.now)), next(self._order), node))
        self._hand_over()
        node.baton.acquire()
        if self.now >= node.death:
            raise Crash

    def _hand_over(self) -> None:
        if not self._due or self._trouble is not None:
            self._main.release()
            return
        self.now, _, node = heapq.heappop(self._due)
        self._current = node
        node.baton.release()

    def step(self, name: str) -> None:
        """Before every call of the file system."""
        node = self._current
        if node is None:
            return
        if self.now >= node.death:
            raise Crash
        self.calls[name] += 1
        if name not in CHANGING:
            return
        chance, world = self._random.random(), self.world
        if chance < world.call_errors:
            self.events["calls that failed"] += 1
            raise OSError(errno.EIO, "simulated", name)
        if chance < world.call_errors + world.freezes_in_commits:
            self.events["freezes in commits"] += 1
            self.sleep(world.freeze_seconds)
        elif chance < world.yields:
            self.sleep(self._random.uniform(0.0, 2.0))

    # The workers.

    def run(self) -> None:
        """Until every worker is done or gone. Raises what a worker raised that is no simulated fault."""
        world, stack = self.world, threading.stack_size(1 << 20)
        for rank in range(world.workers):
            slow = self._random.random() < world.slow
            skew = self._random.uniform(-1, 1) * world.skew_seconds if self._random.random() < world.skewed else 0.0
            node = Node(rank, self._random.uniform(0.8, 1.25) * (world.slowness if slow else 1.0), skew)
            heapq.heappush(self._due, (self._random.uniform(0, 60.0), next(self._order), node))
            threading.Thread(target=self._live, args=(node,), daemon=True).start()
        with _patched(self):
            self._hand_over()
            self._main.acquire()
        threading.stack_size(stack)
        self._current = None
        if self._trouble is not None:
            raise self._trouble

    def _live(self, node: Node) -> None:
        node.baton.acquire()
        try:
            while self._life(node):
                pass
        except BaseException as e:
            self._trouble = e
        self._hand_over()

    def _life(self, node: Node) -> bool:
        """One process from its start to its end; False if none follows."""
        world = self.world
        node.lives += 1
        node.death = self.now + self._random.expovariate(1.0 / (world.hours_between_failures * 3600))
        try:
            result = run_job(
                self.job, self.engine, fs=self.fs, rank=node.rank, world_size=world.workers, interrupt=self._interrupt,
                max_failed=1 << 30,
            )  # fmt: skip
            assert result.complete, "a run ended without an error and without all receipts"
            self.finished.append(self.now)
            return False
        except Crash:
            self.events["deaths"] += 1
            if self._random.random() < world.lost:
                self.events["workers lost for good"] += 1
                return False
        except OutputError:
            self.events["runs that ended with an error of the disk"] += 1
        # The scheduler starts it again, a while later.
        node.death = float("inf")
        self.sleep(self._random.uniform(60, 600))
        return True

    def check(self) -> None:
        """Nothing lost, nothing doubled, nothing left over, every file as one undisturbed worker writes it."""
        run_job(self.job, self.engine, fs=self.fs, interrupt=self._interrupt, max_failed=1 << 30)
        alone = MemoryFileSystem()
        engine = StubEngine(SHAPE, poison=self.world.poison)
        job = open_or_create(alone, ROOT, self.request(), engine)
        run_job(job, engine, fs=alone, interrupt=self._interrupt, max_failed=1 << 30)
        assert_whole(self.fs, ROOT, shards(alone, ROOT))

    def facts(self) -> dict[str, Any]:
        """What happened, for people; equal for equal seeds."""
        world, clips = self.world, self.job.clips
        busy = clips * world.clip_seconds / world.workers
        return {
            "workers": world.workers, "shards": len(self.job.table), "clips": clips, "seed": world.seed,
            "hours": round(self.last_receipt / 3600, 3), "hours_undisturbed": round(busy / 3600, 3),
            "clips_made_twice": self.clips_made - clips,
            "share_made_twice": round((self.clips_made - clips) / clips, 4),
            "workers_that_finished": len(self.finished), **dict(sorted(self.events.items())),
            "calls": dict(sorted(self.calls.items())),
        }  # fmt: skip

    def freeze_now(self) -> bool:
        """Whether this block's worker stands still for a while."""
        if self._random.random() >= self.world.freezes:
            return False
        self.events["freezes in the engine"] += 1
        return True

    @property
    def slowness(self) -> float:
        return self._current.slowness if self._current else 0.0


class _Engine(StubEngine):
    """Takes simulated time over every clip and tells its progress, as the real one does."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(SHAPE, poison=fleet.world.poison)
        self._fleet = fleet

    def generate(self, conditions: Any, seed: int = 0, *, clip_indices: np.ndarray, progress: Any = None, **settings: Any) -> Any:
        fleet, count = self._fleet, len(clip_indices)
        if fleet.freeze_now():
            fleet.sleep(fleet.world.freeze_seconds)
        seconds = count * fleet.world.clip_seconds * fleet.slowness
        ticks = max(1, round(seconds / 10.0))
        for k in range(ticks):
            fleet.sleep(seconds / ticks)
            if progress:
                progress(Progress(k, ticks, 0, count))
        clips = super().generate(conditions, seed, clip_indices=clip_indices, **settings)
        fleet.clips_made += count
        return clips


@contextmanager
def _patched(fleet: Fleet) -> Iterator[None]:
    """Leases ask the simulated clock, and names of temporary files come from the seed, since a folder is read in their order.
    Receipts are read millions of times: each text is parsed once, by the real code."""
    names, drawn = commit.secrets, random.Random(fleet.world.seed)
    commit.secrets = SimpleNamespace(token_hex=lambda size: drawn.randbytes(size).hex())  # type: ignore[assignment]
    clock, parse = leases.time, Receipt.from_bytes.__func__  # type: ignore[attr-defined]
    leases.time = fleet  # type: ignore[assignment]
    cached = lru_cache(maxsize=1 << 16)(lambda data, source: parse(Receipt, data, source))
    Receipt.from_bytes = classmethod(lambda cls, data, source: cached(data, source))  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        commit.secrets = names
        leases.time = clock
        Receipt.from_bytes = classmethod(parse)  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("workers", "shards", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(World, name))
    given = parser.parse_args()
    began, cpu = real_time.perf_counter(), real_time.process_time()
    fleet = Fleet(World(**vars(given)))
    fleet.run()
    fleet.check()
    print(json.dumps(fleet.facts(), indent=1))
    print(
        f"nothing lost, nothing doubled, nothing left over ({real_time.perf_counter() - began:.0f} s, "
        f"{real_time.process_time() - cpu:.0f} s of CPU)",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
