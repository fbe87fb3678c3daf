"""``evaluate_model``: all figures of one model as a dict that JSON can hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..clips import ClipBatch
from ..config import AXES
from ..data.packed import SPLIT_TEST, SPLIT_TRAIN, PackedClips
from ..errors import DataFormatError, InvalidRequestError
from ..install import version
from . import figures
from .blends import blend_figures
from .clipset import ClipSet, Measured, measure, measure_training
from .intervals import FEWEST_CLUSTERS, LEVEL, REPLICATES

FORMAT, FORMAT_VERSION = "gaitcrafter-evaluation", 1
_NEEDED = ("identity", "view", "covariate")

# Stage, and how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]


def evaluate_model(
    clips: ClipBatch | PackedClips,
    data: PackedClips,
    *,
    repeats: ClipBatch | None = None,
    blends: ClipBatch | None = None,
    known_periods: Mapping[str, float] | None = None,
    cache: str | Path | None = None,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure generated clips against the packed set that their model was trained on.

    Args:
        clips: generated clips, one label with identity, view and covariate each. A packed set counts with all its clips.
        data: training and held-out clips of the same vocabulary; the held-out ones give the reference and the galleries.
        repeats: more clips of some of the same cells under another seed, for the overlap of two seeds.
        blends: clips of blended identities, several seeds each, for uniqueness and consistency.
        known_periods: frames per gait cycle by identity name, where they are known (:func:`walker_periods`).
        cache: folder of trained classifiers; default ``~/.cache/gaitcrafter-rt/evaluate``.
        threads: torch threads while the classifier is trained; default torch's own.
        seed: of the bootstrap.
        progress: called with a stage and the share of it that is done.

    Returns:
        A report: see docs/evaluation.md. Verdicts are "reached", "not reached" or "inconclusive".

    Raises:
        InvalidRequestError: shapes or labels of the clips do not fit the data.
        DataFormatError: the data lacks an axis, training clips or held-out clips.
        MissingExtraError: torch or scipy is absent (extra ``train``).
    """
    from . import classifier

    _check(clips, data)
    say = progress or (lambda stage, done: None)
    generated = _measured(clips, data)
    say("held-out clips", 0.0)
    held_out = measure(_known(ClipSet.from_packed(data, SPLIT_TEST), "held-out", data))
    reference = _rows(held_out, figures.select_cells(held_out.clips, generated.clips))
    training = _known(ClipSet.from_packed(data, SPLIT_TRAIN), "training", data)
    say("classifier", 0.0)
    found = classifier.obtain(
        data, training, Path(cache) if cache else classifier.default_cache(),
        threads=threads, progress=lambda done, of: say("classifier", done / of),
    )  # fmt: skip
    say("figures", 0.0)
    m = figures.Material(generated, reference, held_out, measure_training(training), data.labels, seed)
    predicted = (found.predict(generated.planes), found.predict(reference.planes))
    second = _measured(repeats, data) if repeats is not None and len(repeats) else None
    rows = figures.whole_figures(m)
    rows += figures.period_figures(m, known_periods or {})
    rows += figures.label_figures(m, predicted)
    rows += figures.identity_figures(m)
    rows += figures.sanity_figures(m, second)
    extra = blend_figures(blends, held_out, data.labels, seed) if blends is not None and len(blends) else []
    return _report(clips, data, generated, reference, rows, extra, seed)


def _report(
    clips: ClipBatch | PackedClips, data: PackedClips, generated: Measured, reference: Measured,
    rows: list[figures.Figure], extra: list[figures.Figure], seed: int,
) -> dict[str, Any]:  # fmt: skip
    source = data.meta.source
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "gaitcrafter_rt": version(),
        "generated": {
            "clips": len(generated.clips),
            "seed": clips.seed if isinstance(clips, ClipBatch) else None,
            "provenance": clips.provenance if isinstance(clips, ClipBatch) else {"made_by": clips.meta.made_by},
        },
        "data": {
            "name": data.folder.name,
            "source": source,
            "made_by": data.meta.made_by,
            "clips_sha256": data.meta.clips_sha256,
            "labels": {axis: len(getattr(data.labels, axis)) for axis in AXES},
            "held_out_clips": len(reference.clips),
        },
        "note": _NOTES[source],
        "interval": {
            "level": LEVEL, "method": "percentile bootstrap over identities, shares at least as wide as Wilson's",
            "replicates": REPLICATES, "seed": seed, "fewest_clusters": FEWEST_CLUSTERS,
        },
        "figures": rows,
        "blends": extra,
    }  # fmt: skip


_NOTES = {
    "rendered": "All reference clips are rendered walkers, no captured people: nothing here is a statement about CASIA-B "
    "or any other real data set.",
    "real": "Reference clips are captured people of the named data set.",
}


def _check(clips: ClipBatch | PackedClips, data: PackedClips) -> None:
    shape = clips.meta.shape if isinstance(clips, PackedClips) else clips.shape
    if tuple(shape) != data.meta.shape:
        raise InvalidRequestError(f"generated clips have shape {tuple(shape)}, the data {data.meta.shape}; they must agree")
    for axis in _NEEDED:
        if not getattr(data.labels, axis):
            raise DataFormatError(f"{data.folder}: no {axis} labels; evaluating needs identity, view and covariate")
        if isinstance(clips, PackedClips) and getattr(clips.labels, axis) != getattr(data.labels, axis):
            raise InvalidRequestError(f"generated clips and data have different {axis} vocabularies; they must be the same")


def _measured(clips: ClipBatch | PackedClips, data: PackedClips) -> Measured:
    if isinstance(clips, PackedClips):
        sets = [ClipSet.from_packed(clips, split) for split in (SPLIT_TRAIN, SPLIT_TEST)]
        bits, *columns = (
            np.concatenate([getattr(s, n) for s in sets]) for n in ("bits", "identity", "view", "covariate", "sequence")
        )
        found = ClipSet(bits, clips.meta.shape, *columns)
    else:
        found = ClipSet.from_batch(clips, data.labels)
    return measure(_known(found, "generated", data))


def _known(clips: ClipSet, which: str, data: PackedClips) -> ClipSet:
    """The clips with one identity, view and covariate. Raises DataFormatError if there is none."""
    rows = np.flatnonzero((clips.identity >= 0) & (clips.view >= 0) & (clips.covariate >= 0))
    if not len(rows):
        raise DataFormatError(f"{data.folder}: no {which} clips with one identity, view and covariate each")
    return clips[rows]


def _rows(measured: Measured, rows: np.ndarray) -> Measured:
    """A part of what was measured."""
    if not len(rows):
        raise DataFormatError("the data holds no held-out clips of the generated identities, views and covariates")
    parts = (getattr(measured, n)[rows] for n in ("whole", "energy", "period", "foreground", "flicker", "planes"))
    return Measured(measured.clips[rows], *parts)
