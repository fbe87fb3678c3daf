"""Poison, memory, deaths: one bad clip costs one clip."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from faulty_fs import MemoryFileSystem
from jobs import ROOT, assert_whole, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import ClipDataset, NonDeterminismError, TooManyFailedError, run_job
from gaitcrafter_rt.bulk.blocks import write_block
from gaitcrafter_rt.bulk.faults import Maker
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.interrupts import Interrupt, on_signals
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.stats import stats
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.bulk.worker import Worker
from gaitcrafter_rt.bulk.writer import seal
from gaitcrafter_rt.errors import CapabilityError, OutOfMemoryError

LOCAL = LocalFileSystem()


class Clips:
    """A run function over clip numbers that counts its calls."""

    def __init__(self, fails=()) -> None:  # type: ignore[no-untyped-def]
        self.fails, self.calls = dict(fails), []

    def __call__(self, first: int, count: int) -> np.ndarray:
        self.calls.append((first, count))
        for clip in range(first, first + count):
            if self.fails.get(clip, 0) > 0:
                self.fails[clip] -= 1
                raise RuntimeError(f"clip {clip}")
        return np.arange(first, first + count, dtype=np.uint8)[:, None]


@pytest.mark.parametrize("poison", [{0}, {63}, {31, 32}, {5, 6, 40}, set(range(64))], ids=str)
def test_bisection_finds_exactly_the_poison(poison: set[int]) -> None:
    clips = Clips(dict.fromkeys(poison, 1 << 30))
    made = Maker(clips, 1).make(0, 64)
    assert set(made.errors) == poison
    assert made.packed[:, 0].tolist() == [0 if k in poison else k for k in range(64)]
    if len(poison) == 1:
        # The whole twice, two halves per level, the clip itself once more.
        assert len(clips.calls) <= 2 + 2 * 6 + 1


def test_an_error_that_passes_costs_nothing() -> None:
    clips = Clips({7: 1})
    made = Maker(clips, 1).make(0, 64)
    assert (made.errors, made.retries, clips.calls) == ({}, 1, [(0, 64), (0, 64)])
    # Three times: the whole twice and a half once; alone it works.
    assert Maker(Clips({7: 3}), 1).make(0, 64).errors == {}


def test_memory_steps_down_and_stays_there() -> None:
    calls = []

    def hungry(first: int, count: int) -> np.ndarray:
        calls.append(count)
        if count > 10:
            raise OutOfMemoryError("much")
        return np.full((count, 1), 1, np.uint8)

    maker = Maker(hungry, 1)
    assert maker.make(0, 64).packed.sum() == 64
    assert [c for c in calls if c > 10] == [64, 32, 16, 16, 32, 16, 16]
    calls.clear()
    assert maker.make(64, 64).packed.sum() == 64
    assert max(calls) == 8

    def starving(first: int, count: int) -> np.ndarray:
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="--workers"):
        Maker(starving, 1).make(0, 4)


def test_errors_that_are_not_a_clips_pass_through() -> None:
    def broken(first: int, count: int) -> np.ndarray:
        raise CapabilityError("no such thing")

    with pytest.raises(CapabilityError):
        Maker(broken, 1).make(0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_poison_is_quarantined_and_everything_else_delivered(fast: Path, workers: int) -> None:
    engine = StubEngine(poison={103, 110}, nan={105})
    result = run(fast, engine, workers=workers)
    assert result.exit_code == 3
    assert [(f.clip, f.clip_index) for f in result.quarantined] == [(3, 103), (5, 105), (10, 110)]
    assert "clip 103 is poison" in result.quarantined[0].error
    assert result.quality == {"failed": 3, "non_finite": 1}
    report = verify(fast, deep=True)
    assert report.ok
    assert report.quarantined == 3
    clean = MemoryFileSystem()
    run(ROOT, fs=clean)
    others = [n for n in range(12) if n not in (3, 5, 10)]
    with ClipDataset.open(fast) as data, ClipDataset.open(ROOT, clean) as whole:
        np.testing.assert_array_equal(data.read(others).packed, whole.read(others).packed)
    facts = stats(fast)
    assert [f["clip"] for f in facts["failures"]] == [3, 5, 10]
    # A run that has nothing to do tells it all the same.
    assert run(fast, engine, workers=workers).exit_code == 3
    # Once the cause is gone, they can be made; what comes is what a run without trouble makes.
    again = run(fast, workers=workers, options={"retry_quarantined": True})
    assert (again.exit_code, again.made) == (0, 12)
    assert_whole(LOCAL, fast, shards(clean, ROOT))


def test_too_many_failures_stop_the_job(fast: Path) -> None:
    for workers in (0, 2):
        with pytest.raises(TooManyFailedError, match="--max-failed 2"):
            run(fast / str(workers), StubEngine(poison=range(100, 110)), workers=workers, options={"max_failed": 2})
        assert run(fast / str(workers), workers=workers).clips == 12


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT], ids=lambda s: s.name)
def test_a_clip_that_kills_its_process(fast: Path, number: signal.Signals) -> None:
    result = run(fast, StubEngine(deadly={106}, signal_number=number), workers=2, clips=32, shard_clips=16, block_clips=16)
    assert result.exit_code == 3
    assert [f.clip for f in result.quarantined] == [6]
    assert "the process died" in result.quarantined[0].error
    assert verify(fast, deep=True).ok


def test_a_worker_that_is_killed_once_is_replaced(fast: Path) -> None:
    """As by a hand, or by the kernel when memory was short for a moment."""
    marker = fast / "killed"

    def once(indices) -> None:  # type: ignore[no-untyped-def]
        if 105 in indices and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    result = run(fast / "job", StubEngine(before=once), workers=2)
    assert (result.exit_code, result.notes) == (0, [])
    whole = MemoryFileSystem()
    run(ROOT, fs=whole)
    assert_whole(LOCAL, fast / "job", shards(whole, ROOT))


def test_workers_that_are_killed_again_and_again_are_short_of_memory(fast: Path) -> None:
    engine = StubEngine(deadly={106}, signal_number=signal.SIGKILL)
    with pytest.raises(OutOfMemoryError, match="killed"):
        run(fast, engine, workers=2)
    assert run(fast, workers=1).exit_code == 0


def test_memory_shortage_goes_on_with_fewer_workers(fast: Path) -> None:
    """A worker for whom not one clip fits gives up; the last one ends the job with advice."""
    flag = fast / "first"

    def short(indices) -> None:  # type: ignore[no-untyped-def]
        try:
            flag.touch(exist_ok=False)
            flag.write_text(str(os.getpid()))
        except FileExistsError:
            pass
        if flag.read_text() == str(os.getpid()):
            raise OutOfMemoryError("nothing left")

    result = run(fast / "job", StubEngine(before=short), workers=2)
    assert result.exit_code == 0
    assert any("going on with 1 workers" in note for note in result.notes)
    with pytest.raises(OutOfMemoryError, match="--workers"):
        run(fast / "other", StubEngine(most=0), workers=1)


@pytest.mark.parametrize("what", ["shard", "block"])
def test_a_broken_promise_is_loud_and_loses_nothing(fast: Path, what: str) -> None:
    """Two workers whose engines differ, the second one too late to see that the first was there: both files are kept."""
    job = open_small(LOCAL, fast)
    folder = Folder(fast)
    honest, other = Worker(LOCAL, job, StubEngine()), Worker(LOCAL, job, StubEngine(salt=1))
    if what == "shard":
        run_job(job, StubEngine(), fs=LOCAL)
        there = folder.shard(0)
        late = partial(seal, LOCAL, folder, job.plan, job.conditions, job.table[0], partial(other._make, 0))
    else:
        honest.make_block(0, 0)
        there = folder.block(0, 0)
        late = partial(write_block, LOCAL, there, job.plan.plan_id, other._make(0, 0), fast)
    mine = there.read_bytes()
    with pytest.raises(NonDeterminismError, match="both are kept") as caught:
        late()
    assert caught.value.exit_code == 70
    assert there.read_bytes() == mine
    assert len(list((fast / "conflicts").iterdir())) == 1
    assert "other bits for the same clips" in verify(fast).problems[0].text


class Slow(StubEngine):
    """Takes its time over every clip and listens meanwhile, as the real engine does."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def generate(self, conditions, seed=0, *, progress=None, **settings):  # type: ignore[no-untyped-def]
        from gaitcrafter_rt.engine import Progress
        from gaitcrafter_rt.errors import CancelledError

        steps = max(1, int(self.seconds / 0.01))
        for k in range(steps + 1):
            if progress and progress(Progress(k, steps, 0, 1)) is False:
                raise CancelledError("cancelled")
            time.sleep(0.01 * (k < steps))
        return super().generate(conditions, seed, **settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stop_finishes_what_can_be_finished(fast: Path, workers: int) -> None:
    """Grace is longer than a block takes: it is committed, the next ones are not begun."""
    interrupt = Interrupt()
    timer = threading.Timer(0.1, interrupt.request)
    job = open_small(LOCAL, fast)
    timer.start()
    result = run_job(job, Slow(0.2), fs=LOCAL, workers=workers, interrupt=interrupt, grace=10)
    assert (result.exit_code, result.interrupted, result.made) == (75, "request", 4)
    assert len(list((fast / "wip").rglob("block-*"))) == 1
    resumed = run(fast)
    assert (resumed.made, resumed.exit_code) == (8, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stop_drops_what_cannot_be_finished(fast: Path, workers: int) -> None:
    interrupt = Interrupt()
    job = open_small(LOCAL, fast)
    began = time.monotonic()
    threading.Timer(0.1, interrupt.request).start()
    result = run_job(job, Slow(60), fs=LOCAL, workers=workers, interrupt=interrupt, grace=1)
    assert (result.exit_code, result.made) == (75, 0)
    assert time.monotonic() - began < 10
    assert not [p for p in fast.rglob("*") if p.name.startswith(".tmp")]


def test_a_second_request_stops_at_once(fast: Path) -> None:
    class Deaf(Slow):
        def generate(self, *args, progress=None, **settings):  # type: ignore[no-untyped-def]
            time.sleep(60)

    interrupt = Interrupt()
    for delay in (0.1, 0.2):
        threading.Timer(delay, interrupt.request).start()
    began = time.monotonic()
    result = run_job(open_small(LOCAL, fast), Deaf(0), fs=LOCAL, workers=2, interrupt=interrupt, grace=60)
    assert result.exit_code == 75
    assert time.monotonic() - began < 10


def test_signals_are_heard_and_given_back() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with on_signals() as interrupt:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert (interrupt.count, interrupt.name) == (2, "SIGUSR1")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_workers_do_not_outlive_their_supervisor(fast: Path) -> None:
    child = os.fork()
    if child == 0:
        run(fast / "job", Slow(60), workers=2)
        os._exit(0)

    def workers() -> list[str]:
        return Path(f"/proc/{child}/task/{child}/children").read_text().split()

    deadline = time.monotonic() + 20
    while len(workers()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    pids = workers()
    assert len(pids) == 2
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while any(Path(f"/proc/{p}").exists() and "Z" not in Path(f"/proc/{p}/stat").read_text().split()[2] for p in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_that_lost_its_supervisor_quarantines_nothing(fast: Path) -> None:
    """The supervisor is killed while a task is on its way: the worker ends and blames no clip for it."""
    from gaitcrafter_rt.bulk.schedule import Task
    from gaitcrafter_rt.bulk.supervisor import _child

    job = open_small(LOCAL, fast)
    ours, theirs = multiprocessing.Pipe()
    ours.send(("task", (Task("block", 0, 0), None)))
    child = os.fork()
    if child == 0:
        _child(theirs, [ours], lambda announce, stop: Worker(LOCAL, job, StubEngine(), announce=announce, stop=stop))
        os._exit(0)
    ours.close()
    theirs.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 1)
    assert not list(fast.rglob("block-*"))
    result = run(fast)
    assert (result.exit_code, result.made) == (0, 12)
