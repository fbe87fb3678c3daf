"""Small jobs in which something may go wrong: what stands on the disk before, what is run, and what must come of it.

Each is run on the disk in memory of ``faulty_fs.py``, hundreds of times with a fault at another call each time (``sweeps.py``).
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from faulty_fs import KEEP, MemoryFileSystem
from jobs import request, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import JobResult, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import FileSystem
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.receipts import Receipt
from gaitcrafter_rt.bulk.table import Table
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.bulk.worker import Worker


@cache
def table(rows: int) -> Table:
    """A table of conditions."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    views = ["000" if k % 3 else None for k in range(rows)]
    pq.write_table(pa.table({"view": views, "identity": ["001", "002"] * (rows // 2)}), file)
    file.seek(0)
    return Table.read(file, "table")


@dataclass(frozen=True)
class Scenario:
    """``prepare`` leaves what is there before, ``changes`` and ``options`` say what is run then.

    ``frail``: what a second run of the same instant may undo (docs/reliability.md says why); no clip is in it.
    ``one_by_one`` runs shard after shard as a cluster's actors do, and nothing around them. ``kept`` are folders that may stay.
    """

    name: str
    root: Path = Path("/job")
    prepare: Callable[[MemoryFileSystem, Scenario], object] = lambda fs, here: None
    changes: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    one_by_one: bool = False
    kept: tuple[str, ...] = ()
    frail: tuple[str, ...] = ()

    def new(self) -> MemoryFileSystem:
        """A disk as it is before; everything on it is durable."""
        return copy.deepcopy(_prepared(self.name))

    def open_and_run(self, fs: FileSystem, changes: dict[str, Any], engine: StubEngine, options: dict[str, Any]) -> JobResult:
        return run_job(open_or_create(fs, self.root, request(**changes), engine), engine, fs=fs, **options)

    def act(self, fs: FileSystem) -> None:
        """The run that meets faults. When it returns, every clip has been promised."""
        if self.one_by_one:
            job = open_or_create(fs, self.root, request(**self.changes), StubEngine())
            worker = Worker(fs, job, StubEngine())
            for number in range(len(job.table)):
                assert worker.run_shard(number).done is not None
            return
        for _ in range(3):
            code = self.open_and_run(fs, self.changes, StubEngine(), self.options).exit_code
            if code != 3:
                break
        assert code == 0, code

    def finish(self, fs: FileSystem) -> None:
        """The same command again, without faults, and once more to clean up."""
        self.act(fs)
        assert self.open_and_run(fs, self.changes, StubEngine(), {}).made == 0

    def promised(self, fs: MemoryFileSystem) -> dict[str, bytes]:
        """What a run that returned 0 leaves for ever."""
        lasting = ("plan.json", "extents/", "conditions/", "shards/", "receipts/", "damaged/")
        return {name: data for name, data in fs.tree(self.root).items() if name.startswith(lasting) and "/.tmp-" not in name}

    def assert_no_lies(self, fs: MemoryFileSystem) -> None:
        """Whatever has a receipt is there, whole, and nothing is there that does not belong to the job, but what was so before."""
        lies = _problems(self, fs) - _problems_before(self.name)
        assert not lies, lies

    def assert_whole(self, fs: MemoryFileSystem, *, damaged: bool = False) -> None:
        """Every clip once and the right one, no stray file."""
        report = verify(self.root, fs=fs)
        assert report.ok, report
        assert shards(fs, self.root) == wanted(self)
        assert [n.removesuffix(".json") for n in fs.names(self.root / "receipts")] == [
            n.removesuffix(".parquet") for n in fs.names(self.root / "shards")
        ]
        names = {"plan.json", "receipts", "shards", *self.kept}
        there = set(fs.names(self.root)) - ({"damaged"} if damaged else set())
        assert there - {"damaged"} == names - {"damaged"}, there
        for folder in (".", "shards", "receipts", "extents", "conditions"):
            assert not [n for n in fs.names(self.root / folder) if n.startswith(".")]


@cache
def _prepared(name: str) -> MemoryFileSystem:
    fs = MemoryFileSystem()
    BY_NAME[name].prepare(fs, BY_NAME[name])
    fs.power_cut(KEEP)
    return fs


def _problems(here: Scenario, fs: MemoryFileSystem) -> set[str]:
    if fs.entry(here.root / "plan.json") is None:
        return set()
    return {p.text for p in verify(here.root, deep=True, fs=fs).problems}


@cache
def _problems_before(name: str) -> set[str]:
    return _problems(BY_NAME[name], BY_NAME[name].new())


@cache
def _wanted(name: str) -> dict[str, bytes]:
    here = BY_NAME[name]
    fs = here.new()
    here.finish(fs)
    here.assert_no_lies(fs)
    return shards(fs, here.root)


def wanted(here: Scenario) -> dict[str, bytes]:
    """The shards that an uninterrupted run makes."""
    return _wanted(here.name)


def _smaller(fs: MemoryFileSystem, here: Scenario) -> None:
    changes = {**here.changes, "clips": 12}
    if "conditions" in changes:
        changes["conditions"] = table(12)
    here.open_and_run(fs, changes, StubEngine(), {})


def _put(fs: MemoryFileSystem, path: Path, data: bytes) -> None:
    fs.unlink(path)
    with fs.create(path) as f:
        f.write(data)


def _torn(fs: MemoryFileSystem, here: Scenario) -> None:
    """A shard that lost its end, and whose clips have other bytes now (another release of pyarrow made it); a receipt
    with a flipped bit; a shard that lost its receipt and its end."""
    here.open_and_run(fs, here.changes, StubEngine(), {})
    folder = Folder(here.root)
    _put(fs, folder.shard(0), fs.read(folder.shard(0), 1 << 20)[:-10])
    receipt = Receipt.from_bytes(fs.read(folder.receipt(0), 1 << 20), "receipt")
    _put(fs, folder.receipt(0), receipt.model_copy(update={"sha256": "0" * 64, "bytes": receipt.bytes + 1}).to_bytes())
    _put(fs, folder.receipt(1), fs.read(folder.receipt(1), 1 << 20).replace(b'"clips": 8', b'"clips": 9'))
    _put(fs, folder.shard(2), fs.read(folder.shard(2), 1 << 20)[:200])
    fs.unlink(folder.receipt(2))


def _flipped(fs: MemoryFileSystem, here: Scenario) -> None:
    here.open_and_run(fs, here.changes, StubEngine(), {})
    path = Folder(here.root).receipt(1)
    _put(fs, path, fs.read(path, 1 << 20).replace(b'"clips": 4', b'"clips": 5'))


def _poisoned(fs: MemoryFileSystem, here: Scenario) -> None:
    here.open_and_run(fs, here.changes, StubEngine(poison={103}), {})


SCENARIOS = (
    Scenario("a new job"),
    Scenario("folders above it", Path("/a/b/job"), changes={"clips": 8}),
    Scenario("conditions of a table", changes={"conditions": table(12), "clips": None}, kept=("conditions",)),
    Scenario("one that grows", prepare=_smaller, changes={"clips": 20, "extend": True}, kept=("extents",)),
    Scenario("a table that grows", prepare=_smaller, changes={"conditions": table(20), "clips": None, "extend": True},
             kept=("conditions", "extents")),
    Scenario("damage to repair", prepare=_torn, changes={"clips": 24}, kept=("damaged",), frail=("receipts/",)),
    Scenario("a damaged receipt", prepare=_flipped, kept=("damaged",), frail=("receipts/",)),
    Scenario("quarantined clips made again", prepare=_poisoned, options={"retry_quarantined": True}),
    Scenario("shards one by one", one_by_one=True),
)  # fmt: skip
BY_NAME = {here.name: here for here in SCENARIOS}
