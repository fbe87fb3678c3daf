"""What a bulk job costs beside its engine: planning, packing, Parquet, hashes and commits, behind an engine that costs nothing.

    python benchmarks/bench_bulk.py                             # all of it, a few minutes: the figures of docs/bulk.md
    python benchmarks/bench_bulk.py overhead memory             # behind an engine that costs nothing, 30x64x64
    python benchmarks/bench_bulk.py engine workers              # the model that ships
    python benchmarks/bench_bulk.py overhead --where /dev/shm   # without the disk's fsyncs

- overhead: clips per CPU second (user and system time of this process and its workers) of planning, packing, flags, hashes, Parquet
  and commits; wall time, fsyncs and their wait beside it. Drawing the stub's clips, done once before, is left out.
- memory: resident memory after each of many shards.
- engine: the share of CPU time that a job of a real model spends outside the engine's calls.
- workers: 2 worker processes beside 1, one thread each, in turn, several times each; wall time of the whole run.

Every job is verified deeply, and those of the stub are compared with what it drew.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness.host import commit, host

from gaitcrafter_rt.bulk import ClipDataset, Grid, Request, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.conditions import Vocabulary

SHAPE = (30, 64, 64)
LABELS = {"dataset": [], "identity": [f"{i:03d}" for i in range(74)], "view": [f"{v:03d}" for v in range(0, 181, 18)],
          "covariate": ["nm", "bg", "cl"]}  # fmt: skip
_DRAWN = 512


class FreeEngine:
    """Hands out walkers that were drawn before: a swinging figure with noisy edges, so that zstd has honest work."""

    def __init__(self) -> None:
        frames, height, width = SHAPE
        self.build = "stub"
        self.info = {
            "name": "stub", "model_sha256": "0" * 64, "device": "cpu", "precision": "fp32", "isa": "none", "channels": 1,
            "frames": frames,
            "height": height, "width": width, "packed_bytes": frames * height * width // 8, "provenance": {},
        }  # fmt: skip
        self.vocabulary = Vocabulary(LABELS, {axis: bool(names) for axis, names in LABELS.items()}, 0)
        self.clips = np.packbits(_walkers().reshape(_DRAWN, -1), axis=1)

    def resolve_sampler(self, **given: Any) -> dict[str, Any]:
        return {"kind": "ddim", "steps": 12}

    def generate(self, conditions: Any, seed: int = 0, *, clip_indices: np.ndarray, **settings: Any) -> Any:
        return SimpleNamespace(packed=self.clips[(clip_indices % np.uint64(_DRAWN)).astype(np.int64)])


def _walkers() -> np.ndarray:
    rng = np.random.default_rng(0)
    frames, height, width = SHAPE
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    clips = np.empty((_DRAWN, *SHAPE), bool)
    for k in range(_DRAWN):
        phase, tempo, girth = rng.uniform(0, 6.28), rng.uniform(0.2, 0.5), rng.uniform(5, 9)
        swing = np.sin(tempo * t + phase) * np.clip(y - 30, 0, None) * 0.35
        edge = girth - 3 * np.abs(y - 20) / 20 + rng.normal(0, 0.6, (frames, height, 1))
        clips[k] = (np.abs(x - 32 - swing) < edge) | (np.abs(x - 32 + swing) < edge * 0.8)
    return clips


class CountingFileSystem(LocalFileSystem):
    """Counts fsyncs and the time they wait. Workers count for themselves, so this tells about runs without workers."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.waited = 0.0

    def _timed(self, name: str, *args: Any) -> None:
        began = time.perf_counter()
        getattr(super(), name)(*args)
        self.waited += time.perf_counter() - began
        self.calls["fsync"] += 1

    def sync_file(self, file: Any) -> None:
        self._timed("sync_file", file)

    def sync_folder(self, path: Path) -> None:
        self._timed("sync_folder", path)


def cpu_seconds() -> float:
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def overhead(root: Path, clips: int, workers: int) -> dict[str, Any]:
    """One job behind the free engine; checks every clip, then reports."""
    engine, fs = FreeEngine(), CountingFileSystem()
    grid = Grid(identity=[{name: 1.0} for name in LABELS["identity"]], view=LABELS["view"], covariate=LABELS["covariate"])
    cpu, wall = cpu_seconds(), time.perf_counter()
    job = open_or_create(fs, root, Request(grid, clips, shard_clips=4096, block_clips=64), engine)
    result = run_job(job, engine, fs=fs, workers=workers)
    cpu, wall = cpu_seconds() - cpu, time.perf_counter() - wall
    assert result.complete
    report = verify(root, deep=True)
    assert report.ok, report.problems
    with ClipDataset.open(root) as data:
        for number in range(0, clips, 997):
            assert np.array_equal(data.read([number]).packed[0], engine.clips[number % _DRAWN])
    return {
        "clips": clips, "workers": workers, "clips_per_cpu_second": round(clips / cpu), "clips_per_second": round(clips / wall),
        "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "fsyncs": fs.calls["fsync"], "fsync_wait_s": round(fs.waited, 2),
        "bytes_per_clip": round(result.bytes / clips), "files": 2 * len(job.table) + 1,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def real(root: Path, clips: int, model: str, steps: int) -> dict[str, Any]:
    """A job of a real model in this process: CPU seconds of the whole beside those of the engine's own calls."""
    from gaitcrafter_rt import Engine

    engine = Engine.from_pretrained(model, threads=1)
    spent = 0.0
    generate = engine.generate

    def timed(*args: Any, **settings: Any) -> Any:
        nonlocal spent
        began = cpu_seconds()
        try:
            return generate(*args, **settings)
        finally:
            spent += cpu_seconds() - began

    engine.generate = timed  # type: ignore[method-assign]
    labels = engine.vocabulary.labels
    grid = Grid(identity=[{name: 1.0} for name in labels["identity"]], view=labels["view"])
    began = cpu_seconds()
    job = open_or_create(LocalFileSystem(), root, Request(grid, clips, sampler={"steps": steps}), engine)
    result = run_job(job, engine)
    total = cpu_seconds() - began
    assert result.complete
    assert verify(root, deep=True).ok
    return {
        "model": model, "steps": job.plan.spec.sampler["steps"], "clips": clips, "isa": engine.info["isa"],
        "precision": engine.info["precision"], "cpu_s": round(total, 2), "engine_cpu_s": round(spent, 2),
        "outside_engine": round(1 - spent / total, 4), "bytes_per_clip": round(result.bytes / clips),
    }  # fmt: skip


def memory(root: Path, clips: int) -> dict[str, Any]:
    """Resident memory of one process that makes many shards, after each of them."""
    engine, resident = FreeEngine(), []

    def after(snapshot: Any) -> None:
        if snapshot.shards > len(resident):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6))

    grid = Grid(identity=[{name: 1.0} for name in LABELS["identity"]], view=LABELS["view"])
    job = open_or_create(LocalFileSystem(), root, Request(grid, clips, shard_clips=2048, block_clips=64), engine)
    assert run_job(job, engine, report=after).complete
    assert verify(root, deep=True).ok
    growth = max(resident) - resident[0]
    return {"clips": clips, "shards": len(resident), "resident_mb": resident, "growth_after_the_first_mb": growth}


def workers(root: Path, clips: int, model: str, steps: int, blocks: int) -> dict[str, Any]:
    """Wall time of the same job with 1 and with 2 workers, in turn. Each run is a new folder; the last two are compared."""
    from gaitcrafter_rt import Engine

    engine = Engine.from_pretrained(model, threads=1)
    labels = engine.vocabulary.labels
    grid = Grid(identity=[{name: 1.0} for name in labels["identity"]], view=labels["view"])
    rates: dict[int, list[float]] = {1: [], 2: []}
    for block in range(blocks):
        for count in (1, 2) if block % 2 else (2, 1):
            place = root.with_name(f"{block}-{count}")
            request = Request(grid, clips, sampler={"steps": steps}, shard_clips=64, block_clips=4)
            job = open_or_create(LocalFileSystem(), place, request, engine)
            began = time.perf_counter()
            assert run_job(job, engine, workers=count).complete
            rates[count].append(clips / (time.perf_counter() - began))
            assert verify(place, deep=True).ok
    for path in (place / "shards").iterdir():
        assert path.read_bytes() == (root.with_name(f"{blocks - 1}-{1 if count == 2 else 2}") / "shards" / path.name).read_bytes()
    medians = {count: statistics.median(found) for count, found in rates.items()}
    return {
        "model": model, "steps": steps, "clips": clips, "runs_each": blocks, "isa": engine.info["isa"],
        "precision": engine.info["precision"], "clips_per_second": {str(k): [round(r, 2) for r in v] for k, v in rates.items()},
        "median_ratio": round(medians[2] / medians[1], 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["overhead", "memory", "engine", "workers"], help="which of them")
    parser.add_argument("--where", default=tempfile.gettempdir(), help="folder for the jobs; they are removed afterwards")
    parser.add_argument("--clips", type=int, default=16384, help="of the stub's jobs")
    parser.add_argument("--workers", type=int, default=0, help="of the overhead; 0 is this process, and counts its fsyncs")
    parser.add_argument("--repeats", type=int, default=3, help="of the overhead")
    parser.add_argument("--model", default="walker")
    parser.add_argument("--steps", type=int, default=12, help="of the engine's job")
    parser.add_argument("--engine-clips", type=int, default=32)
    parser.add_argument("--few-steps", type=int, default=2, help="of the workers' jobs")
    parser.add_argument("--worker-clips", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=5, help="runs of each number of workers")
    o = parser.parse_args()

    def show(what: str, run: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(dir=o.where) as folder:
            done = {"what": what, **run(Path(folder) / "job")}
        print(json.dumps(done), flush=True)
        return done

    print(json.dumps({**host(), "commit": commit()}))
    if "overhead" in o.what:
        rows = [show("overhead", lambda root: overhead(root, o.clips, o.workers)) for _ in range(o.repeats)]
        median = statistics.median(r["clips_per_cpu_second"] for r in rows)
        print(json.dumps({"what": "overhead", "median_clips_per_cpu_second": median}))
    if "memory" in o.what:
        show("memory", lambda root: memory(root, 2 * o.clips))
    if "engine" in o.what:
        show("engine", lambda root: real(root, o.engine_clips, o.model, o.steps))
    if "workers" in o.what:
        show("workers", lambda root: workers(root, o.worker_clips, o.model, o.few_steps, o.blocks))


if __name__ == "__main__":
    main()
