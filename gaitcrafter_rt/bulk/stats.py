"""What a job holds: counts per label and flag, sizes, failures; from receipts and label columns, no silhouette is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .filesystem import FileSystem, LocalFileSystem
from .opening import open_job
from .reader import ShardFile
from .receipts import scan_only

_AXES = ("dataset", "identity", "view", "covariate")


def stats(
    root: str | Path, *, fs: FileSystem | None = None, progress: Callable[[int, int], object] | None = None
) -> dict[str, Any]:
    """Facts of a job for people and for JSON.

    Raises DataFormatError if ``root`` is no job's folder or a shard that has a receipt cannot be read.
    """
    fs = fs or LocalFileSystem()
    job = open_job(root, fs)
    receipts = scan_only(fs, job.folder, job.plan, job.table)
    counts: dict[str, Counter[str | None]] = {axis: Counter() for axis in _AXES}
    quality: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    for done, (number, receipt) in enumerate(receipts.items(), 1):
        quality.update(receipt.quality)
        hosts[receipt.made_by.host] += 1
        with ShardFile(job.folder.shard(number), fs) as file:
            for group in range(file.row_groups):
                table = file.table(group, _AXES)
                for axis in _AXES:
                    for value in table[axis].value_counts():
                        counts[axis][value["values"].as_py()] += value["counts"].as_py()
        if progress:
            progress(done, len(receipts))
    spec = job.plan.spec
    clips = sum(r.clips for r in receipts.values())
    size = sum(r.bytes for r in receipts.values())
    seconds = sum(r.made_by.seconds for r in receipts.values())
    failures = [f for number in sorted(receipts) for f in receipts[number].quarantined]
    return {
        "path": str(root), "plan_id": job.plan.plan_id, "complete": len(receipts) == len(job.table), "clips": clips,
        "clips_total": job.clips, "shards": len(receipts), "shards_total": len(job.table), "bytes": size,
        "bytes_per_clip": round(size / clips, 1) if clips else None, "shape": [spec.clip.frames, spec.clip.height, spec.clip.width],
        "engine_seconds": round(seconds, 3), "hosts": dict(hosts), "quality": dict(quality), "quarantined": len(failures),
        "failures": [{"clip": f.clip, "clip_index": f.clip_index, "error": f.error} for f in failures[:100]],
        "labels": {axis: {k or "": n for k, n in sorted(c.items(), key=lambda i: i[0] or "")} for axis, c in counts.items()},
        "plan": spec.model_dump(mode="json", exclude={"conditions"}),
    }  # fmt: skip
