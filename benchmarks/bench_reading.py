"""How fast clips come back: the cache in Python and C++, the torch loaders, and what else a data set may lie in.

    python benchmarks/bench_reading.py                     # 8,192 clips of 30x64x64, made in /tmp by the engine of bench_bulk.py
    python benchmarks/bench_reading.py --clips 2048 --json reading.json

One core, files in the page cache, each figure the median of five runs. Sequential is every clip in order, in blocks of 128 where
the reader has blocks; random is one clip per call; a batch is 8 identities with 16 clips each (P x K), drawn anew each time. What
was read is dropped before the next call. C++ and Python must give the same bytes before anything is timed.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from bench_bulk import LABELS, SHAPE, FreeEngine
from harness.host import commit, host

import gaitcrafter_rt
from gaitcrafter_rt import _native
from gaitcrafter_rt.bulk import Grid, Request, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.data.pickles import read_pickle
from gaitcrafter_rt.dataset import Selection, build_cache, export
from gaitcrafter_rt.loaders import Clips, PKSampler

P, K = 8, 16
PIXELS, BYTES = int(np.prod(SHAPE)), int(np.prod(SHAPE)) // 8
RUNS = 5


class Native:
    """``gc_reader_read`` of the shared library, as a C++ program calls it: one call per block of clips."""

    def __init__(self, cache: Path, kind: int) -> None:
        self._lib = ctypes.CDLL(str(Path(gaitcrafter_rt.__file__).parent / "lib" / "libgaitcrafter.so"))
        self._lib.gc_last_error_message.restype = ctypes.c_char_p
        self._reader = ctypes.c_void_p()
        self._check(self._lib.gc_reader_open(os.fsencode(cache), None, ctypes.byref(self._reader)))
        self._how = np.zeros(1, [("size", "<u4"), ("version", "<u4"), ("type", "<i4"), ("reserved", "<i4"), ("on", "<f8")])
        self._how[0] = (24, 1, kind, 0, (1.0, 255.0, 1.0)[kind])
        self.width = (BYTES, PIXELS, 4 * PIXELS)[kind]

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(self._lib.gc_last_error_message().decode())

    def read(self, clips: np.ndarray, out: np.ndarray) -> None:
        """uint64 [n] into bytes [n, width]."""
        n = ctypes.c_uint64
        self._check(self._lib.gc_reader_read(
            self._reader, ctypes.c_void_p(clips.ctypes.data), n(len(clips)), ctypes.c_void_p(self._how.ctypes.data),
            ctypes.c_void_p(out.ctypes.data), n(out.nbytes),
        ))  # fmt: skip


def each(read: Callable[[Any], Any], asked: Iterable[Any]) -> Callable[[], None]:
    """Read one after another; what was read is dropped before the next, as a training loop does."""

    def work() -> None:
        for what in asked:
            read(what)

    return work


def rate(count: int, work: Callable[[], Any]) -> float:
    """Clips per second: the median of RUNS, after one that warms the page cache."""
    work()
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return count / statistics.median(times)


def batch_ms(batches: list[np.ndarray], read: Callable[[np.ndarray], Any]) -> float:
    """Median milliseconds of one P x K batch."""
    read(batches[0])
    times = []
    for at in batches:
        began = time.perf_counter()
        read(at)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


class Bench:
    def __init__(self, root: Path, clips: int) -> None:
        self.root, self.clips = root, clips
        self.rows: list[dict[str, Any]] = []
        engine = FreeEngine()
        grid = Grid(identity=[{name: 1.0} for name in LABELS["identity"]], view=LABELS["view"][:2])
        job = open_or_create(LocalFileSystem(), root / "job", Request(grid, clips), engine)  # type: ignore[arg-type]
        run_job(job, engine, workers=0)  # type: ignore[arg-type]
        self.cache = build_cache(root / "job", root / "cache")
        rng = np.random.default_rng(1)
        self.some = rng.permutation(clips)[: min(clips, 2000)]
        sampler = PKSampler(self.cache.records["identity"], P, K, seed=1, batches=30)
        self.batches = [sampler.batch(0, s) for s in range(30)]
        self.blocks = [np.arange(k, min(k + 128, clips)) for k in range(0, clips, 128)]

    def add(self, name: str, gives: str, size: int, **figures: float | None) -> None:
        self.rows.append({"reader": name, "gives": gives, "bytes_per_clip": round(size / self.clips), **figures})

    def run(self) -> None:
        self.cache_in_python()
        self.cache_in_cpp()
        self.torch_loaders()
        self.parquet()
        self.webdataset()
        self.opengait()

    def cache_in_python(self) -> None:
        cache, size = self.cache, folder_size(self.root / "cache")
        bits = cache.packed
        assert len(bits) == self.clips

        def one_by_one() -> int:
            return sum(int(bits[k].copy()[0]) for k in range(self.clips))

        def at_random() -> None:
            for k in self.some:
                bits[k].copy()

        self.add("cache, numpy", "bits", size, sequential=rate(self.clips, one_by_one), random=rate(len(self.some), at_random),
                 batch=batch_ms(self.batches, lambda at: bits[at]))  # fmt: skip
        self.add(
            "cache, `ClipCache.read`", "uint8", size,
            sequential=rate(self.clips, each(cache.read, self.blocks)),
            random=rate(len(self.some), each(lambda k: cache.read([k]), self.some)),
            batch=batch_ms(self.batches, cache.read),
        )  # fmt: skip
        out = np.empty((128, *SHAPE), np.uint8)
        self.add(
            "cache, `ClipCache.read` with `out=`", "uint8", size,
            sequential=rate(self.clips, each(lambda at: cache.read(at, out=out[: len(at)]), self.blocks)),
            random=rate(len(self.some), each(lambda k: cache.read([k], out=out[:1]), self.some)),
            batch=batch_ms(self.batches, lambda at: cache.read(at, out=out)),
        )  # fmt: skip
        self.add(
            "cache, `ClipCache.read`, all kept in memory", "uint8", size,
            sequential=rate(self.clips, lambda: [cache.read(at) for at in self.blocks]),
            random=rate(len(self.some), lambda: [cache.read([k]) for k in self.some]), batch=None,
        )  # fmt: skip

    def cache_in_cpp(self) -> None:
        size = folder_size(self.root / "cache")
        for kind, gives in enumerate(("bits", "uint8", "float32")):
            native = Native(self.root / "cache", kind)
            out = np.empty((128, native.width), np.uint8)
            blocks = [b.astype(np.uint64) for b in self.blocks]
            single = [np.array([k], np.uint64) for k in self.some]
            native.read(blocks[0], out[: len(blocks[0])])
            want = self.cache.packed[:128] if kind == 0 else self.cache.read(self.blocks[0], ("uint8", "float32")[kind - 1])
            assert out[: len(blocks[0])].tobytes() == want[: len(blocks[0])].tobytes()
            self.add(
                "cache, C++", gives, size,
                sequential=rate(self.clips, each(lambda b: native.read(b, out[: len(b)]), blocks)),  # noqa: B023
                random=rate(len(single), each(lambda b: native.read(b, out[:1]), single)),  # noqa: B023
                batch=batch_ms([b.astype(np.uint64) for b in self.batches], lambda b: native.read(b, out)),  # noqa: B023
            )  # fmt: skip

    def torch_loaders(self) -> None:
        import torch
        from torch.utils.data import DataLoader

        torch.set_num_threads(1)
        for name, place in (("cache, torch `Clips`", "cache"), ("shards, torch `Clips`", "job/shards")):
            clips = Clips(self.root / place.split("/")[0])
            sampler = PKSampler(clips.labels, P, K, seed=1, batches=30 if place == "cache" else 10)
            times, began = [], time.perf_counter()
            for batch in DataLoader(clips, sampler=sampler, batch_size=None):
                times.append((time.perf_counter() - began) * 1000)
                assert batch.clips.shape == (P * K, *SHAPE)
                began = time.perf_counter()
            few = self.some[: 2000 if place == "cache" else 100]
            self.add(
                name, "uint8", folder_size(self.root / place),
                sequential=rate(self.clips, each(clips.__getitem__, self.blocks)),
                random=rate(len(few), each(lambda k: clips[int(k)], few)), batch=statistics.median(times[1:]),  # noqa: B023
            )  # fmt: skip

    def parquet(self) -> None:
        files = sorted((self.root / "job" / "shards").iterdir())
        opened = [pq.ParquetFile(f, page_checksum_verification=True) for f in files]
        groups = [(f, g) for f in opened for g in range(f.metadata.num_row_groups)]
        starts = np.cumsum([0, *(f.metadata.row_group(g).num_rows for f, g in groups)])

        def group(k: int) -> Any:
            f, g = groups[k]
            return f.read_row_group(g, columns=["silhouette"], use_threads=False)["silhouette"]

        def take(at: np.ndarray) -> list[Any]:
            where = np.searchsorted(starts, at, "right") - 1
            return [group(int(k)).take(at[where == k] - starts[k]) for k in np.unique(where)]

        few = self.some[:100]
        self.add(
            "Parquet shards, pyarrow", "bits", sum(f.stat().st_size for f in files),
            sequential=rate(self.clips, each(group, range(len(groups)))),
            random=rate(len(few), each(lambda k: take(np.array([k])), few)), batch=batch_ms(self.batches[:10], take),
        )  # fmt: skip

    def webdataset(self) -> None:
        export("webdataset", self.root / "job", self.root / "tars")
        tars = sorted((self.root / "tars").glob("*.tar"))

        def scan() -> int:
            count = 0
            for path in tars:
                with tarfile.open(path, "r|") as tar:
                    for member in tar:
                        if member.name.endswith(".npy"):
                            data = tar.extractfile(member)
                            assert data is not None
                            count += len(data.read()) > BYTES
            return count

        assert scan() == self.clips
        self.add("WebDataset tar, tarfile", "bits", folder_size(self.root / "tars"), sequential=rate(self.clips, scan),
                 random=None, batch=None)  # fmt: skip
        shutil.rmtree(self.root / "tars")

    def opengait(self) -> None:
        count = min(self.clips, 2048)
        export("opengait", self.root / "job", self.root / "tree", Selection.of(limit=count))
        paths = sorted((self.root / "tree").rglob("*.pkl"))

        few = [paths[int(k) % count] for k in self.some]
        manifest = json.loads((self.root / "tree" / "manifest.json").read_text())
        where = [self.root / "tree" / s["path"] for s in manifest["sequences"]]
        self.add(
            "OpenGait pickles, `read_pickle`", "uint8", sum(p.stat().st_size for p in paths) * self.clips // count,
            sequential=rate(count, each(read_pickle, paths)), random=rate(len(few), each(read_pickle, few)),
            batch=batch_ms(self.batches[:10], lambda at: np.stack([read_pickle(where[int(k) % count]) for k in at])),
        )  # fmt: skip

    def table(self) -> str:
        lines = ["| reader | gives | bytes a clip | sequential, clips/s | random, clips/s | P x K batch of 128, ms |",
                 "|---|---|---|---|---|---|"]  # fmt: skip
        for row in self.rows:
            cells = [f"{row['bytes_per_clip']:,}", *(f"{row[k]:,.0f}" if row[k] else "-" for k in ("sequential", "random"))]
            batch = f"{row['batch']:.2f}" if row["batch"] else "-"
            lines.append(f"| {row['reader']} | {row['gives']} | {' | '.join(cells)} | {batch} |")
        return "\n".join(lines)


def folder_size(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8192)
    parser.add_argument("--where", default=None, help="folder for the files; default: the system's temporary one")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    core = min(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=args.where) as folder:
        bench = Bench(Path(folder), args.clips)
        os.sched_setaffinity(0, {core})
        bench.run()
    print(bench.table())
    about = {"clips": args.clips, "shape": SHAPE, **host(), "decoded_by": _native.isa(), "commit": commit()}
    print("\n" + json.dumps(about))
    if args.json:
        args.json.write_text(json.dumps({**about, "rows": bench.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
