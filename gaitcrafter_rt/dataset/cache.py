"""Making a cache: the silhouettes of a data set unpacked from Parquet into one file that loaders map."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..bulk.documents import hash_of
from ..bulk.format import BIT_ORDER
from ..config import AXES
from ..errors import InvalidRequestError, OutputError
from ..files import PathLike, new_folder
from .cache_format import CHECKSUMS, CHUNK_CLIPS, INDEX, MAX_CLIPS, META, RECORD, SILHOUETTES, CacheMeta, CacheOrigin, write_json
from .cached import ClipCache
from .opening import open_source
from .select import Selection
from .source import Origin, Progress, Rows

# A name is one label of at most 128 characters, or a blend of some hundreds.
_NAME_BYTES = 1 << 16


def build_cache(source: PathLike, out: PathLike, selection: Selection | None = None, progress: Progress | None = None) -> ClipCache:
    """Pack what ``source`` (see :func:`open_source`) holds into the folder ``out`` and open it.

    Clips that were quarantined have no silhouette and are left out. A folder that holds a cache of the very same clips is opened
    as it is. Raises OutputError if ``out`` holds anything else, DataFormatError for a damaged source, InvalidRequestError if
    nothing is selected.
    """
    opened, chosen = open_source(Path(source)), selection or Selection()
    made_from = hash_of({"source": opened.fingerprint(), "selection": chosen.to_json()})
    target = Path(out)
    if (target / META).is_file():
        there = ClipCache.open(target)
        if there.meta.made_from == made_from:
            return there
        raise OutputError(f"{target} is a cache of other clips; choose another place or remove it")
    with new_folder(target) as folder:
        with (folder / SILHOUETTES).open("wb") as silhouettes, (folder / INDEX).open("wb") as index:
            writer = _Writer(silhouettes, index)
            for rows in opened.rows(chosen, progress):
                writer.add(rows)
        writer.finish(folder, opened.shape, made_from)
    return ClipCache.open(target)


class _Writer:
    """Rows to the two binary files; labels are numbered as they come and sorted at the end."""

    def __init__(self, silhouettes: BinaryIO, index: BinaryIO) -> None:
        self._silhouettes, self._index = silhouettes, index
        self._numbers: dict[str, dict[str, int]] = {axis: {} for axis in AXES}
        self._blends: dict[str, dict[str, float]] = {}
        self._origins: dict[str, tuple[int, Origin]] = {}
        self._clips = 0
        self._chunk, self._chunks = hashlib.sha256(), []  # type: ignore[var-annotated]

    def add(self, rows: Rows) -> None:
        records = np.zeros(len(rows), RECORD)
        records["clip_index"], records["seed"], records["quality"] = rows.clip_index, rows.seed, rows.quality
        records["origin"], _ = self._origins.setdefault(rows.origin.plan_id, (len(self._origins), rows.origin))
        for axis in AXES:
            numbers = self._numbers[axis]
            records[axis] = [-1 if name is None else _number(numbers, name) for name in rows.names[axis]]
        for name, condition in zip(rows.names["identity"], rows.conditions, strict=True):
            weights = condition.get("identity")
            if name is not None and weights and weights != {name: 1.0}:
                self._blends[name] = weights
        self._index.write(records.tobytes())
        self._add_silhouettes(np.ascontiguousarray(rows.packed))

    def _add_silhouettes(self, packed: np.ndarray) -> None:
        if self._clips + len(packed) > MAX_CLIPS:
            raise InvalidRequestError(f"a cache holds at most {MAX_CLIPS} clips; select fewer")
        self._silhouettes.write(packed.data)
        while len(packed):
            part = packed[: CHUNK_CLIPS - self._clips % CHUNK_CLIPS]
            self._chunk.update(part.data)
            self._clips += len(part)
            packed = packed[len(part) :]
            if self._clips % CHUNK_CLIPS == 0:
                self._end_chunk()

    def _end_chunk(self) -> None:
        self._chunks.append(self._chunk.hexdigest())
        self._chunk = hashlib.sha256()

    def finish(self, folder: Path, shape: tuple[int, int, int], made_from: str) -> None:
        """Sort the labels, renumber the index, write the documents."""
        if self._clips % CHUNK_CLIPS:
            self._end_chunk()
        labels = {axis: sorted(numbers) for axis, numbers in self._numbers.items()}
        index = np.memmap(folder / INDEX, RECORD, "r+")
        for axis, names in labels.items():
            place = {name: k for k, name in enumerate(names)}
            new = np.array([place[name] for name in self._numbers[axis]] + [-1], np.int32)  # -1 stays: it is the last entry
            for start in range(0, len(index), 1 << 20):
                part = index[start : start + (1 << 20)]
                part[axis] = new[part[axis]]
        index.flush()
        digest = hashlib.sha256(index.view(np.uint8).data).hexdigest()
        frames, height, width = shape
        meta = CacheMeta(
            clips=self._clips, frames=frames, height=height, width=width, clip_bytes=(frames * height * width + 7) // 8,
            labels=labels, identity_weights=dict(sorted(self._blends.items())),
            origins=[CacheOrigin(plan_id=o.plan_id, plan=o.plan) for _, o in self._origins.values()],
            chunk_clips=CHUNK_CLIPS, chunks_sha256=self._chunks, made_from=made_from, bit_order=BIT_ORDER,
        )  # fmt: skip
        meta.check()
        sums: dict[str, Any] = {META: write_json(folder / META, meta.model_dump(mode="json")), INDEX: digest}
        write_json(folder / CHECKSUMS, {"format_version": 1, "sha256": sums})


def _number(numbers: dict[str, int], name: str) -> int:
    found = numbers.get(name)
    if found is None:
        if len(name) > _NAME_BYTES:
            raise InvalidRequestError(f"the label {name[:40]!r}... has {len(name)} characters; a cache takes {_NAME_BYTES}")
        found = numbers[name] = len(numbers)
    return found
