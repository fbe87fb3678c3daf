"""What is durable when: what the sweeps of test_crash.py do not come across."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from faulty_fs import KEEP, LOSE, Crash, FailAt, Hooked, MemoryFileSystem
from jobs import ROOT, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import NonDeterminismError
from gaitcrafter_rt.bulk.blocks import write_block
from gaitcrafter_rt.bulk.durability import make_folders, settle
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.receipts import Receipt
from gaitcrafter_rt.bulk.tally import Snapshot
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.bulk.worker import Worker

FOLDER = Folder(ROOT)


def test_the_real_file_system_asks_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the simulated disk is told, the real one is told too: fsync of that very file, after its last byte has left Python."""
    asked: list[tuple[str, int]] = []
    fsync = os.fsync

    def seen(fd: int) -> None:
        asked.append((os.readlink(f"/proc/self/fd/{fd}"), os.fstat(fd).st_size if not os.path.isdir(f"/proc/self/fd/{fd}") else -1))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", seen)
    fs, path = LocalFileSystem(), tmp_path / "file"
    with fs.create(path) as file:
        file.write(b"12345")
        fs.sync_file(file)
    fs.sync_path(path)
    fs.sync_folder(tmp_path)
    assert asked == [(str(path), 5), (str(path), 5), (str(tmp_path), -1)]


def test_the_real_file_system_overwrites_nothing(tmp_path: Path) -> None:
    fs, source, target = LocalFileSystem(), tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"a")
    target.write_bytes(b"b")
    for call in (fs.link, fs.rename):
        with pytest.raises(FileExistsError):
            call(source, target)
    with pytest.raises(FileExistsError):
        fs.create(target)
    assert (source.read_bytes(), target.read_bytes()) == (b"a", b"b")
    fs.replace(source, target)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert target.read_bytes() == b"a"


def _copy_without_sync(fs: MemoryFileSystem, path: Path) -> None:
    """As a person does who takes a file from a backup."""
    data = fs.read(path, 1 << 30)
    fs.unlink(path)
    fs.sync_folder(path.parent)
    with fs.create(path) as file:
        file.write(data)


def test_a_shard_that_somebody_copied_there_is_durable_before_it_has_a_receipt() -> None:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    wanted = shards(fs, ROOT)
    for number in (0, 1):
        _copy_without_sync(fs, FOLDER.shard(number))
        fs.unlink(FOLDER.receipt(number))
    run(ROOT, fs=fs)
    fs.power_cut(LOSE)
    assert verify(ROOT, deep=True, fs=fs).ok
    assert shards(fs, ROOT) == wanted


def test_the_same_where_a_writer_meets_the_copy() -> None:
    """It finds the name taken when it has written the shard itself."""
    fs = MemoryFileSystem()
    job = open_small(fs, ROOT)
    worker = Worker(fs, job, StubEngine())
    worker.run_shard(0)
    wanted = shards(fs, ROOT)
    _copy_without_sync(fs, FOLDER.shard(0))
    fs.unlink(FOLDER.receipt(0))
    assert worker.seal(0).done is not None
    fs.power_cut(LOSE)
    assert not verify(ROOT, deep=True, fs=fs).problems
    assert shards(fs, ROOT) == wanted


class AfterFirst:
    """A hook that ends the process at the call after the first one of that name."""

    def __init__(self, name: str) -> None:
        self.name, self.met = name, False

    def __call__(self, name: str) -> None:
        if self.met:
            raise Crash
        self.met = name == self.name


def _links_a_receipt_and_dies(fs: MemoryFileSystem, shard: int) -> None:
    """A writer that ends between the link of its receipt and the fsync of the folder."""
    linked = False

    def hook(name: str) -> None:
        nonlocal linked
        if linked:
            raise Crash
        linked = name == "link" and fs.entry(FOLDER.shard(shard)) is not None

    with pytest.raises(Crash):
        Worker(Hooked(fs, hook), open_small(fs, ROOT, clips=24), StubEngine()).run_shard(shard)  # type: ignore[arg-type]
    assert fs.entry(FOLDER.receipt(shard)) is not None


def test_a_receipt_that_appears_while_a_run_is_at_work_is_durable_when_it_ends() -> None:
    """Its writer dies when the run has made its own last receipt, so that none of its commits syncs the folder again."""
    fs = MemoryFileSystem()

    def report(snapshot: Snapshot) -> None:
        if snapshot.shards == 2 and fs.entry(FOLDER.receipt(2)) is None:
            _links_a_receipt_and_dies(fs, 2)

    result = run(ROOT, fs=fs, clips=24, options={"report": report})
    assert (result.exit_code, result.made) == (0, 16)
    fs.power_cut(LOSE)
    assert verify(ROOT, deep=True, fs=fs).ok


def test_the_same_for_shards_one_by_one() -> None:
    fs = MemoryFileSystem()
    worker = Worker(fs, open_small(fs, ROOT, clips=24), StubEngine())
    worker.run_shard(0)
    _links_a_receipt_and_dies(fs, 1)
    assert worker.run_shard(1).done is not None
    fs.power_cut(LOSE)
    report = verify(ROOT, deep=True, fs=fs)
    assert (report.problems, report.missing) == ([], [2])


def test_a_receipt_that_a_dead_process_moved_away_does_not_come_back() -> None:
    """It vouches for other bytes than the shard that is made in place of the damaged one."""
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    wanted = shards(fs, ROOT)["shard-00000000.parquet"]
    receipt = Receipt.from_bytes(fs.read(FOLDER.receipt(0), 1 << 20), "receipt")
    other = receipt.model_copy(update={"sha256": "0" * 64, "bytes": receipt.bytes + 1})
    for path, data in ((FOLDER.shard(0), wanted[:-10]), (FOLDER.receipt(0), other.to_bytes())):
        fs.unlink(path)
        with fs.create(path) as file:
            file.write(data)
    fs.power_cut(KEEP)
    with pytest.raises(Crash):
        run(ROOT, fs=Hooked(fs, AfterFirst("rename")))  # type: ignore[arg-type]
    k = replaced = 0
    while True:
        k += 1
        here, hook = copy.deepcopy(fs), FailAt(k, Crash)
        with suppress(Crash):
            run(ROOT, fs=Hooked(here, hook))  # type: ignore[arg-type]
        here.power_cut(LOSE)
        if here.read(FOLDER.shard(0), 1 << 20) == wanted:
            replaced += 1
            assert not [p for p in verify(ROOT, fs=here).problems if p.shard == 0]
        if not hook.failed:
            break
    assert replaced > 5


def test_a_crash_costs_no_block_that_was_committed() -> None:
    """The power fails in the third block of a new job: two are there."""

    def third(indices) -> None:  # type: ignore[no-untyped-def]
        if 108 in indices:
            raise Crash

    fs = MemoryFileSystem()
    with pytest.raises(Crash):
        run(ROOT, StubEngine(before=third), fs=fs)
    fs.power_cut(LOSE)
    assert run(ROOT, fs=fs).made == 4


@pytest.mark.parametrize("what", ["shard", "block"])
def test_two_that_disagree_are_both_kept_for_ever(what: str) -> None:
    fs = MemoryFileSystem()
    job = open_small(fs, ROOT)
    make_folders(fs, FOLDER)
    honest, other = Worker(fs, job, StubEngine()), Worker(fs, job, StubEngine(salt=1))
    if what == "shard":
        honest.run_shard(0)
        fs.unlink(FOLDER.receipt(0))
        there = FOLDER.shard(0)
    else:
        honest.make_block(0, 0)
        there = FOLDER.block(0, 0)
    mine = fs.read(there, 1 << 20)
    if what == "shard":
        late = partial(other.seal, 0)
    else:
        late = partial(write_block, fs, there, job.plan.plan_id, other._make(0, 0), ROOT)
    with pytest.raises(NonDeterminismError):
        late()
    fs.power_cut(LOSE)
    assert fs.read(there, 1 << 20) == mine
    assert len(fs.names(ROOT / "conflicts")) == 1
    assert fs.read(ROOT / "conflicts" / fs.names(ROOT / "conflicts")[0], 1 << 20)


def test_folders_above_the_job_that_cannot_be_opened_do_not_matter() -> None:
    """The way to a job may lead through folders that we may only pass."""

    class Closed(MemoryFileSystem):
        def sync_folder(self, path: Path) -> None:
            if path == Path("/"):
                raise PermissionError(13, "Permission denied", str(path))
            super().sync_folder(path)

    fs = Closed()
    fs.mkdir(ROOT)
    settle(fs, FOLDER)
    broken = MemoryFileSystem()
    broken.mkdir(ROOT)
    broken.sync_folder = lambda path: (_ for _ in ()).throw(OSError(5, "broken"))  # type: ignore[method-assign,assignment]
    with pytest.raises(OSError, match="broken"):
        settle(broken, FOLDER)
