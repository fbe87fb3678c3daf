"""The same clips whoever makes them, in whatever order, and however often."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from faulty_fs import CHANGING, Hooked, MemoryFileSystem
from jobs import ROOT, assert_whole, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.leases import Leases
from gaitcrafter_rt.bulk.schedule import Schedule
from gaitcrafter_rt.bulk.supervisor import do
from gaitcrafter_rt.bulk.worker import Worker
from gaitcrafter_rt.errors import InvalidRequestError

LOCAL = LocalFileSystem()
MANY = {"clips": 100, "shard_clips": 16, "block_clips": 4}


@pytest.fixture(scope="module")
def wanted() -> dict[str, bytes]:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs, **MANY)
    return shards(fs, ROOT)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes_makes_the_same_files(fast: Path, wanted: dict[str, bytes], workers: int) -> None:
    seen = []
    result = run(fast, workers=workers, options={"report": seen.append}, **MANY)
    assert (result.made, result.exit_code) == (100, 0)
    assert_whole(LOCAL, fast, wanted)
    assert [s.clips for s in seen] == sorted(s.clips for s in seen)
    assert (seen[-1].clips, seen[-1].shards) == (100, 7)


def test_any_order_of_tasks_makes_the_same_files(wanted: dict[str, bytes]) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        fs = MemoryFileSystem()
        job = open_small(fs, ROOT, **MANY)
        for name in ("shards", "receipts", "wip", "leases"):
            fs.mkdir(ROOT / name)
        worker = Worker(fs, job, StubEngine())
        blocks = [(s.number, b) for s in job.table for b in range(s.blocks)]
        for shard, block in rng.permutation(blocks):
            worker.make_block(int(shard), int(block))
        for shard in rng.permutation(len(job.table)):
            worker.seal(int(shard))
        assert shards(fs, ROOT) == wanted


def test_a_shard_is_a_unit_of_work_for_other_schedulers(wanted: dict[str, bytes]) -> None:
    """run_shard is what a cluster's actor calls; twice for the same shard is fine."""
    fs = MemoryFileSystem()
    job = open_small(fs, ROOT, **MANY)
    worker = Worker(fs, job, StubEngine())
    for shard in (3, 0, 3, 6, 1, 2, 4, 5):
        result = worker.run_shard(shard)
        assert result.done is not None
    assert result.clips == 16
    assert run(ROOT, fs=fs, **MANY).made == 0
    assert shards(fs, ROOT) == wanted


@pytest.mark.parametrize("writers", [2, 4])
def test_several_writers_on_one_folder(fast: Path, wanted: dict[str, bytes], writers: int) -> None:
    """They begin at the same moment, plan and all, and share the work without knowing of each other."""
    ready, go = os.pipe()
    children = []
    for rank in range(writers):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)
            result = run(fast, options={"rank": rank, "world_size": writers}, **MANY)
            os._exit(result.exit_code)
        children.append(child)
    os.close(go)
    os.close(ready)
    assert [os.waitstatus_to_exitcode(os.waitpid(c, 0)[1]) for c in children] == [0] * writers
    run(fast, **MANY)
    assert_whole(LOCAL, fast, wanted)


def test_writers_interleaved_at_every_step(wanted: dict[str, bytes]) -> None:
    """A second writer does a whole run at some call of the first one: after each of them in turn, up to a few hundred."""
    total = 0

    def count(name: str) -> None:
        nonlocal total
        total += name in CHANGING

    run(ROOT, fs=Hooked(MemoryFileSystem(), count))
    small = MemoryFileSystem()
    run(ROOT, fs=small)
    for k in range(1, total, 3):
        fs, seen = MemoryFileSystem(), 0

        def hook(name: str, fs: MemoryFileSystem = fs, k: int = k) -> None:
            nonlocal seen
            seen += name in CHANGING
            if seen == k:
                seen += 1 << 20
                run(ROOT, fs=fs)

        run(ROOT, fs=Hooked(fs, hook))
        run(ROOT, fs=fs)
        assert_whole(fs, ROOT, shards(small, ROOT))


def test_a_dead_rank_leaves_no_hole(wanted: dict[str, bytes]) -> None:
    """Rank 1 of 2 never came, or died and left its leases: rank 0 makes everything."""
    fs = MemoryFileSystem()
    assert run(ROOT, fs=fs, options={"rank": 0, "world_size": 2}, **MANY).complete
    assert_whole(fs, ROOT, wanted)

    class Fresh(MemoryFileSystem):
        def entry(self, path: Path):  # type: ignore[no-untyped-def]
            import time

            found = super().entry(path)
            return found._replace(modified=time.time()) if found else None

    fs = Fresh()
    job = open_small(fs, ROOT, **MANY)
    for name in ("shards", "receipts", "wip", "leases"):
        fs.mkdir(ROOT / name)
    for shard in (1, 3, 5):
        fs.touch(Folder(ROOT).lease(shard))
    Worker(fs, job, StubEngine()).make_block(1, 2)
    engine = StubEngine()
    result = run_job(job, engine, fs=fs, rank=0, world_size=2)
    assert (result.made, result.complete) == (96, True)
    assert_whole(fs, ROOT, wanted)


def test_ranks_begin_with_their_own_and_avoid_each_other(wanted: dict[str, bytes]) -> None:
    fs = MemoryFileSystem()
    job = open_small(fs, ROOT, **MANY)
    for name in ("shards", "receipts", "wip", "leases"):
        fs.mkdir(ROOT / name)
    order = {}
    for rank in (0, 1):
        schedule = Schedule(fs, job.folder, job.table, set(), Leases(fs, job.folder), rank, 2)
        worker = Worker(fs, job, StubEngine())
        begun = []
        for _ in range(8):
            task = schedule.next()
            assert task is not None
            begun.append(task.shard)
            schedule.completed(task, do(worker, task).done is not None)
        order[rank] = list(dict.fromkeys(begun))
    assert order == {0: [0, 2], 1: [1, 3]}
    for bad in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(InvalidRequestError, match="rank"):
            run_job(job, StubEngine(), fs=fs, rank=bad[0], world_size=bad[1])


def test_memory_stays_flat(fast: Path) -> None:
    """Five times the clips take no more memory than the first ones did."""
    import resource

    engine = StubEngine((30, 64, 64))
    run(fast / "a", engine, clips=256, shard_clips=128, block_clips=64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(fast / "b", engine, clips=1280, shard_clips=256, block_clips=64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000


def test_a_listing_that_lags_behind_costs_work_and_nothing_else(wanted: dict[str, bytes]) -> None:
    """As on NFS: a writer that sees nothing of what another one has done makes it all again, and agrees."""

    class Lagging(MemoryFileSystem):
        blind = False

        def names(self, path: Path) -> list[str]:
            return [] if self.blind and path != ROOT else super().names(path)

        def entry(self, path: Path):  # type: ignore[no-untyped-def]
            hidden = self.blind and path.name.startswith(("shard-", "block-"))
            return None if hidden else super().entry(path)

    fs = Lagging()
    run(ROOT, fs=fs, **MANY)
    fs.blind = True
    assert run(ROOT, fs=fs, **MANY).made == 100
    fs.blind = False
    run(ROOT, fs=fs, **MANY)
    assert_whole(fs, ROOT, wanted)


def test_leases_advise_and_expire(fast: Path) -> None:
    import time

    folder = Folder(fast)
    folder.leases.mkdir()
    mine, other = Leases(LOCAL, folder), Leases(LOCAL, folder)
    mine.take(3)
    assert (mine.taken(3), other.taken(3), other.taken(4)) == (False, True, False)
    for shift in (-3600, 3600):  # an old one, and one of a clock that is ahead
        os.utime(folder.lease(3), (time.time() + shift,) * 2)
        assert not other.taken(3)
    mine._renewed -= 60
    mine.renew()
    assert other.taken(3)
    mine.give_all_back()
    assert not other.taken(3)
    folder.leases.rmdir()
    mine.take(5)
    assert not other.taken(5)
