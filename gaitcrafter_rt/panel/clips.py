"""The panel's generated columns: made natively once, kept by what determines their bits, and grown when more are asked for.

A column is a bulk job in the cache folder, so that a thousand-step reference that takes hours may be stopped and goes on, and
more clips of it leave those that are there as they are. Needs the extra ``bulk``.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..bulk.arrow import arrow
from ..bulk.dataset import ClipDataset
from ..bulk.filesystem import LocalFileSystem
from ..bulk.job import run_job
from ..bulk.machine import open_engine
from ..bulk.opening import open_job
from ..bulk.planning import Request, open_or_create
from ..bulk.table import Table
from ..clips import ClipBatch
from ..config import Labels
from ..errors import CancelledError, InternalError, InvalidRequestError
from ..evaluate.clipset import ClipSet
from ..files import PathLike
from .cells import spread_cells


def obtain(
    model: PathLike,
    labels: Labels,
    count: int,
    cache: Path,
    *,
    seed: int = 0,
    precision: str = "auto",
    workers: int = 1,
    made: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    **sampler: Any,
) -> ClipSet:
    """``count`` clips of ``model`` over :func:`spread_cells` of its labels, from the cache or made now.

    Args:
        model: model folder, or the name of one that ships.
        labels: the vocabulary that the clips' labels are numbered in.
        cache: folder of the jobs, made if absent.
        seed, sampler: as in ``Engine.generate``.
        workers: processes.
        made: folder of columns that were made elsewhere (``made.py``); one with this model, seed and sampler is taken.
        progress: gets (clips done, of).

    Raises:
        What the engine and a bulk job raise; CancelledError if it was interrupted (what is made stays and the next call goes on).
    """
    engine = open_engine(model, None, precision=precision, threads=1)
    info = engine.info
    if made is not None:
        from .made import find

        names = Labels.model_validate(engine.vocabulary.labels)
        found = find(made, info["model_sha256"], seed, engine.resolve_sampler(**sampler), count, names)
        if found is not None:
            if names != labels:
                raise InvalidRequestError(f"the columns of {made} are numbered by the model's labels, which are not the data's")
            engine.close()
            return found
    key = {
        "model": info["model_sha256"], "build": engine.build, "precision": info["precision"], "isa": info["isa"], "seed": seed,
        "sampler": engine.resolve_sampler(**sampler),
    }  # fmt: skip
    folder = cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    cache.mkdir(parents=True, exist_ok=True)
    fs = LocalFileSystem()
    # A job never shrinks: where it holds more clips already, it stays as it is and the first of them are taken.
    total = max(count, open_job(folder, fs).clips) if (folder / "plan.json").exists() else count
    cells = spread_cells(Labels.model_validate(engine.vocabulary.labels), total)
    request = Request(_table(cells), total, seed=seed, sampler=sampler, block_clips=16, shard_clips=256, extend=True)
    job = open_or_create(fs, folder, request, engine)
    report = None if progress is None else lambda now: progress(now.clips, job.clips)
    result = run_job(job, engine, workers=workers if workers > 1 else 0, report=report)
    engine.close()
    if not result.complete:
        raise CancelledError(f"{folder} is not complete; the same command goes on where it stopped")
    with ClipDataset.open(folder) as clips:
        batch = ClipBatch.concatenate(list(clips.batches()))
    if len(batch) < count:
        raise InternalError(f"{folder}: {len(batch)} of {count} clips have a silhouette; the receipts say why the others failed")
    return ClipSet.from_batch(batch[np.arange(count)], labels)


def network_calls(model: PathLike, **sampler: Any) -> int:
    """Calls of the network that a clip of ``model`` takes with these sampler arguments, both lanes of guidance counted."""
    engine = open_engine(model, None, threads=1)
    settings = engine.resolve_sampler(**sampler)
    engine.close()
    return int(settings["steps"]) * (1 if settings["guidance"] in (0.0, 1.0) else 2)


def _table(cells: list[dict[str, str]]) -> Table:
    pa = arrow()
    sink = io.BytesIO()
    pa.parquet.write_table(pa.table({axis: [cell[axis] for cell in cells] for axis in ("identity", "view", "covariate")}), sink)
    sink.seek(0)
    return Table.read(sink, "the panel's conditions")
