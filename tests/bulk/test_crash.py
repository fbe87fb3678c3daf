"""Nothing is lost or doubled: the process or the machine may stop, and any system call may fail, at every step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import sweeps
from faulty_fs import CHANGING, LOSE, Crash, FailAt, Hooked, MemoryFileSystem
from jobs import ROOT, assert_whole, open_small, run, shards
from scenarios import BY_NAME, SCENARIOS, Scenario
from stub import StubEngine

from gaitcrafter_rt.bulk import DiskFullError
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.errors import GaitcrafterError, OutputError

ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES)


@pytest.fixture(scope="module")
def wanted() -> dict[str, bytes]:
    """What an uninterrupted run makes."""
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    assert_whole(fs, ROOT, shards(fs, ROOT))
    return shards(fs, ROOT)


def calls(names: tuple[str, ...]) -> int:
    """How many of these calls an uninterrupted run makes."""
    hook = FailAt(0, errno.EIO, calls=names)
    run(ROOT, fs=Hooked(MemoryFileSystem(), hook))
    return hook.count


def assert_no_lies(fs: MemoryFileSystem) -> None:
    """Whatever has a receipt is there, whole."""
    if fs.entry(ROOT / "plan.json") is None:
        return
    report = verify(ROOT, deep=True, fs=fs)
    assert not report.problems, report.problems


@pytest.mark.parametrize("here", SCENARIOS, ids=lambda s: s.name)
def test_power_cuts(here: Scenario) -> None:
    """At every kind of moment, with nothing of the cache written out, or some of it."""
    for number, k in enumerate(sweeps.moments(here)[::2]):
        assert sweeps.power_cut(here, k, seed=k if number % 2 else 0)
    assert not sweeps.power_cut(here, 1 << 20, 0)


@pytest.mark.parametrize("here", SCENARIOS, ids=lambda s: s.name)
def test_what_a_dead_process_left_unsynced_outlasts_the_run_that_relied_on_it(here: Scenario) -> None:
    """A process dies, the next run completes the job and returns 0, then the power fails."""
    for k in sweeps.moments(here):
        assert sweeps.crash_run_power_cut(here, k, seed=0 if k % 3 else k)


@pytest.mark.parametrize("here", SCENARIOS, ids=lambda s: s.name)
def test_what_a_slower_writer_left_unsynced_outlasts_the_run_that_relied_on_it(here: Scenario) -> None:
    """The same with two writers at once; and both of them live on, in every third case."""
    for number, k in enumerate(sweeps.moments(here)[::2]):
        assert sweeps.overtaken(here, k, seed=0 if number % 2 else k) if number % 3 else sweeps.interleaved(here, k)


def test_two_processes_die_in_one_repair() -> None:
    """What the first one moved away must not come back when the second one has gone on from there."""
    here = BY_NAME["damage to repair"]
    for k in sweeps.moments(here, after="rename"):
        for second in sweeps.moments(here)[::2]:
            assert sweeps.crash_crash_power_cut(here, k, second, 0)


class Forgetful(MemoryFileSystem):
    """Leaves one of the fsyncs out: of files, or of the folder named."""

    def __init__(self, ignored: str) -> None:
        super().__init__()
        self.ignored = ignored

    def sync_file(self, file: object) -> None:
        if self.ignored != "files":
            super().sync_file(file)

    def sync_folder(self, path: Path) -> None:
        if self.ignored != path.name:
            super().sync_folder(path)


@pytest.mark.parametrize("ignored", ["nothing", "files", "shards", "receipts", "job"])
def test_a_finished_job_survives_a_power_cut_and_needs_every_fsync_for_it(wanted: dict[str, bytes], ignored: str) -> None:
    fs = Forgetful(ignored)
    run(ROOT, fs=fs)
    before = fs.tree(Path("/"))
    fs.power_cut(LOSE)
    after = fs.tree(Path("/"))
    assert (after == before) == (ignored == "nothing")


@pytest.mark.parametrize("ignored", ["files", "shards"])
def test_the_power_cuts_notice_a_missing_fsync(ignored: str) -> None:
    """Without these there are moments when a receipt is durable and its data is not."""
    total, lies = calls(CHANGING), 0
    for k in range(total, 0, -1):
        fs = Forgetful(ignored)
        with pytest.raises(Crash):
            run(ROOT, fs=Hooked(fs, FailAt(k, Crash)))
        fs.power_cut(LOSE)
        try:
            assert_no_lies(fs)
        except (AssertionError, GaitcrafterError):
            lies += 1
            break
    assert lies


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("here", SCENARIOS, ids=lambda s: s.name)
def test_every_call_may_fail(here: Scenario, sticky: bool) -> None:
    """EIO, ENOSPC and EACCES in turn; half of them are followed by a power cut."""
    for number, k in enumerate(sweeps.moments(here)[sticky::3]):
        assert sweeps.failing(here, k, ERRORS[number % 3], sticky=sticky, cut=bool(number // 3 % 2))
    for number, k in enumerate(range(1 + sticky, 1000, 29)):
        if not sweeps.failing(here, k, ERRORS[number % 3], sticky=sticky, reading=True):
            break
    assert number > 1


def test_full_disk(fast: Path, wanted: dict[str, bytes]) -> None:
    """Room is given out a little at a time; each run says what to do, keeps what it could, and the last one completes."""
    room = 10

    def hook(name: str) -> None:
        nonlocal room
        room -= name == "write"
        if name == "write" and room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    stopped = 0
    while stopped < 100:
        try:
            run(fast, fs=Hooked(LocalFileSystem(), hook))
            break
        except DiskFullError as e:
            advised = "run the same command again" in str(e)
            stopped += 1
            room = 10 + 5 * stopped
    assert 3 < stopped < 100
    assert advised
    assert_whole(LocalFileSystem(), fast, wanted)


def test_not_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        run(tmp_path / "file" / "job")
    with pytest.raises(OutputError):
        run(tmp_path / "file")


def test_a_job_that_cannot_fit_is_refused() -> None:
    class Small(MemoryFileSystem):
        def free(self, path: Path) -> int:
            return 10

    fs = Small()
    with pytest.raises(OutputError, match="clips are missing and need at least"):
        run(ROOT, fs=fs)
    assert fs.names(ROOT) == ["plan.json"]


def test_torn_and_foreign_files_are_made_again(wanted: dict[str, bytes]) -> None:
    """A final name that holds half a file, as a naive writer leaves it, with and without a receipt."""
    for cut in (0, 1, 100, 2000):
        for with_receipt in (False, True):
            fs = MemoryFileSystem()
            run(ROOT, fs=fs)
            folder = Folder(ROOT)
            data = fs.read(folder.shard(0), 1 << 30)[:cut]
            fs.unlink(folder.shard(0))
            with fs.create(folder.shard(0)) as f:
                f.write(data)
            if not with_receipt:
                fs.unlink(folder.receipt(0))
            result = run(ROOT, fs=fs)
            assert result.made == 8
            assert any("set aside" in note for note in result.notes)
            assert shards(fs, ROOT) == wanted
            assert verify(ROOT, deep=True, fs=fs).ok
            assert len(fs.names(ROOT / "damaged")) == 1 + with_receipt


def test_lying_receipts(wanted: dict[str, bytes]) -> None:
    """A receipt without data, of another shard, of another plan, an edited one: each is noticed when the job runs again."""
    other = MemoryFileSystem()
    run(ROOT, fs=other, seed=4)
    mine = MemoryFileSystem()
    run(ROOT, fs=mine)
    receipt = mine.read(Folder(ROOT).receipt(0), 1 << 20)
    lies = {
        "no data": receipt,
        "another shard": mine.read(Folder(ROOT).receipt(1), 1 << 20),
        "another plan": other.read(Folder(ROOT).receipt(0), 1 << 20),
        "edited": receipt.replace(b'"clips": 8', b'"clips": 9'),
        "cut": receipt[:-20],
        "empty": b"",
    }
    for lie, data in lies.items():
        fs = MemoryFileSystem()
        run(ROOT, fs=fs)
        folder = Folder(ROOT)
        fs.unlink(folder.receipt(0))
        with fs.create(folder.receipt(0)) as f:
            f.write(data)
        if lie == "no data":
            fs.unlink(folder.shard(0))
        result = run(ROOT, fs=fs)
        assert len(result.notes) == 1, lie
        # The shard itself is sound in all cases but the first, so only its receipt is written again.
        assert result.made == (8 if lie == "no data" else 0), lie
        assert shards(fs, ROOT) == wanted
        assert verify(ROOT, deep=True, fs=fs).ok


def test_lost_receipts_and_blocks(wanted: dict[str, bytes]) -> None:
    """A shard without receipt is read and given one; nothing is generated."""
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    for name in fs.names(ROOT / "receipts"):
        fs.unlink(ROOT / "receipts" / name)
    engine = StubEngine()
    assert run(ROOT, engine, fs=fs).complete
    assert engine.calls == []
    assert_whole(fs, ROOT, wanted)


def test_damaged_blocks_are_made_again(wanted: dict[str, bytes]) -> None:
    for damage in (
        lambda d: d[:-1],
        lambda d: b"",
        lambda d: d[:-3] + b"abc",
        lambda d: b"x" + d[1:],
        lambda d: d.replace(b'"first": 10', b'"first": 11'),
    ):
        fs = MemoryFileSystem()
        interrupted = Hooked(fs, FailAt(1, Crash, calls=("link_receipt",)))
        job = open_small(interrupted, ROOT)
        from gaitcrafter_rt.bulk.worker import Worker

        for path in ("shards", "receipts", "wip"):
            fs.mkdir(ROOT / path)
        worker = Worker(fs, job, StubEngine())
        worker.make_block(0, 0)
        path = Folder(ROOT).block(0, 0)
        data = fs.read(path, 1 << 20)
        fs.unlink(path)
        with fs.create(path) as f:
            f.write(damage(data))
        result = run(ROOT, fs=fs)
        changed = damage(data) != data
        assert bool(result.notes) == changed
        assert_whole(fs, ROOT, wanted)
