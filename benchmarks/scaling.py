"""Plan-to-clip arithmetic for large jobs: the planner's own numbers, and rates measured here. Prints the tables of docs/scaling.md.

    python benchmarks/scaling.py                                    # measures, then prints; a minute on one core
    python benchmarks/scaling.py --cores 64 --hours-between-failures 200

What is assumed is an option and stands above the tables: processors of a machine, how often one fails. Everything else is counted
or measured: shards by the planner, calls of the file system by a shard that is made behind a free engine, bytes and seconds of a
clip by the model that ships, receipts per second by reading a folder of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench_bulk import FreeEngine, cpu_seconds

from gaitcrafter_rt.bulk import Grid, Request, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.layout import MAX_SHARD_CLIPS, Folder, ShardTable, Span, default_cut
from gaitcrafter_rt.bulk.opening import OpenJob
from gaitcrafter_rt.bulk.receipts import Receipt, read_receipt, scan
from gaitcrafter_rt.bulk.watch import look

CLIPS, MACHINES = (10**7, 10**8, 10**9), (1, 10, 1000)
# Of S3, GCS and their like: keys in one page of a listing.
PAGE = 1000
_RECEIPTS = 2000


class CountingFileSystem(LocalFileSystem):
    """Counts every call by name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()


def _counted(name: str) -> Any:
    call = getattr(LocalFileSystem, name)

    def counted(self: CountingFileSystem, *args: Any) -> Any:
        self.calls[name] += 1
        return call(self, *args)

    return counted


for _name in ("mkdir", "create", "sync_file", "sync_folder", "link", "unlink", "rmdir", "names", "entry", "read", "open", "touch"):
    setattr(CountingFileSystem, _name, _counted(_name))


def shard_calls(root: Path) -> tuple[dict[str, float], Receipt, OpenJob]:
    """File system calls of one full shard beyond those of any run; its receipt."""
    counts = []
    grid, engine = Grid(view=["000", "090"]), FreeEngine()
    for shards in (1, 3):
        fs = CountingFileSystem()
        folder = root / str(shards)
        job = open_or_create(fs, folder, Request(grid, shards * 4096, shard_clips=4096, block_clips=64), engine)
        run_job(job, engine, fs=fs)
        counts.append(fs.calls)
    one = {name: (counts[1][name] - counts[0][name]) / 2 for name in sorted(counts[1])}
    return one, read_receipt(fs, job.folder, job.plan, job.table[0]), job


def receipts_per_second(root: Path, receipt: Receipt, job: OpenJob) -> dict[str, float]:
    """How fast one process reads a folder of receipts: a run that begins, and ``gaitcrafter-rt jobs``."""
    folder = Folder(root)
    for path in (folder.receipts, folder.shards):
        path.mkdir(parents=True)
    table = ShardTable([Span(0, _RECEIPTS * 4096, 4096, 64)])
    plan = job.plan.model_copy(update={"clips": _RECEIPTS * 4096})
    folder.plan.write_bytes(plan.to_bytes())
    for shard in table:
        one = receipt.model_copy(update={"shard": shard.number, "first": shard.first, "clips": shard.clips})
        folder.receipt(shard.number).write_bytes(one.to_bytes())
        # As long as its receipt says, without taking the room.
        os.truncate(os.open(folder.shard(shard.number), os.O_CREAT | os.O_WRONLY), receipt.bytes)
    began = cpu_seconds()
    assert len(scan(LocalFileSystem(), folder, plan, table).done) == _RECEIPTS
    middle = cpu_seconds()
    assert look(root).shards == _RECEIPTS
    return {"scan": _RECEIPTS / (middle - began), "jobs": _RECEIPTS / (cpu_seconds() - middle)}


def engine_rate(root: Path, clips: int) -> dict[str, Any]:
    """CPU seconds and bytes of a clip of the model that ships, with its own sampler."""
    from gaitcrafter_rt import Engine

    engine = Engine.from_pretrained("walker", threads=1)
    grid = Grid(identity=[{name: 1.0} for name in engine.vocabulary.labels["identity"]], view=engine.vocabulary.labels["view"])
    engine.generate([{}], seed=1)
    job = open_or_create(LocalFileSystem(), root, Request(grid, clips, shard_clips=clips), engine)
    began = cpu_seconds()
    result = run_job(job, engine)
    info = engine.info
    return {"seconds": (cpu_seconds() - began) / clips, "bytes": result.bytes / clips, "isa": info["isa"],
            "precision": info["precision"], "steps": job.plan.spec.sampler["steps"]}  # fmt: skip


def human(seconds: float) -> str:
    for unit, size in (("years", 31_557_600), ("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size or (unit == "min" and seconds >= size):
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def folder_table(receipt_bytes: int, rates: dict[str, float], clip_bytes: float) -> None:
    rows = []
    for clips in CLIPS:
        for size in (default_cut(clips)[0], MAX_SHARD_CLIPS):
            shards = -(-clips // size)
            hashes = receipt_bytes * (size / 4096)  # a hash per row group is nearly all of it
            rows.append([
                f"10^{len(str(clips)) - 1}", f"{size:,}",
                f"{shards:,}", f"{2 * shards + 1:,}", f"{clips * clip_bytes / 1e9:,.0f} GB", f"{size * clip_bytes / 1e6:.0f} MB",
                f"{shards * hashes / 1e6:,.0f} MB", human(shards * size / 4096 / rates["scan"]), f"{-(-shards // PAGE):,}",
            ])  # fmt: skip
    head = ["clips", "clips of a shard", "shards", "files", "Parquet", "a shard", "receipts", "reading them all", "listing pages"]
    table(head, rows)


def time_table(models: dict[str, float], cores: int, hours: float) -> None:
    rows = []
    for clips in CLIPS:
        for machines in MACHINES:
            size, block = default_cut(clips)
            row = [f"10^{len(str(clips)) - 1}", f"{machines:,}", f"{-(-clips // size) / machines:,.1f}"]
            for seconds in models.values():
                wall = clips * seconds / (machines * cores)
                deaths = machines * wall / 3600 / hours
                # A dead machine loses, of each of its workers, half a block on average.
                lost = deaths * cores * block / 2 / clips
                row += [human(wall), f"{deaths:,.1f}", f"{100 * lost:.3f} %"]
            rows.append(row)
    names = [part for name in models for part in (name, "failures", "made again")]
    table(["clips", "machines", "shards each", *names], rows)


def calls_table(calls: dict[str, float], engine: dict[str, Any], cores: int) -> None:
    shown = {"create": "create", "sync_file": "fsync of a file", "sync_folder": "fsync of a folder", "link": "link",
             "unlink": "unlink", "entry": "stat", "names": "list", "open": "open", "read": "read", "touch": "touch"}  # fmt: skip
    table(["a shard of 4096 clips, 64 blocks", *shown.values()], [["calls", *(f"{calls.get(k, 0):.0f}" for k in shown)]])
    total = sum(calls.values())
    rows = []
    for machines in MACHINES:
        rate = machines * cores / engine["seconds"]
        ranks = [machines * -(-(10**9) // size) for size in (4096, MAX_SHARD_CLIPS)]
        rows.append([f"{machines:,}", f"{rate:,.0f}", f"{rate * total / 4096:,.0f}", f"{rate * engine['bytes'] / 1e6:,.1f} MB/s",
                     *(f"{2 * n:,} / {n:,}" for n in ranks)])  # fmt: skip
    table(["machines", "clips/s", "calls/s", "written", "10^9 clips: stats / receipts read by all ranks at the end",
           f"the same with --shard-clips {MAX_SHARD_CLIPS}"], rows)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=16, help="workers of a machine")
    parser.add_argument("--hours-between-failures", type=float, default=500.0, help="of one machine, mean")
    parser.add_argument("--clips", type=int, default=64, help="clips of the model that ships, to time")
    parser.add_argument("--paper-call-seconds", type=float, default=2.72, help="of the paper-size network (README)")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        calls, receipt, job = shard_calls(root / "shards")
        rates = receipts_per_second(root / "receipts", receipt, job)
        engine = engine_rate(root / "engine", options.clips)
    finally:
        shutil.rmtree(root)
    size = len(receipt.to_bytes())
    paper = options.paper_call_seconds * 2 * engine["steps"]
    print(
        f"assumed: {options.cores} workers a machine, one thread each; a machine fails every "
        f"{options.hours_between_failures:g} h\n\n"
        f"measured: {engine['seconds']:.3f} CPU seconds and {engine['bytes']:.0f} bytes a clip (model that ships, "
        f"{engine['steps']} steps, {engine['precision']}, {engine['isa']}); "
        f"{rates['scan']:,.0f} receipts a second when a run begins, {rates['jobs']:,.0f} in `jobs`; "
        f"a receipt of 4096 clips has {size:,} bytes\n\n"
        f"paper size: {paper:.0f} CPU seconds a clip ({options.paper_call_seconds} s a call, {engine['steps']} steps, guidance)\n"
    )
    folder_table(size, rates, engine["bytes"])
    time_table({"model that ships": engine["seconds"], "paper size": paper}, options.cores, options.hours_between_failures)
    calls_table(calls, engine, options.cores)


if __name__ == "__main__":
    main()
