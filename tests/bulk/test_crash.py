"""Nothing is lost or doubled: the process or the machine may stop, and any system call may fail, at every step."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from faulty_fs import CHANGING, LOSE, READING, Crash, FailAt, Hooked, MemoryFileSystem, at_random
from jobs import ROOT, assert_whole, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import DiskFullError
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.errors import GaitcrafterError, OutputError


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


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("cache", ["lost", "partly"])
def test_power_cut_at_every_call(wanted: dict[str, bytes], cache: str, part: int) -> None:
    for k in range(1 + part, calls(CHANGING) + 1, 4):
        fs = MemoryFileSystem()
        hook = FailAt(k, Crash)
        with pytest.raises(Crash):
            run(ROOT, fs=Hooked(fs, hook))
        fs.power_cut(LOSE if cache == "lost" else at_random(k))
        assert_no_lies(fs)
        run(ROOT, fs=fs)
        assert_whole(fs, ROOT, wanted)


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
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_every_call_may_fail(wanted: dict[str, bytes], error: int, sticky: bool) -> None:
    raised, often = 0, 2 if error == errno.EIO else 5
    sweep = [(k, CHANGING) for k in range(1 + sticky, calls(CHANGING) + 1, often)]
    sweep += [(k, READING) for k in range(1 + sticky, calls(READING) + 1, 4 * often)]
    for k, names in sweep:
        fs = MemoryFileSystem()
        hook, outcome = FailAt(k, error, sticky=sticky, calls=names), None
        try:
            run(ROOT, fs=Hooked(fs, hook))
        except GaitcrafterError as e:
            raised += 1
            outcome = (type(e), e.exit_code)
        assert hook.failed
        if error == errno.ENOSPC and hook.failed in CHANGING:
            assert outcome in (None, (DiskFullError, 75))
        assert_no_lies(fs)
        run(ROOT, fs=fs)
        report = verify(ROOT, deep=True, fs=fs)
        assert report.ok, report
        assert shards(fs, ROOT) == wanted
    assert raised


def test_kill_9_at_every_call(fast: Path, wanted: dict[str, bytes]) -> None:
    def killing(k: int) -> Hooked:
        count = 0

        def hook(name: str) -> None:
            nonlocal count
            count += name in CHANGING
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)

        return Hooked(LocalFileSystem(), hook)

    total = calls(CHANGING)
    for k in range(1, total + 1, 3):
        root = fast / str(k)
        child = os.fork()
        if child == 0:
            run(root, fs=killing(k))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        run(root)
        assert_whole(LocalFileSystem(), root, wanted)


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


@pytest.mark.parametrize("writers", [1, 2, 4])
def test_kill_9_at_random_moments(fast: Path, writers: int) -> None:
    """Whole runs, workers and all, killed again and again until one of them gets through."""
    many = {"clips": 60, "shard_clips": 16, "block_clips": 4}
    whole = MemoryFileSystem()
    run(ROOT, fs=whole, **many)
    engine = StubEngine(before=lambda indices: time.sleep(0.04))  # a run takes longer than the first kill waits
    rng, killed = random.Random(writers), 0
    for _ in range(12):
        children = []
        for rank in range(writers):
            child = os.fork()
            if child == 0:
                run(fast, engine, workers=rank % 2, options={"rank": rank, "world_size": writers}, **many)
                os._exit(0)
            os.setpgid(child, child)
            children.append(child)
        time.sleep(rng.uniform(0.01, 0.12))
        for child in children:
            # The supervisor alone dies in every other round; its workers must notice by themselves.
            with suppress(ProcessLookupError):
                (os.killpg if rng.random() < 0.5 else os.kill)(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert killed
    deadline = time.monotonic() + 30
    while run(fast, **many).made or any(p.name.startswith(".tmp") or p.name in ("wip", "leases") for p in fast.rglob("*")):
        # Workers whose supervisor was killed may still end their block.
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert_whole(LocalFileSystem(), fast, shards(whole, ROOT))
