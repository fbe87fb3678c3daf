"""What a tree of recordings holds and what is wrong with it, before anyone trains on it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import DataFormatError
from ..files import PathLike
from .mapping import Mapping
from .pickles import read_pickle
from .recordings import Progress, Recording, find_recordings, fit_size, full_range

AXES = ("dataset", "identity", "covariate", "sequence", "view")
_EXAMPLES = 20
# OpenGait's pretreatment warns below this number of frames.
_FEW = 5


@dataclass
class ScanReport:
    """Counts and findings; ``to_dict`` for JSON, ``problems`` for a verdict.

    ``axes`` maps an axis to its labels and their numbers of recordings. ``missing`` counts, per dataset, combinations of identity,
    (covariate, sequence) and view that are absent although each occurs somewhere. ``frames`` counts those with a person in
    them; PNG frames are taken by name unless ``deep``. Lists hold at most 20 examples; the counts beside them are complete.
    """

    tree: str
    deep: bool
    files: int = 0
    unmatched: int = 0
    unmatched_examples: list[str] = field(default_factory=list)
    recordings: int = 0
    axes: dict[str, dict[str, int]] = field(default_factory=dict)
    frames: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    missing_examples: list[str] = field(default_factory=list)
    window: int = 30
    short: int = 0
    short_examples: list[str] = field(default_factory=list)
    few: int = 0
    empty: int = 0
    empty_examples: list[str] = field(default_factory=list)
    damaged: int = 0
    damaged_examples: list[str] = field(default_factory=list)
    zero_one: int = 0
    duplicates: list[str] = field(default_factory=list)
    synthetic: int = 0

    @property
    def problems(self) -> list[str]:
        """One line per finding, the worst first; an empty list is a clean tree."""
        found = [
            (self.damaged, "recordings are damaged or refused"),
            (self.empty, "recordings hold no frame with a person"),
            (
                self.short,
                f"recordings are shorter than {self.window} frames and give no clip ({self.few} of them below {_FEW} frames)",
            ),
            (len(self.duplicates), "recordings come in several files, of which one is taken"),
            (self.missing, "combinations of identity, covariate and view are missing"),
            (self.unmatched, "files fit no rule and are left alone"),
            (
                self.zero_one,
                "recordings hold 0/1 instead of 0/255; they are read right here, but OpenGait would see them 255 times too dark",
            ),
            (self.synthetic, "recordings carry the prefix syn- of generated clips; do not call a set that holds them real"),
        ]
        return [f"{count} {text}" for count, text in found if count]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, ``problems`` included."""
        return {**asdict(self), "problems": self.problems}


def scan(
    tree: PathLike,
    mapping: Mapping | PathLike | None = None,
    *,
    window: int = 30,
    deep: bool = False,
    progress: Progress | None = None,
) -> ScanReport:
    """Look through a tree of real data.

    Pickles are opened and checked; PNG frames are counted by name, and decoded and normalised only with ``deep``.

    Args:
        tree: its root.
        mapping: a Mapping or the path of a mapping file; None tries the built-in layouts.
        window: frames that a clip needs.
        deep: decode every frame, so that frames without a person are found too.
        progress: called as progress(recordings done, recordings in all).

    Raises:
        DataFormatError: no such folder, nothing in it fits, or the mapping is malformed.
    """
    rules = mapping if isinstance(mapping, Mapping) or mapping is None else Mapping.read(mapping)
    found = find_recordings(tree, rules)
    report = ScanReport(
        tree=str(tree), deep=deep, files=found.files, unmatched=found.unmatched, unmatched_examples=found.unmatched_examples,
        recordings=len(found.recordings), duplicates=found.duplicates, window=window,
    )  # fmt: skip
    lengths, sizes = [], Counter[str]()
    for number, recording in enumerate(found.recordings):
        lengths.append(_examine(recording, report, sizes, deep))
        if progress:
            progress(number + 1, len(found.recordings))
    report.axes = {axis: _counts(found.recordings, axis) for axis in AXES}
    report.sizes = dict(sizes.most_common())
    usable = np.array([n for n in lengths if n is not None] or [0])
    report.frames = {
        "total": int(usable.sum()),
        "min": int(usable.min()),
        "median": float(np.median(usable)),
        "max": int(usable.max()),
    }
    _gaps(found.recordings, report)
    report.synthetic = sum(r.identity.startswith("syn-") for r in found.recordings)
    return report


def _examine(recording: Recording, report: ScanReport, sizes: Counter[str], deep: bool) -> int | None:
    try:
        if recording.kind == "png" and not deep:
            length = len(recording.files)
        else:
            if recording.kind == "pkl":
                raw = read_pickle(recording.tree / recording.files[0])
                sizes[f"{raw.shape[1]}x{raw.shape[2]}"] += 1
                report.zero_one += bool(raw.size and raw.max() == 1)
                frames = fit_size(full_range(raw), recording.name)
            else:
                frames = recording.load()
            length = int(frames.any(axis=(1, 2)).sum())
    except DataFormatError as e:
        report.damaged += 1
        _example(report.damaged_examples, str(e))
        return None
    if length == 0:
        report.empty += 1
        _example(report.empty_examples, recording.name)
    elif length < report.window:
        report.short += 1
        report.few += length < _FEW
        _example(report.short_examples, f"{recording.name} ({length} frames)")
    return length


def _counts(recordings: list[Recording], axis: str) -> dict[str, int]:
    counts = Counter(getattr(r, axis) for r in recordings)
    return {k: counts[k] for k in sorted(k for k in counts if k is not None)}


def _gaps(recordings: list[Recording], report: ScanReport) -> None:
    for dataset in sorted({r.dataset for r in recordings}, key=str):
        here = [r for r in recordings if r.dataset == dataset]
        present = {(r.identity, (r.covariate, r.sequence), r.view) for r in here}
        identities, kinds, views = {p[0] for p in present}, {p[1] for p in present}, {p[2] for p in present}
        missing = len(identities) * len(kinds) * len(views) - len(present)
        report.missing += missing
        if not missing:
            continue
        for identity in sorted(identities):
            for kind in sorted(kinds, key=str):
                for view in sorted(views, key=str):
                    if len(report.missing_examples) >= _EXAMPLES:
                        return
                    if (identity, kind, view) not in present:
                        parts = [dataset, identity, "-".join(p for p in kind if p), view]
                        _example(report.missing_examples, "/".join(p for p in parts if p))


def _example(examples: list[str], text: str) -> None:
    if len(examples) < _EXAMPLES:
        examples.append(text)
