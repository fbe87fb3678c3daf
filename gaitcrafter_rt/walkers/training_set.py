"""A rendered training set as a packed folder: what ``gaitcrafter-rt walkers render`` writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gaitcrafter_rt.config import Labels
from gaitcrafter_rt.data.packed import SPLIT_TEST, SPLIT_TRAIN, PackedWriter
from gaitcrafter_rt.errors import InvalidRequestError

from . import COVARIATES, RENDERER_VERSION, VIEWS
from .dataset import render_dataset

TERMS = "Rendered by gaitcrafter-rt from published gait and body statistics; no person was captured. Apache-2.0."


def render_training_set(
    folder: str | Path,
    identities: int = 48,
    train_sequences: int = 6,
    test_sequences: int = 2,
    first_identity: int = 0,
    views: Sequence[int] = VIEWS,
    covariates: Sequence[str] = COVARIATES,
    seed: int = 0,
    workers: int = 1,
    frames: int = 30,
    size: int = 64,
    family: str = "hulls",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render walkers ``first_identity .. + identities`` of population ``seed`` into a packed set at ``folder``.

    Recordings 0 .. train_sequences - 1 are the training split, the next test_sequences are held out. Identities are named
    from their number, three digits, counted from 1. ``family`` is one of FAMILIES. ``progress(done, of)`` counts clips.
    Raises InvalidRequestError before anything is written, OutputError if ``folder`` is occupied.
    """
    if identities < 1 or train_sequences < 1 or test_sequences < 0 or first_identity < 0:
        raise InvalidRequestError(
            f"identities {identities} and train_sequences {train_sequences} must be at least 1, "
            f"test_sequences {test_sequences} and first_identity {first_identity} at least 0"
        )
    numbers = range(first_identity, first_identity + identities)
    clips = render_dataset(
        numbers, views, covariates, range(train_sequences + test_sequences), seed, workers, progress, frames, size, family
    )
    labels = Labels(
        identity=[f"{n + 1:03d}" for n in numbers], view=[f"{v:03d}" for v in views], covariate=list(covariates)
    )
    made_by = f"rendered walkers, renderer version {RENDERER_VERSION}, population seed {seed}"
    if family != "hulls":
        made_by += f", family {family}"
    with PackedWriter(
        folder, labels=labels, source="rendered", frames=frames, height=size, width=size, terms=TERMS, made_by=made_by
    ) as writer:
        for number, view, covariate, sequence, bits in clips:
            writer.append_packed(
                bits[None],
                identity=[f"{number + 1:03d}"],
                view=[f"{view:03d}"],
                covariate=[covariate],
                sequence=[sequence],
                split=[SPLIT_TRAIN if sequence < train_sequences else SPLIT_TEST],
            )
    return Path(folder)
