"""Many clips at once, packed to bits, in a fixed order whatever the number of processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np

from gaitcrafter_rt.errors import InvalidRequestError

from . import COVARIATES, VIEWS
from .clip import check_request, render_clip
from .identity import require_int, sample_identity

PackedClip = tuple[int, int, str, int, np.ndarray]
_Task = tuple[int, str, int, tuple[int, ...], int, int, int, str]


def _render_task(task: _Task) -> list[np.ndarray]:
    """All views of one recording, so that the body is posed once."""
    index, covariate, sequence, views, seed, frames, size, family = task
    identity = sample_identity(seed, index)
    clips = (render_clip(identity, view, covariate, sequence, seed, frames, size, family=family) for view in views)
    return [np.packbits(clip != 0) for clip in clips]


def render_dataset(
    identities: Iterable[int],
    views: Sequence[int] = VIEWS,
    covariates: Sequence[str] = COVARIATES,
    sequences: Iterable[int] = range(3),
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    frames: int = 30,
    size: int = 64,
    family: str = "hulls",
) -> Iterator[PackedClip]:
    """Render the clips of a data set one after another.

    The order is identities, then covariates, then sequences, then views, and neither the order nor the
    bits depend on `workers`. With workers > 1 the calling script needs the usual
    `if __name__ == "__main__":` guard, since processes are spawned.

    Args:
        identities: walker numbers of population `seed`.
        views: degrees, each 0..180.
        covariates: each "nm", "bg" or "cl".
        sequences: recording numbers, 0 or larger.
        seed: population and recording seed.
        workers: processes, 1..256; 1 renders in this process.
        progress: called as progress(clips done, clips in all) after every recording.
        frames: per clip, 1..1000.
        size: height and width, an even number 16..128; frames * size * size must be a multiple of 8.
        family: one of FAMILIES.

    Yields:
        (identity index, view, covariate, sequence, bits): bits is uint8 [frames*size*size/8], numpy.packbits
        (most significant bit first) of the 0/1 clip, frame after frame, row after row.

    Raises:
        InvalidRequestError: an argument is not allowed; raised by the call itself, before any clip.
    """
    identities, sequences = list(identities), list(sequences)
    views, covariates = tuple(views), tuple(covariates)
    for name, values in (
        ("identities", identities),
        ("views", views),
        ("covariates", covariates),
        ("sequences", sequences),
    ):
        if not values:
            raise InvalidRequestError(f"{name} must not be empty")
    require_int("workers", workers, 1, 256)
    for index in identities:
        require_int("identity index", index, 0, 2**31 - 1)
    for view, covariate in product(views, covariates):
        check_request(view, covariate, 0, seed, frames, size, family)
    for sequence in sequences:
        require_int("sequence", sequence, 0, 2**31 - 1)
    if frames * size * size % 8:
        raise InvalidRequestError(f"frames * size * size must be a multiple of 8, got {frames} * {size} * {size}")
    tasks = [(i, c, s, views, seed, frames, size, family) for i, c, s in product(identities, covariates, sequences)]
    return _run(tasks, workers, progress)


def _run(tasks: list[_Task], workers: int, progress: Callable[[int, int], None] | None) -> Iterator[PackedClip]:
    if workers == 1 or len(tasks) == 1:
        yield from _emit(tasks, map(_render_task, tasks), progress)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from _emit(tasks, pool.imap(_render_task, tasks, chunksize=2), progress)


def _emit(
    tasks: list[_Task], results: Iterable[list[np.ndarray]], progress: Callable[[int, int], None] | None
) -> Iterator[PackedClip]:
    done, total = 0, sum(len(task[3]) for task in tasks)
    for (index, covariate, sequence, views, *_), clips in zip(tasks, results, strict=True):
        for view, bits in zip(views, clips, strict=True):
            yield index, view, covariate, sequence, bits
        done += len(views)
        if progress is not None:
            progress(done, total)
