"""Finding the recordings in a tree and loading one as aligned silhouettes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DataFormatError
from ..files import PathLike
from .mapping import BUILT_IN, CompiledRule, Mapping
from .normalise import normalise_silhouettes
from .pickles import read_pickle

SIZE = 64
_MAX_DEPTH = 16
_MAX_SIDE = 8192
_EXAMPLES = 20
Key = tuple[str | None, str, str | None, str | None, str | None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recording:
    """One walk seen by one camera. ``files`` are relative to ``tree``: one pickle, or the frames in order."""

    tree: Path
    kind: Literal["pkl", "png"]
    dataset: str | None
    identity: str
    covariate: str | None
    sequence: str | None
    view: str | None
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file, or the folder of the frames, for messages."""
        return self.files[0] if self.kind == "pkl" else os.path.dirname(self.files[0])

    def load(self) -> np.ndarray:
        """uint8 [T, 64, 64], 0..255, normalised as OpenGait does; frames without a person are left out, so T may be 0.

        Raises DataFormatError for damaged, hostile or unknown content.
        """
        if self.kind == "pkl":
            return fit_size(full_range(read_pickle(self.tree / self.files[0])), self.name)
        return normalise_silhouettes((_read_png(self.tree / name) for name in self.files), SIZE)


@dataclass
class Found:
    """What a tree holds by name, before any file is opened."""

    recordings: list[Recording] = field(default_factory=list)
    files: int = 0
    unmatched: int = 0
    unmatched_examples: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)


def find_recordings(tree: PathLike, mapping: Mapping | None = None) -> Found:
    """List the recordings of a tree, sorted by labels.

    Without a mapping the built-in layouts are tried: raw CASIA-B frames, CASIA-B* and SUSTech1K aligned silhouettes, and OpenGait's
    ``identity/covariate-sequence/view/view.pkl``, ``identity/sequence/view/view.pkl`` and ``identity/type/view/view.pkl``.
    Raises DataFormatError if the tree does not exist or nothing in it fits.
    """
    root = Path(tree)
    if not root.is_dir():
        raise DataFormatError(f"{root}: not a folder")
    rules = (mapping or BUILT_IN).compiled()
    found = Found()
    groups: dict[Key, dict[int, list[tuple[tuple[int, str], str]]]] = {}
    for path in _walk(root):
        found.files += 1
        match = _match(path, rules)
        if match is None:
            found.unmatched += 1
            if len(found.unmatched_examples) < _EXAMPLES:
                found.unmatched_examples.append(path)
            continue
        rank, fields = match
        key = (fields.get("dataset"), fields["identity"], fields.get("covariate"), fields.get("sequence"), fields.get("view"))
        frame = fields.get("frame", "")
        order = (int(frame) if frame.isascii() and frame.isdigit() and len(frame) < 19 else -1, path)
        groups.setdefault(key, {}).setdefault(rank, []).append((order, path))
    for key in sorted(groups, key=lambda k: tuple(p or "" for p in k)):
        ranks = groups[key]
        best = min(ranks)
        files = tuple(path for _, path in sorted(ranks[best]))
        kind = rules[best].kind
        if kind == "pkl" and len(files) > 1:
            found.duplicates.append(
                f"{', '.join(files[:3])}: {len(files)} files of one recording; a mapping file can tell them apart"
            )
            files = files[:1]
        found.recordings.append(Recording(root, kind, *key, files))  # type: ignore[arg-type]
    if not found.recordings:
        raise DataFormatError(
            f"{root}: no file fits {'the mapping' if mapping else 'a known layout'} ({found.files} files seen"
            + (f", e.g. {found.unmatched_examples[0]!r:.120}" if found.unmatched_examples else "")
            + "); give a mapping file that says which part of the path is the identity, the view and the covariate"
        )
    return found


def full_range(frames: np.ndarray) -> np.ndarray:
    """0/1 pictures become 0/255; everything else stays. OpenGait divides by 255 whatever the values are."""
    if frames.size and frames.max() <= 1:
        return frames * np.uint8(255)
    return frames


def fit_size(frames: np.ndarray, source: str) -> np.ndarray:
    """Aligned silhouettes [T, 64 or 128, width] to [T, 64, 64].

    128 rows are averaged two by two, missing columns are padded evenly on both sides. Raises DataFormatError for other sizes.
    """
    count, height, width = frames.shape
    if height not in (SIZE, 2 * SIZE) or width > height or width % (2 * height // SIZE):
        raise DataFormatError(
            f"{source}: frames of {height}x{width}; aligned silhouettes have 64 rows and at most 64 columns, or twice that"
        )
    if height == 2 * SIZE:
        blocks = frames.reshape(count, SIZE, 2, width // 2, 2)
        frames = ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)
    side = (SIZE - frames.shape[2]) // 2
    return np.pad(frames, ((0, 0), (0, 0), (side, side))) if side else frames


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all .pkl and .png files, sorted, links followed, loops cut."""
    stack: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ())]
    while stack:
        folder, above = stack.pop()
        place = root / folder
        status = place.stat()
        here = (status.st_dev, status.st_ino)
        if here in above or len(above) >= _MAX_DEPTH:
            continue
        try:
            entries = sorted(os.scandir(place), key=lambda e: e.name)
        except OSError as e:
            raise DataFormatError(f"{place}: cannot be listed: {e.strerror}") from e
        inner = []
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                inner.append((path, (*above, here)))
            elif entry.name[-4:].lower() in (".pkl", ".png") and entry.is_file():
                yield path
        stack.extend(reversed(inner))


def _match(path: str, rules: list[CompiledRule]) -> tuple[int, dict[str, str]] | None:
    for rank, rule in enumerate(rules):
        if fields := rule.match(path):
            # A name that is not text cannot be a label.
            ok = all(0 < len(v) <= 128 and v.isprintable() for v in fields.values())
            return (rank, fields) if ok else None
    return None


def _read_png(path: Path) -> np.ndarray:
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if max(picture.size) > _MAX_SIDE:
                raise DataFormatError(f"{path}: {picture.size[0]}x{picture.size[1]} pixels; at most {_MAX_SIDE} a side are read")
            return full_range(np.asarray(picture.convert("L")))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        if isinstance(e, DataFormatError):
            raise
        raise DataFormatError(f"{path}: not a readable PNG: {e}") from e
