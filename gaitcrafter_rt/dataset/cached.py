"""Reading a cache: memory-mapped, any clip in microseconds, nothing believed before it is checked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..bulk.quality import Quality
from ..clips import ClipBatch
from ..config import AXES
from ..errors import DataFormatError, InvalidRequestError
from ..files import PathLike
from .cache_format import INDEX, RECORD, SILHOUETTES, CacheMeta, read_meta
from .select import Selection
from .source import Origin, Progress, Rows, Source

Pixels = Literal["uint8", "float32"]


class ClipCache:
    """Clips that ``gaitcrafter-rt dataset cache`` packed. Make one with :meth:`open`; sending it to a process sends its path.

    Attributes:
        packed: uint8 [N, bytes], mapped and read-only; numpy.packbits order.
        records: structured array [N] (``cache_format.RECORD``): clip_index, seed, label numbers, origin, quality.
        labels: axis to its names; ``labels["view"][records["view"][i]]`` is clip i's view, -1 means that the model chose.
        shape: (frames, height, width).
    """

    def __init__(self, folder: Path, meta: CacheMeta, packed: np.ndarray, records: np.ndarray) -> None:
        self.folder, self.meta, self.packed, self.records = folder, meta, packed, records
        self.shape, self.labels = meta.shape, meta.labels

    @classmethod
    def open(cls, folder: PathLike) -> ClipCache:
        """Map a cache. Checks the documents and the index against their sha256 and every label number against its range; the
        silhouettes are checked for size, and by :meth:`verify` for content.

        Raises DataFormatError, or UnsupportedVersionError for one of a newer release.
        """
        root = Path(folder)
        meta, wanted = read_meta(root)
        packed = _map(root / SILHOUETTES, np.dtype(np.uint8), meta.clips * meta.clip_bytes).reshape(meta.clips, meta.clip_bytes)
        records = _map(root / INDEX, RECORD, meta.clips)
        if hashlib.sha256(records.view(np.uint8).data).hexdigest() != wanted:
            raise DataFormatError(f"{root / INDEX}: its sha256 is not that of checksums.json; the file was changed or damaged")
        for axis in AXES:
            _check_range(root, axis, records[axis], -1, len(meta.labels[axis]) - 1)
        _check_range(root, "origin", records["origin"], 0, len(meta.origins) - 1)
        return cls(root, meta, packed, records)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ClipCache.open, (self.folder,))

    def __len__(self) -> int:
        return self.meta.clips

    def __repr__(self) -> str:
        return f"ClipCache({str(self.folder)!r}, {len(self)} clips of {self.shape})"

    @cached_property
    def origins(self) -> list[Origin]:
        """The plans that the clips come from."""
        return [Origin(o.plan_id, o.plan) for o in self.meta.origins]

    def checked(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Indices as int64 [n]. Raises InvalidRequestError if one is outside 0..N-1."""
        wanted = _whole_numbers(indices)
        if wanted.size and (int(wanted.min()) < 0 or int(wanted.max()) >= len(self)):
            raise InvalidRequestError(f"clip indices run from 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
        return wanted.astype(np.int64)

    def read(
        self, indices: Sequence[int] | np.ndarray, pixels: Pixels = "uint8", *, foreground: float | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Clips as pixels: [n, frames, height, width], background 0, foreground 255 (uint8) or 1 (float32) or as told.

        ``out`` of that shape and type is filled in place of a new array, which saves the system from clearing new memory.
        Raises InvalidRequestError.
        """
        rows = np.ascontiguousarray(_whole_numbers(indices).astype(np.int64, copy=False))
        try:
            return decode(self.packed, self.shape, pixels, foreground=foreground, out=out, rows=rows)
        except InvalidRequestError:
            # The native side checks the range, once and for free; here is the time to say it in terms of this cache.
            self.checked(indices)
            raise

    def batch(self, indices: Sequence[int] | np.ndarray) -> ClipBatch:
        """Clips of one origin with everything that is known of them. Raises InvalidRequestError for clips of several."""
        chosen = self.checked(indices)
        origins = np.unique(self.records["origin"][chosen])
        if len(origins) != 1:
            raise InvalidRequestError(f"a ClipBatch holds clips of one plan, these are of {len(origins)}")
        return self.rows(chosen).batch()

    def rows(self, chosen: np.ndarray) -> Rows:
        """The same for indices that are checked, as the exporters take it."""
        records = self.records[chosen]
        names = {axis: [None if k < 0 else self.labels[axis][k] for k in records[axis]] for axis in AXES}
        conditions = [
            {axis: self._weights(axis, names[axis][k]) for axis in AXES if names[axis][k] is not None} for k in range(len(chosen))
        ]
        origin = self.origins[int(records["origin"][0])]
        return Rows(
            origin, self.shape, self.packed[chosen], records["clip_index"].astype(np.uint64), records["quality"].astype(np.uint16),
            names, conditions,
        )  # fmt: skip

    def _weights(self, axis: str, name: str | None) -> dict[str, float]:
        assert name is not None
        return self.meta.identity_weights.get(name, {name: 1.0}) if axis == "identity" else {name: 1.0}

    def verify(self, progress: Progress | None = None) -> None:
        """Compare every silhouette with the hashes in cache.json. Raises DataFormatError that names the first bad chunk."""
        step = self.meta.chunk_clips
        for number, wanted in enumerate(self.meta.chunks_sha256):
            part = self.packed[number * step : (number + 1) * step]
            if hashlib.sha256(part.data).hexdigest() != wanted:
                last = number * step + len(part) - 1
                raise DataFormatError(f"{self.folder / SILHOUETTES}: clips {number * step} to {last} do not fit their sha256")
            if progress:
                progress(number + 1, len(self.meta.chunks_sha256))


def decode(
    packed: np.ndarray, shape: tuple[int, int, int], pixels: Pixels = "uint8", *, foreground: float | None = None,
    out: np.ndarray | None = None, rows: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Packed clips uint8 [n, bytes], all or those of ``rows`` (int64 [k]), to pixels [n or k, frames, height, width].

    Otherwise as :meth:`ClipCache.read`. Raises InvalidRequestError.
    """
    from .. import _native

    if pixels not in ("uint8", "float32"):
        raise InvalidRequestError(f"pixels must be 'uint8' or 'float32', got {pixels!r:.40}")
    wanted, dtype = (len(packed if rows is None else rows), *shape), np.dtype(pixels)
    if out is None:
        out = np.empty(wanted, dtype)
    elif out.shape != wanted or out.dtype != dtype or not out.flags.c_contiguous or not out.flags.writeable:
        raise InvalidRequestError(f"out must be a writable {dtype} array of shape {wanted}, got {out.dtype} {out.shape}")
    value = (255.0 if pixels == "uint8" else 1.0) if foreground is None else float(foreground)
    _native.decode(packed, math.prod(shape), out, value, rows)
    return out


def _whole_numbers(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Integers [n]. Raises InvalidRequestError."""
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise InvalidRequestError(f"indices must be a list of whole numbers, got {wanted.dtype} of shape {wanted.shape}")
    return wanted


class CacheSource(Source):
    """A cache as something to export."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.cache = ClipCache.open(path)
        self.shape = self.cache.shape

    def fingerprint(self) -> str:
        return self.cache.meta.made_from

    def _rows(self, chosen: Selection, progress: Progress | None) -> Iterator[Rows]:
        cache, step = self.cache, self.cache.meta.chunk_clips
        for number, wanted in enumerate(cache.meta.chunks_sha256):
            first = number * step
            part = cache.packed[first : first + step]
            if hashlib.sha256(part.data).hexdigest() != wanted:
                raise DataFormatError(f"{cache.folder / SILHOUETTES}: clips from {first} on do not fit their sha256")
            for start in range(first, first + len(part), 64):
                at = np.arange(start, min(start + 64, first + len(part)))
                for origin in np.unique(cache.records["origin"][at]):
                    same = at[cache.records["origin"][at] == origin]
                    rows = cache.rows(same)
                    if not rows.origin.plan_id.startswith(chosen.plan):
                        continue
                    keep = chosen.rows(rows.names, rows.quality & ~np.uint16(Quality.FAILED))
                    if len(keep):
                        yield rows if len(keep) == len(same) else cache.rows(same[keep])
            if progress:
                progress(number + 1, len(cache.meta.chunks_sha256))


def _map(path: Path, dtype: np.dtype, items: int) -> np.ndarray:
    try:
        if not path.is_file() or path.stat().st_size != items * dtype.itemsize:
            size = path.stat().st_size if path.exists() else "no"
            raise DataFormatError(f"{path}: {size} bytes there; cache.json promises {items * dtype.itemsize}")
        # A plain view: indexing numpy's own memmap class costs more than reading a clip.
        return np.memmap(path, dtype, "r").view(np.ndarray)
    except OSError as e:
        raise DataFormatError(f"{path}: cannot be read: {e.strerror or e}") from e


def _check_range(folder: Path, name: str, values: np.ndarray, low: int, high: int) -> None:
    found = int(values.min()), int(values.max())
    if found[0] < low or found[1] > high:
        raise DataFormatError(f"{folder / INDEX}: {name} holds {found[0]} to {found[1]}; allowed is {low} to {high}")
