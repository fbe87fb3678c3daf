"""What a bulk job costs beside its engine: planning, packing, Parquet, hashes and commits, behind an engine that costs nothing.

    python benchmarks/bench_bulk.py                     # 16,384 clips of 30x64x64 in /tmp
    python benchmarks/bench_bulk.py --where /dev/shm    # without the disk's fsyncs
    python benchmarks/bench_bulk.py --real 24           # a job of the model that ships: share of time outside the engine

Every clip is checked first: the job is verified deeply and compared with what the stub drew. Clips per CPU second count user and
system time of this process and its workers; drawing the stub's clips, done once before, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

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


def real(root: Path, clips: int, model: str, steps: int | None) -> dict[str, Any]:
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
    job = open_or_create(LocalFileSystem(), root, Request(grid, clips, sampler={"steps": steps} if steps else {}), engine)
    result = run_job(job, engine)
    total = cpu_seconds() - began
    assert result.complete
    assert verify(root, deep=True).ok
    return {
        "model": model, "steps": job.plan.spec.sampler["steps"], "clips": clips, "isa": engine.info["isa"],
        "precision": engine.info["precision"], "cpu_s": round(total, 2), "engine_cpu_s": round(spent, 2),
        "outside_engine": round(1 - spent / total, 4), "bytes_per_clip": round(result.bytes / clips),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--where", default=tempfile.gettempdir(), help="folder for the job; it is removed afterwards")
    parser.add_argument("--clips", type=int, default=16384)
    parser.add_argument("--workers", type=int, default=0, help="processes; 0 does the work in this one and counts its fsyncs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--real", type=int, metavar="CLIPS", help="a job of --model instead of the stub")
    parser.add_argument("--model", default="walker")
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    rows = []
    for _ in range(1 if options.real else options.repeats):
        root = Path(tempfile.mkdtemp(dir=options.where)) / "job"
        try:
            done = (
                real(root, options.real, options.model, options.steps)
                if options.real
                else overhead(root, options.clips, options.workers)
            )
        finally:
            shutil.rmtree(root.parent)
        rows.append(done)
        print(json.dumps(done))
    if not options.real:
        rates = sorted(r["clips_per_cpu_second"] for r in rows)
        print(json.dumps({"median_clips_per_cpu_second": rates[len(rates) // 2],
        "machine": platform.processor() or platform.machine(),
                          "processors": os.cpu_count()}))  # fmt: skip


if __name__ == "__main__":
    main()
