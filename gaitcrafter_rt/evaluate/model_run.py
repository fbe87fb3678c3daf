"""``run``: generate every cell of a model's vocabulary with the engine, measure, and write the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..clips import ClipBatch
from ..config import Labels
from ..data.packed import PackedClips
from ..errors import InvalidRequestError
from ..files import PathLike, new_file, refuse_existing_file
from ..models import resolve_model
from ..package import read_config
from .report import Progress, evaluate_model

# (conditions, seed, number of the first clip, progress(done)) to clips; the engine's stream, or a stand-in.
Generate = Callable[[Sequence[dict[str, Any]], int, int, Callable[[int], None]], ClipBatch]

BLEND_PAIRS, BLEND_SEEDS = 10, 4
_BATCH = 64
_MADE_BY = re.compile(r"rendered walkers, renderer version (\d+), population seed (\d+)(?:, family \w+)?")


def run(
    model_path: PathLike,
    data_folder: PathLike,
    out_json: PathLike | None = None,
    clips_per_cell: int = 1,
    seed: int = 0,
    threads: int | None = None,
    *,
    blend_pairs: int = BLEND_PAIRS,
    blend_seeds: int = BLEND_SEEDS,
    cache: PathLike | None = None,
    generate: Generate | None = None,
    progress: Progress | None = None,
    command: str = "",
    **sampler: Any,
) -> dict[str, Any]:
    """Evaluate a model against the packed set it was trained on.

    Args:
        model_path: model package, or the name of a model that ships.
        data_folder: packed set with training and held-out clips.
        out_json: where the report goes; must not exist. None: nowhere.
        clips_per_cell: clips of every (identity, view, covariate).
        seed: of the clips and of the bootstrap; repeats take the next seed.
        threads: of the engine and of torch; None: one per processor.
        blend_pairs, blend_seeds: how many pairs of identities are blended, and how many clips of each; 0 pairs: none.
        cache: folder of trained classifiers.
        generate: makes the clips instead of the engine.
        progress: called with a stage and the share of it that is done.
        command: the command line, kept in the report.
        sampler: sampler arguments of ``Engine.generate``; default the model's own.

    Returns:
        The report of :func:`evaluate_model`, with the request added under ``generated``.

    Raises:
        InvalidRequestError: the model's labels are not those of the data, or an argument is out of range; before anything runs.
        OutputError: ``out_json`` exists or cannot be written. Also what ``Engine`` and :func:`evaluate_model` raise.
    """
    if clips_per_cell < 1 or blend_pairs < 0 or blend_seeds < 1:
        raise InvalidRequestError(
            f"clips per cell {clips_per_cell} and blend seeds {blend_seeds} must be at least 1, "
            f"blend pairs {blend_pairs} at least 0"
        )
    if isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise InvalidRequestError(f"seed is {seed!r}; it must be an integer from 0 to 2**64 - 1")
    if out_json is not None:
        refuse_existing_file(out_json)
    data = PackedClips.open(data_folder)
    data.verify()
    labels = _shared_labels(read_config(resolve_model(model_path)).labels, data)
    say = progress or (lambda stage, done: None)
    make = generate or _engine(model_path, threads, sampler)
    plain = [cell for cell in cells(labels) for _ in range(clips_per_cell)]
    again, pairs = repeat_cells(labels), blend_conditions(labels, blend_pairs, blend_seeds, seed)
    total, done = len(plain) + len(again) + len(pairs), 0

    def tell(clips: int) -> None:
        say("generating", (done + clips) / total)

    clips = make(plain, seed, 0, tell)
    done = len(plain)
    repeats = make(again, (seed + 1) % 2**64, 0, tell)
    done += len(again)
    blends = make(pairs, seed, len(plain), tell) if pairs else None
    report = evaluate_model(
        clips, data, repeats=repeats, blends=blends, known_periods=walker_periods(data), cache=Path(cache) if cache else None,
        threads=threads, seed=seed, progress=progress,
    )  # fmt: skip
    report["generated"] |= {
        "clips_per_cell": clips_per_cell, "repeats": len(again), "blend_pairs": blend_pairs, "blend_seeds": blend_seeds,
    }  # fmt: skip
    report["command"] = command
    if out_json is not None:
        with new_file(out_json) as f:
            f.write((json.dumps(report, indent=1) + "\n").encode())
    return report


def cells(labels: Labels) -> list[dict[str, str]]:
    """Every (identity, view, covariate) of a vocabulary, covariates fastest."""
    return [{"identity": i, "view": v, "covariate": c} for i in labels.identity for v in labels.view for c in labels.covariate]


def repeat_cells(labels: Labels) -> list[dict[str, str]]:
    """One cell per identity and covariate; the views take turns."""
    views = labels.view
    return [
        {"identity": name, "view": views[(i + j * (len(views) // 3 + 1)) % len(views)], "covariate": c}
        for i, name in enumerate(labels.identity)
        for j, c in enumerate(labels.covariate)
    ]


def blend_conditions(labels: Labels, pairs: int, seeds: int, seed: int) -> list[dict[str, Any]]:
    """``seeds`` clips of each of ``pairs`` two-hot blends, in the middle view and the first covariate.

    No identity is in two pairs as long as there are enough. Empty if the vocabulary has fewer than two identities.
    """
    names = labels.identity
    if len(names) < 2:
        return []
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xB1E4D]))
    chosen: list[int] = []
    while len(chosen) < 2 * pairs:
        chosen += rng.permutation(len(names))[: len(names) // 2 * 2].tolist()
    view, covariate = labels.view[len(labels.view) // 2], labels.covariate[0]
    return [
        {"identity": {names[a]: 1.0, names[b]: 1.0}, "view": view, "covariate": covariate}
        for a, b in zip(chosen[0 : 2 * pairs : 2], chosen[1 : 2 * pairs : 2], strict=True)
        for _ in range(seeds)
    ]


def walker_periods(data: PackedClips) -> dict[str, float]:
    """Frames per gait cycle of rendered walkers by identity name, from the walkers themselves; empty for any other data."""
    from ..walkers import RENDERER_VERSION, sample_identity
    from ..walkers.kinematics import FRAMES_PER_SECOND

    found = _MADE_BY.fullmatch(data.meta.made_by)
    if data.meta.source != "rendered" or found is None or int(found[1]) != RENDERER_VERSION:
        return {}
    names = [name for name in data.labels.identity if name.isdecimal() and int(name) >= 1]
    return {name: sample_identity(int(found[2]), int(name) - 1).style.stride_time * FRAMES_PER_SECOND for name in names}


def _shared_labels(labels: Labels, data: PackedClips) -> Labels:
    for axis in ("identity", "view", "covariate"):
        names = getattr(labels, axis)
        if not names:
            raise InvalidRequestError(f"the model has no {axis} labels; evaluating needs identity, view and covariate")
        if unknown := sorted(set(names) - set(getattr(data.labels, axis))):
            raise InvalidRequestError(
                f"{data.folder} holds no {axis} {unknown[0]!r} ({len(unknown)} such labels); "
                "give the data that the model was trained on"
            )
    return labels


def _engine(model_path: PathLike, threads: int | None, sampler: dict[str, Any]) -> Generate:
    from ..engine import Engine

    engine = Engine.from_pretrained(model_path, threads=threads)

    def make(conditions: Sequence[dict[str, Any]], seed: int, start: int, tell: Callable[[int], None]) -> ClipBatch:
        def report(p: Any) -> None:
            tell(p.clips_done)

        return ClipBatch.concatenate(list(engine.stream(conditions, _BATCH, seed, start, progress=report, **sampler)))

    return make
