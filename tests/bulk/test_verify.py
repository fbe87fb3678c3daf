"""Verification finds every flip, cut, swap and hole, and says which."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_fs import MemoryFileSystem
from jobs import ROOT, open_small, run
from stub import StubEngine

from gaitcrafter_rt.bulk import DamagedError, ShardFile
from gaitcrafter_rt.bulk.documents import unseal
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.receipts import read_receipt
from gaitcrafter_rt.bulk.stats import stats
from gaitcrafter_rt.bulk.verify import Report, compare, set_aside_damaged, verify
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, UnsupportedVersionError

FOLDER = Folder(ROOT)


def made(**changes: object) -> MemoryFileSystem:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs, **changes)
    return fs


def put(fs: MemoryFileSystem, path: Path, data: bytes) -> None:
    fs.unlink(path)
    with fs.create(path) as f:
        f.write(data)


def get(fs: MemoryFileSystem, path: Path) -> bytes:
    return fs.read(path, 1 << 30)


def flip(data: bytes, bit: int) -> bytes:
    out = bytearray(data)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def test_every_byte_of_a_shard() -> None:
    fs = made(clips=8)
    job = open_small(fs, ROOT, clips=8)
    receipt = read_receipt(fs, job.folder, job.plan, job.table[0])
    data = get(fs, FOLDER.shard(0))
    rng = random.Random(0)
    for byte in range(len(data)):
        put(fs, FOLDER.shard(0), flip(data, byte * 8 + rng.randrange(8)))
        with pytest.raises(DamagedError, match="shard-00000000"):
            compare(fs, job, job.table[0], receipt, deep=False)
        if byte % 100 == 0:
            assert [p.shard for p in verify(ROOT, fs=fs).problems] == [0]
    for cut in range(0, len(data), 97):
        put(fs, FOLDER.shard(0), data[:cut])
        assert not verify(ROOT, fs=fs).ok
    put(fs, FOLDER.shard(0), data + b"\0")
    assert not verify(ROOT, fs=fs).ok


def content(path: Path) -> list:
    with ShardFile(path) as file:
        return [file.table(k).to_pydict() for k in range(file.row_groups)]


def test_a_flip_in_a_lone_shard_is_found_or_harms_nothing(fast: Path) -> None:
    """Without a receipt, by checksums and hashes inside the file alone; what they do not cover changes no clip and no label."""
    run(fast / "job", clips=8)
    path = fast / "job" / "shards" / "shard-00000000.parquet"
    data, whole = path.read_bytes(), content(path)
    assert verify(path).ok
    rng, found = random.Random(1), 0
    target = fast / "flipped"
    sample = range(rng.randrange(11), len(data), 11)
    for byte in sample:
        target.write_bytes(flip(data, byte * 8 + rng.randrange(8)))
        report = verify(target)
        found += not report.ok
        if report.ok:
            assert content(target) == whole
    assert found > 0.5 * len(sample)
    for cut in range(0, len(data), 211):
        target.write_bytes(data[:cut])
        assert not verify(target).ok


def test_every_byte_of_the_documents() -> None:
    fs = made(clips=8)
    for path in (FOLDER.receipt(0), FOLDER.plan):
        data = get(fs, path)
        for byte in range(len(data)):
            bit = byte * 8 + byte % 8
            with pytest.raises(DamagedError):
                unseal(flip(data, bit), "x")
        put(fs, path, flip(data, 1000))
        report = verify(ROOT, fs=fs)
        assert len(report.problems) == 1
        assert path.name in report.problems[0].text
        put(fs, path, data)


def _swap(fs: MemoryFileSystem) -> None:
    first, second = get(fs, FOLDER.shard(0)), get(fs, FOLDER.shard(1))
    put(fs, FOLDER.shard(0), second)
    put(fs, FOLDER.shard(1), first)


def _swap_with_receipts(fs: MemoryFileSystem) -> None:
    _swap(fs)
    first, second = get(fs, FOLDER.receipt(0)), get(fs, FOLDER.receipt(1))
    put(fs, FOLDER.receipt(0), second)
    put(fs, FOLDER.receipt(1), first)


def _of_another_plan(fs: MemoryFileSystem) -> None:
    other = made(seed=4, clips=40)
    put(fs, FOLDER.shard(1), get(other, FOLDER.shard(1)))
    put(fs, FOLDER.receipt(1), get(other, FOLDER.receipt(1)))


DAMAGE: dict[str, tuple[Callable[[MemoryFileSystem], object], list[int], str]] = {
    "swapped shards": (_swap, [0, 1], "cut, changed or swapped"),
    "swapped with their receipts": (_swap_with_receipts, [0, 1], "speaks of shard 1"),
    "of another plan": (_of_another_plan, [1], "expected shard 1"),
    "copied over another": (lambda fs: put(fs, FOLDER.shard(2), get(fs, FOLDER.shard(1))), [2], "cut, changed or swapped"),
    "empty": (lambda fs: put(fs, FOLDER.shard(1), b""), [1], "0 bytes"),
    "gone": (lambda fs: fs.unlink(FOLDER.shard(1)), [1], "cannot be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_repaired(damage: str) -> None:
    fs = made(clips=40)
    before = fs.tree(ROOT)
    change, shards, text = DAMAGE[damage]
    change(fs)
    report = verify(ROOT, fs=fs)
    assert sorted({p.shard for p in report.problems}) == shards
    assert all(text in p.text or "speaks of" in p.text for p in report.problems), report.problems
    assert report.exit_code == 4
    set_aside_damaged(report, fs)
    assert verify(ROOT, fs=fs).missing == shards
    assert run(ROOT, fs=fs, clips=40).made == 8 * len(shards)
    assert {k: v for k, v in fs.tree(ROOT).items() if k.startswith("shards")} == {
        k: v for k, v in before.items() if k.startswith("shards")
    }


def test_missing_shards_are_named() -> None:
    fs = made(clips=40)
    fs.unlink(FOLDER.receipt(2))
    fs.unlink(FOLDER.shard(2))
    report = verify(ROOT, fs=fs)
    assert (report.missing, report.problems, report.ok, report.clips) == ([2], [], False, 32)


def test_strangers_and_leftovers_are_told_apart() -> None:
    fs = made()
    for name in ("shards/notes.txt", "shards/shard-00000099.parquet", "receipts/shard-00000001", "mine"):
        put(fs, ROOT / name, b"x")
    put(fs, ROOT / "shards" / ".tmp-01234567-12-34-0123456789ab", b"x")
    report = verify(ROOT, fs=fs)
    assert sorted(Path(p.path).name for p in report.problems) == ["mine", "notes.txt", "shard-00000001", "shard-00000099.parquet"]
    assert len(report.notes) == 1
    assert "left by a writer" in report.notes[0]


def test_deep_compares_what_a_receipt_cannot_know() -> None:
    """Hashes fit each other, but the clips are not the plan's: only decoding notices (all of it written by a liar)."""
    import gaitcrafter_rt.bulk.writer as writer

    fs = MemoryFileSystem()
    job = open_small(fs, ROOT)
    from gaitcrafter_rt.bulk import Grid
    from gaitcrafter_rt.bulk.worker import Worker

    worker = Worker(fs, job, StubEngine())
    for block in (0, 1):
        worker.make_block(0, block)
    honest = worker._job.conditions
    object.__setattr__(worker._job, "conditions", Grid(identity=[{"003": 1.0}], view=["000"]))
    worker.run_shard(0)
    object.__setattr__(worker._job, "conditions", honest)
    worker.run_shard(1)
    assert verify(ROOT, fs=fs).ok
    report = verify(ROOT, deep=True, fs=fs)
    assert [p.shard for p in report.problems] == [0]
    assert "column identity differs" in report.problems[0].text
    assert writer is not None


def test_recompute_generates_clips_again() -> None:
    fs = made()
    report = verify(ROOT, recompute=5, engine=StubEngine(), fs=fs)
    assert (report.ok, report.recomputed) == (True, 5)
    assert verify(ROOT, recompute=1000, engine=StubEngine(), fs=fs).recomputed == 12
    report = verify(ROOT, recompute=3, engine=StubEngine(salt=1), fs=fs)
    assert len(report.problems) == 3
    assert "pixels when it is generated again" in report.problems[0].text
    with pytest.raises(InvalidRequestError, match="engine"):
        verify(ROOT, recompute=1, fs=fs)


def test_stats_count_what_is_there(fast: Path) -> None:
    run(fast, clips=10)
    facts = stats(fast)
    assert (facts["clips"], facts["shards"], facts["complete"], facts["shape"]) == (10, 2, True, [4, 16, 16])
    assert facts["labels"]["identity"] == {"001": 6, "001=0.3+002=0.7": 4}
    assert facts["labels"]["view"] == {"000": 5, "090": 5}
    assert facts["labels"]["covariate"] == {"": 10}
    assert facts["bytes"] == sum(p.stat().st_size for p in (fast / "shards").iterdir())
    (fast / "shards" / "shard-00000001.parquet").write_bytes(b"")
    with pytest.raises(DataFormatError):
        stats(fast)


def test_what_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(DataFormatError, match=r"no plan\.json"):
        verify(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    assert not verify(tmp_path / "file").ok
    assert Report(tmp_path).ok
    assert issubclass(UnsupportedVersionError, ValueError)
    assert LocalFileSystem().names(tmp_path / "absent") == []
