"""A packed training set from a tree of real recordings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataFormatError, InvalidRequestError
from ..files import PathLike, refuse_occupied_folder
from .mapping import Mapping
from .packed import SPLIT_TEST, SPLIT_TRAIN, PackedWriter
from .recordings import SIZE, Progress, Recording, find_recordings
from .windows import window_starts


@dataclass
class BuildReport:
    """What became of the recordings."""

    out: str
    clips: int = 0
    recordings: int = 0
    too_short: int = 0
    not_listed: int = 0
    unaligned: int = 0
    damaged: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def build_packed(
    tree: PathLike,
    out: PathLike,
    *,
    mapping: Mapping | PathLike | None = None,
    terms: str = "unknown",
    made_by: str = "",
    frames: int = 30,
    stride: int | None = None,
    align: bool = False,
    partition: PathLike | None = None,
    skip_damaged: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Cut every recording of ``tree`` into windows and write them as a packed set at ``out``, pixels above 127 as foreground.

    Args:
        tree, mapping: as for :func:`scan`.
        out: a folder that does not exist or is empty.
        terms: on what terms the data may be used; goes into every model trained on it.
        made_by: a note on how the set was made; the settings are added.
        frames: length of a window.
        stride: frames from one window to the next, default ``frames`` (no overlap).
        align: start windows at double support where the gait shows one (data/windows.py).
        partition: JSON of OpenGait, {"TRAIN_SET": [...], "TEST_SET": [...]}; identities in neither are left out.
            Default: all train.
        skip_damaged: leave damaged recordings out instead of raising; the report names them.
        progress: called as progress(recordings done, recordings in all).

    With several datasets in one tree an identity is called ``DATASET-IDENTITY``, as OpenGait does.

    Raises:
        DataFormatError: the tree, the mapping or a recording is malformed, or no recording is long enough.
        InvalidRequestError: a setting is not allowed. OutputError: ``out`` is occupied or not writable.
    """
    target = refuse_occupied_folder(out)
    if not 1 <= frames <= 512 or (stride is not None and stride < 1):
        raise InvalidRequestError(f"frames must lie in 1..512 and stride be at least 1, got {frames} and {stride}")
    rules = mapping if isinstance(mapping, Mapping) or mapping is None else Mapping.read(mapping)
    recordings = find_recordings(tree, rules).recordings
    several = len({r.dataset for r in recordings}) > 1
    split = _splits(partition)
    chosen = [r for r in recordings if split is None or r.identity in split or _person(r, several) in split]
    report = BuildReport(str(target), recordings=len(chosen), not_listed=len(recordings) - len(chosen))
    if not chosen:
        raise DataFormatError(f"{partition}: lists none of the identities in {tree}")
    note = {"tree": str(tree), "frames": frames, "stride": stride or frames, "align": align, "recordings": len(chosen)}
    writer = PackedWriter(
        target, labels=_vocabulary(chosen, several), source="real", frames=frames, height=SIZE, width=SIZE, terms=terms,
        made_by=f"{made_by} {json.dumps(note)}".strip()[:16384],
    )  # fmt: skip
    try:
        for number, recording in enumerate(chosen):
            _add(writer, recording, number, report, split, several, frames, stride, align, skip_damaged)
            if progress:
                progress(number + 1, len(chosen))
        report.clips = len(writer)
        if not report.clips:
            raise DataFormatError(f"{tree}: none of {len(chosen)} recordings has {frames} frames with a person in them")
        writer.finish()
    except BaseException:
        writer.discard()
        raise
    return report


def _add(
    writer: PackedWriter, recording: Recording, number: int, report: BuildReport, split: dict[str, int] | None,
    several: bool, frames: int, stride: int | None, align: bool, skip_damaged: bool,
) -> None:  # fmt: skip
    try:
        silhouettes = recording.load()
    except DataFormatError as e:
        if not skip_damaged:
            raise DataFormatError(f"{e}; leave such recordings out with skip_damaged (--skip-damaged)") from e
        report.damaged.append(str(e))
        return
    silhouettes = silhouettes[silhouettes.any(axis=(1, 2))]
    starts, aligned = window_starts(silhouettes, frames, stride, align)
    report.too_short += not starts
    report.unaligned += align and bool(starts) and not aligned
    if not starts:
        return
    person = _person(recording, several)
    count = len(starts)
    part = SPLIT_TRAIN if split is None else split.get(recording.identity, split.get(person, SPLIT_TRAIN))
    writer.append_many(
        np.stack([silhouettes[s : s + frames] >= 128 for s in starts]),
        dataset=[recording.dataset] * count, identity=[person] * count, view=[recording.view] * count,
        covariate=[recording.covariate] * count, sequence=[number] * count, split=[part] * count,
    )  # fmt: skip


def _person(recording: Recording, several: bool) -> str:
    return f"{recording.dataset}-{recording.identity}" if several and recording.dataset else recording.identity


def _vocabulary(recordings: list[Recording], several: bool) -> dict[str, list[str]]:
    names: dict[str, set[str | None]] = {
        "dataset": {r.dataset for r in recordings},
        "identity": {_person(r, several) for r in recordings},
        "view": {r.view for r in recordings},
        "covariate": {r.covariate for r in recordings},
    }
    return {axis: sorted(v for v in values if v is not None) for axis, values in names.items()}


def _splits(partition: PathLike | None) -> dict[str, int] | None:
    if partition is None:
        return None
    try:
        text = Path(partition).read_bytes()
        raw = json.loads(text) if len(text) <= 16 << 20 else None
        lists = {SPLIT_TEST: raw["TEST_SET"], SPLIT_TRAIN: raw["TRAIN_SET"]}  # type: ignore[index]
    except OSError as e:
        raise DataFormatError(f"{partition}: the partition cannot be read: {e.strerror or e}") from e
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise DataFormatError(f'{partition}: not a partition; {{"TRAIN_SET": [...], "TEST_SET": [...]}} is expected') from e
    if any(not isinstance(names, list) or any(not isinstance(n, str) for n in names) for names in lists.values()):
        raise DataFormatError(f"{partition}: TRAIN_SET and TEST_SET must be lists of identities")
    both = set(lists[SPLIT_TRAIN]) & set(lists[SPLIT_TEST])
    if both:
        raise DataFormatError(f"{partition}: {sorted(both)[:5]} stand in TRAIN_SET and TEST_SET; nobody may be in both")
    return {name: part for part, names in lists.items() for name in names}
