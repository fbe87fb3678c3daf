"""Files whose checksums fit, but that are not what they must be: written by a liar, by a fault of ours, or misplaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_fs import MemoryFileSystem
from jobs import ROOT, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import DamagedError, worker, writer
from gaitcrafter_rt.bulk.blocks import read_block
from gaitcrafter_rt.bulk.durability import make_folders
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.plan import read_plan
from gaitcrafter_rt.bulk.receipts import Receipt, commit_receipt, content_of, read_receipt
from gaitcrafter_rt.bulk.verify import verify

FOLDER = Folder(ROOT)


def put(fs: MemoryFileSystem, path: Path, data: bytes) -> None:
    fs.unlink(path)
    with fs.create(path) as f:
        f.write(data)


def finished() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs)
    return fs


RECEIPTS: dict[str, tuple[dict[str, Any], bool, str]] = {
    "hashes that do not fit each other": ({"content_sha256": "0" * 64}, False, "do not fit each other"),
    "row groups of another file": ({"row_groups": ["0" * 64], "content_sha256": content_of(["0" * 64])}, False, "disagree"),
    "flags that nobody counted": ({"quality": {"empty_frame": 3}}, True, "not those of its receipt"),
}


@pytest.mark.parametrize("lie", RECEIPTS)
def test_receipts(lie: str) -> None:
    fs = finished()
    job = open_small(fs, ROOT)
    changes, deep, text = RECEIPTS[lie]
    honest = read_receipt(fs, FOLDER, job.plan, job.table[0])
    put(fs, FOLDER.receipt(0), honest.model_copy(update=changes).to_bytes())
    problems = verify(ROOT, deep=deep, fs=fs).problems
    assert [p.shard for p in problems] == [0]
    assert text in problems[0].text


def test_a_receipt_for_another_file_makes_way() -> None:
    """Two writers, two releases of pyarrow: the receipt that stays is the one of the file that is there."""
    fs = finished()
    job = open_small(fs, ROOT)
    mine = read_receipt(fs, FOLDER, job.plan, job.table[0])
    other = mine.model_copy(update={"sha256": "0" * 64})
    put(fs, FOLDER.receipt(0), other.to_bytes())
    commit_receipt(fs, FOLDER, job.plan, job.table[0], mine)
    assert read_receipt(fs, FOLDER, job.plan, job.table[0]) == mine
    kept = fs.read(ROOT / "damaged" / fs.names(ROOT / "damaged")[0], 1 << 20)
    assert Receipt.from_bytes(kept, "kept") == other


def _other_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = writer.rows

    def rows(*args: Any) -> Any:
        table = honest(*args)
        return table.set_column(0, table.schema.field(0), [table["clip_index"].to_numpy() + np.uint64(1)])

    monkeypatch.setattr(writer, "rows", rows)


def _other_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "assess", lambda packed, shape: np.full(len(packed), 4, np.uint16))


def _other_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = writer.footer

    def footer(*args: Any) -> dict[str, str]:
        return {k: v.replace('"isa":"avx2"', '"isa":"avx3"') for k, v in honest(*args).items()}

    monkeypatch.setattr(writer, "footer", footer)


SHARDS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], str]] = {
    "clip indices": (_other_indices, "its clip indices are not 100 to 107"),
    "flags": (_other_flags, "quality flags differ from what the clips show"),
    "a plan": (_other_plan, "does not fit its plan_id"),
}


@pytest.mark.parametrize("lie", SHARDS)
def test_shards(lie: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The liar writes shard and receipt alike; only reading the clips, or the plan in the footer, tells."""
    forge, text = SHARDS[lie]
    with monkeypatch.context() as patched:
        forge(patched)
        fs = finished()
    problems = verify(ROOT, deep=True, fs=fs).problems
    assert [p.shard for p in problems] == [0, 1]
    assert text in problems[0].text


def test_a_plan_whose_id_is_another_ones() -> None:
    fs = finished()
    plan = read_plan(fs, FOLDER)
    assert plan is not None
    put(fs, FOLDER.plan, plan.model_copy(update={"plan_id": "0" * 64}).to_bytes())
    with pytest.raises(DamagedError, match="not the hash of its specification"):
        read_plan(fs, FOLDER)


def _one_block(seed: int = 3) -> tuple[MemoryFileSystem, worker.Worker]:
    fs = MemoryFileSystem()
    job = open_small(fs, ROOT, seed=seed)
    make_folders(fs, FOLDER)
    here = worker.Worker(fs, job, StubEngine())
    here.make_block(0, 1)
    return fs, here


def test_the_head_of_a_block() -> None:
    """What stands there beside the clips ends in the receipt, so it has a checksum of its own."""
    fs, here = _one_block()
    path, plan = FOLDER.block(0, 1), here._plan.plan_id
    data = fs.read(path, 1 << 20)
    assert read_block(fs, path, plan, 4, 4, here._bytes).retries == 0
    assert data.count(b'"retries": 0') == 1
    put(fs, path, data.replace(b'"retries": 0', b'"retries": 7'))
    with pytest.raises(DamagedError):
        read_block(fs, path, plan, 4, 4, here._bytes)


def test_blocks_in_the_wrong_place() -> None:
    """Of other clips, and of another job."""
    wanted = shards(finished(), ROOT)
    fs, _ = _one_block()
    other, _ = _one_block(seed=4)
    for data in (fs.read(FOLDER.block(0, 1), 1 << 20), other.read(FOLDER.block(0, 1), 1 << 20)):
        mixed, _ = _one_block()
        for number in (0, 1):
            put(mixed, FOLDER.block(0, number), data)
        assert run(ROOT, fs=mixed).notes
        assert shards(mixed, ROOT) == wanted


def test_shards_in_the_wrong_place_without_their_receipts() -> None:
    fs = MemoryFileSystem()
    run(ROOT, fs=fs, clips=16)
    wanted = shards(fs, ROOT)
    for number, data in enumerate(reversed(list(wanted.values()))):
        put(fs, FOLDER.shard(number), data)
        fs.unlink(FOLDER.receipt(number))
    assert run(ROOT, fs=fs, clips=16).made == 16
    assert shards(fs, ROOT) == wanted
