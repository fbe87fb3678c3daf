"""What a job will cost, measured on a few of its clips, before anything is written."""

from __future__ import annotations

import io
import time
import zlib
from dataclasses import dataclass

import numpy as np

from ..clips import ClipBatch
from .arrow import arrow
from .blocks import Block
from .filesystem import FileSystem
from .format import WRITER_OPTIONS, clip_bytes, rows, schema
from .opening import OpenJob
from .quality import assess
from .reader import provenance
from .worker import ClipEngine, Worker

SAMPLE = 8
# Of a pickle beside its pixels, and of a shard beside its clips: file headers, footer with the plan, receipt.
_PICKLE_BYTES, _RECEIPT_BYTES = 164, 6000


@dataclass(frozen=True)
class Estimate:
    """What a job will take.

    Attributes:
        seconds_per_clip: of one worker, the median over the sample.
        hours: with all workers; core_hours: of processors (workers x threads).
        files: shards and receipts.
        bytes: by format, of all clips: ``parquet`` (the job itself), ``npz``, ``cache`` (packed), ``opengait`` (pickles).
        free: bytes free where the job would stand.
        sample: the clips that were made, spread over the job.
    """

    clips: int
    seconds_per_clip: float
    workers: int
    hours: float
    core_hours: float
    shards: int
    files: int
    bytes: dict[str, int]
    free: int
    sample: ClipBatch

    @property
    def fits(self) -> bool:
        """There is room for the job."""
        return self.bytes["parquet"] <= self.free


def estimate(job: OpenJob, engine: ClipEngine, fs: FileSystem, *, workers: int, threads: int = 1) -> Estimate:
    """Time a few clips spread over the job, and measure their sizes. Raises what the engine raises."""
    spec, width = job.plan.spec, clip_bytes(job.plan)
    worker = Worker(fs, job, engine)
    count = min(SAMPLE, job.clips)
    numbers = [k * job.clips // count for k in range(count)]
    packed, times = [], []
    for number in numbers:
        began = time.perf_counter()
        packed.append(worker.generate(number, 1))
        times.append(time.perf_counter() - began)
    clips = np.concatenate(packed)
    shape = (spec.clip.frames, spec.clip.height, spec.clip.width)
    batch = ClipBatch(
        clips, shape, [job.conditions.plain(k) for k in numbers], spec.seed,
        np.array([spec.first_clip + k for k in numbers], np.uint64), provenance(spec),
    )  # fmt: skip
    # The first call also pays for what later ones find ready; the median leaves it out.
    seconds = float(np.median(times))
    pixels = shape[0] * shape[1] * shape[2]
    overhead = len(job.table) * (_RECEIPT_BYTES + _footer_bytes(job))
    per_clip = {
        "parquet": _parquet_bytes(job, clips, shape),
        "npz": sum(len(zlib.compress(c.tobytes(), 6)) for c in clips) / count,
        "cache": float(width),
        "opengait": float(pixels + _PICKLE_BYTES),
    }
    sizes = {name: round(size * job.clips) for name, size in per_clip.items()}
    sizes["parquet"] += overhead
    hours = seconds * job.clips / max(1, workers) / 3600
    return Estimate(
        job.clips, seconds, workers, hours, hours * workers * threads, len(job.table), 2 * len(job.table) + 1, sizes,
        fs.free(job.folder.root), batch,
    )  # fmt: skip


def _parquet_bytes(job: OpenJob, clips: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Bytes of a clip's row in a full row group, the footer left out."""
    many = min(64, job.clips)
    repeat = np.resize(np.arange(len(clips)), many)
    sink = io.BytesIO()
    pq = arrow().parquet
    sizes = 0
    with pq.ParquetWriter(sink, schema(clips.shape[1]), **WRITER_OPTIONS) as out:
        # One clip after the other, so that equal clips do not shorten each other.
        for k in range(len(clips)):
            out.write_table(rows(job.plan, job.conditions, Block(k, clips[k : k + 1], assess(clips[k : k + 1], shape))))
    metadata = pq.read_metadata(io.BytesIO(sink.getvalue()))
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        columns = {group.column(c).path_in_schema: group.column(c).total_compressed_size for c in range(group.num_columns)}
        sizes += columns["silhouette"]
    # Labels of many rows together, as a shard has them.
    labels = rows(job.plan, job.conditions, Block(0, clips[repeat], np.zeros(many, np.uint16))).drop_columns(["silhouette"])
    labels_only = io.BytesIO()
    options = {**WRITER_OPTIONS, "write_page_index": False}
    pq.write_table(labels, labels_only, **options)
    small = pq.read_metadata(io.BytesIO(labels_only.getvalue())).row_group(0)
    return sizes / len(clips) + sum(small.column(c).total_compressed_size for c in range(small.num_columns)) / many


def _footer_bytes(job: OpenJob) -> int:
    shard = job.table[0]
    groups = -(-shard.clips // 64)
    return 1200 * groups + len(job.plan.spec.model_dump_json())
