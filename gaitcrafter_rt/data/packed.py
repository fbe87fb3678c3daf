"""The packed training set: a folder of plain arrays, one row per clip, that opens by memory map.

::

    clips.npy       uint8 [N, ceil(frames*height*width / 8)], numpy.packbits order (frame, row, column; first pixel = top bit)
    dataset.npy  identity.npy  view.npy  covariate.npy
                    int32 [N], index into the vocabulary of that axis, -1 = unknown
    sequence.npy    int32 [N], number of the recording; windows of one recording share it, -1 = unknown
    split.npy       uint8 [N], 0 = train, 1 = test (held out)
    meta.json       format, format_version, clips, frames, height, width, labels, source, terms, made_by, clips_sha256

Nothing in it is pickled. 1,000,000 clips of 30x64x64 are 15.4 GB.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from ..config import AXES, ClipShape, Labels
from ..errors import DataFormatError, InvalidRequestError, OutputError
from ..files import PathLike, publish_folder, refuse_occupied_folder, temporary_folder_beside
from .packed_format import COLUMNS, SPLIT_TEST, SPLIT_TRAIN, PackedMeta, pack, packed_bytes, unpack

__all__ = ["SPLIT_TEST", "SPLIT_TRAIN", "PackedClips", "PackedMeta", "PackedWriter", "pack", "packed_bytes", "unpack"]


class _Unpacked(Sequence[np.ndarray]):
    """``clips[i]``: uint8 [frames, height, width] of 0 and 1."""

    def __init__(self, owner: PackedClips) -> None:
        self._owner = owner

    def __len__(self) -> int:
        return len(self._owner)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return self._owner.batch(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        return unpack(self._owner.bits[index], *self._owner.meta.shape)


class PackedClips:
    """A packed training set, memory-mapped and read-only. Make one with :meth:`open`.

    ``bits`` uint8 [N, bytes]; ``dataset``, ``identity``, ``view``, ``covariate`` and ``sequence`` int32 [N];
    ``split`` uint8 [N]; ``labels`` the vocabulary per axis; ``meta`` all of meta.json.
    Safe to send to worker processes: only the folder's name travels.
    """

    dataset: np.ndarray
    identity: np.ndarray
    view: np.ndarray
    covariate: np.ndarray
    sequence: np.ndarray
    split: np.ndarray

    def __init__(self, folder: Path, meta: PackedMeta, bits: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        self.folder, self.meta, self.bits = folder, meta, bits
        for name, values in columns.items():
            setattr(self, name, values)

    @classmethod
    def open(cls, folder: PathLike) -> PackedClips:
        """Open and validate: sizes, types, label ranges. Nothing is unpickled.

        Raises DataFormatError (malformed) or UnsupportedVersionError (written by a newer release).
        """
        path = Path(folder)
        meta = PackedMeta.read(path)
        bits = _load(path / "clips.npy", np.uint8, (meta.clips, meta.clip_bytes))
        columns = {name: _load(path / f"{name}.npy", dtype, (meta.clips,)) for name, dtype in COLUMNS.items()}
        for axis in AXES:
            count, values = len(getattr(meta.labels, axis)), columns[axis]
            low, high = int(values.min()), int(values.max())
            if low < -1 or high >= count:
                raise DataFormatError(
                    f"{path / axis}.npy holds {low if low < -1 else high}; allowed is -1 (unknown) to {count - 1}"
                )
        if int(columns["sequence"].min()) < -1:
            raise DataFormatError(f"{path}/sequence.npy holds {int(columns['sequence'].min())}; at least -1 is allowed")
        if int(columns["split"].max()) > SPLIT_TEST:
            raise DataFormatError(f"{path}/split.npy holds {int(columns['split'].max())}; allowed is 0 (train) or 1 (test)")
        return cls(path, meta, bits, columns)

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (PackedClips.open, (self.folder,))

    def __len__(self) -> int:
        return self.meta.clips

    def __repr__(self) -> str:
        vocab = ", ".join(f"{len(getattr(self.labels, a))} {a}" for a in AXES if getattr(self.labels, a))
        return f"PackedClips({str(self.folder)!r}, {len(self)} {self.meta.source} clips of {self.meta.shape}; {vocab})"

    @property
    def labels(self) -> Labels:
        """Vocabulary per axis; ``labels.view[packed.view[i]]`` is the name of clip i's view."""
        return self.meta.labels

    @property
    def clips(self) -> _Unpacked:
        """``clips[i]`` is uint8 [frames, height, width] of 0 and 1."""
        return _Unpacked(self)

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [len(indices), frames, height, width] of 0 and 1. Raises InvalidRequestError if an index is outside."""
        wanted = np.asarray(indices)
        if wanted.size == 0:
            return np.empty((0, *self.meta.shape), np.uint8)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            raise InvalidRequestError(f"indices must be a list of whole numbers, got {wanted.dtype} of shape {wanted.shape}")
        if int(wanted.min()) < 0 or int(wanted.max()) >= len(self):
            raise InvalidRequestError(f"clip indices run from 0 to {len(self) - 1}, got {wanted.min()} to {wanted.max()}")
        return unpack(self.bits[wanted], *self.meta.shape)

    def names(self, index: int) -> dict[str, str | None]:
        """The label names of one clip, None where unknown."""
        out: dict[str, str | None] = {}
        for axis in AXES:
            label = int(getattr(self, axis)[index])
            out[axis] = getattr(self.labels, axis)[label] if label >= 0 else None
        return out

    def select(self, *, split: int | None = None, **labels: str) -> np.ndarray:
        """Indices of the clips with all these labels, by name: ``select(identity="001", view="090", split=0)``.

        Raises InvalidRequestError for an axis or a name that the set does not know.
        """
        keep = np.ones(len(self), bool)
        for axis, name in labels.items():
            if axis not in AXES:
                raise InvalidRequestError(f"no axis {axis!r}; the axes are {', '.join(AXES)}")
            vocab = getattr(self.labels, axis)
            if name not in vocab:
                raise InvalidRequestError(f"no {axis} {name!r} in this set; it has {_some(vocab)}")
            keep &= getattr(self, axis) == vocab.index(name)
        if split is not None:
            keep &= self.split == split
        return np.flatnonzero(keep)

    def verify(self) -> None:
        """Read every clip and compare with ``clips_sha256``. Raises DataFormatError if a bit changed."""
        digest = hashlib.sha256()
        step = max(1, (16 << 20) // self.meta.clip_bytes)
        for start in range(0, len(self), step):
            digest.update(np.ascontiguousarray(self.bits[start : start + step]).data)
        if digest.hexdigest() != self.meta.clips_sha256:
            raise DataFormatError(f"{self.folder}/clips.npy: sha256 differs from meta.json; the file is damaged, make it again")


class PackedWriter:
    """Append clips, then :meth:`finish`; the folder appears whole or not at all.

    Use as a context manager: leaving the block finishes it, an exception discards it. ``labels`` fixes the vocabulary per axis
    (a ``config.Labels`` or a dict of lists). ``terms`` says on what terms the data may be used, ``made_by`` how it was made.
    Raises OutputError if ``folder`` exists and is not an empty folder.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        labels: Labels | dict[str, list[str]],
        source: Literal["rendered", "real"],
        frames: int = 30,
        height: int = 64,
        width: int = 64,
        terms: str = "unknown",
        made_by: str = "",
    ) -> None:
        try:
            self.labels = labels if isinstance(labels, Labels) else Labels.model_validate(labels)
            shape = ClipShape(frames=frames, height=height, width=width)
            # The counts are not known yet; this checks everything else before a file is made.
            PackedMeta(
                clips=1, frames=frames, height=height, width=width, labels=self.labels,
                source=source, terms=terms, made_by=made_by, clips_sha256="0" * 64,
            )  # fmt: skip
        except ValidationError as e:
            first = e.errors()[0]
            raise InvalidRequestError(
                f"packed set: {'.'.join(str(p) for p in first['loc'])}: {first['msg']} (got {first.get('input')!r:.80})"
            ) from e
        self.shape = (shape.frames, shape.height, shape.width)
        self._about = {"source": source, "terms": terms, "made_by": made_by}
        self._lookup = {axis: {n: i for i, n in enumerate(getattr(self.labels, axis))} for axis in AXES}
        self._rows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self._count = 0
        self._hash = hashlib.sha256()
        self._target = refuse_occupied_folder(folder)
        self._tmp = temporary_folder_beside(self._target)
        self._cleanup = weakref.finalize(self, shutil.rmtree, self._tmp, True)
        self._file = (self._tmp / "clips.npy").open("w+b")
        self._header_bytes = self._write_header(0)

    def __len__(self) -> int:
        return self._count

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if kind is None:
            self.finish()
        else:
            self.discard()

    def append(
        self,
        clip: np.ndarray,
        *,
        identity: str | int | None = None,
        view: str | int | None = None,
        covariate: str | int | None = None,
        dataset: str | int | None = None,
        sequence: int = -1,
        split: int = SPLIT_TRAIN,
    ) -> None:
        """One clip [frames, height, width], foreground wherever non-zero. A label is a name, an index, or None for unknown.

        Raises InvalidRequestError for a wrong shape or an unknown label, OutputError if the disk is full.
        """
        self.append_many(
            clip[None], identity=[identity], view=[view], covariate=[covariate], dataset=[dataset],
            sequence=[sequence], split=[split],
        )  # fmt: skip

    def append_many(
        self,
        clips: np.ndarray,
        *,
        identity: Sequence[str | int | None] | np.ndarray | None = None,
        view: Sequence[str | int | None] | np.ndarray | None = None,
        covariate: Sequence[str | int | None] | np.ndarray | None = None,
        dataset: Sequence[str | int | None] | np.ndarray | None = None,
        sequence: Sequence[int] | np.ndarray | None = None,
        split: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Clips [B, frames, height, width] and one label per clip and axis; see :meth:`append`."""
        if clips.ndim != 4 or clips.shape[1:] != self.shape:
            raise InvalidRequestError(f"clips have shape {clips.shape}; this set holds [B, {', '.join(map(str, self.shape))}]")
        self.append_packed(
            pack(clips), identity=identity, view=view, covariate=covariate, dataset=dataset, sequence=sequence, split=split
        )

    def append_packed(
        self,
        bits: np.ndarray,
        *,
        identity: Sequence[str | int | None] | np.ndarray | None = None,
        view: Sequence[str | int | None] | np.ndarray | None = None,
        covariate: Sequence[str | int | None] | np.ndarray | None = None,
        dataset: Sequence[str | int | None] | np.ndarray | None = None,
        sequence: Sequence[int] | np.ndarray | None = None,
        split: Sequence[int] | np.ndarray | None = None,
    ) -> None:
        """Clips that are packed already, uint8 [B, bytes]; otherwise as :meth:`append_many`."""
        if self._file.closed:
            raise InvalidRequestError("this packed set is finished; make a new one")
        wide = packed_bytes(*self.shape)
        if bits.dtype != np.uint8 or bits.ndim != 2 or bits.shape[1] != wide:
            raise InvalidRequestError(f"packed clips must be uint8 [B, {wide}], got {bits.dtype} {bits.shape}")
        count = len(bits)
        given = {"dataset": dataset, "identity": identity, "view": view, "covariate": covariate}
        rows = {axis: self._indices(axis, values, count) for axis, values in given.items()}
        rows["sequence"] = _whole("sequence", sequence, -1, count, -1, 2**31 - 1).astype(np.int32)
        rows["split"] = _whole("split", split, SPLIT_TRAIN, count, 0, SPLIT_TEST).astype(np.uint8)
        data = np.ascontiguousarray(bits).data
        try:
            self._file.write(data)
        except OSError as e:
            self.discard()
            raise OutputError(f"{self._target} could not be written: {e.strerror}; nothing is left of it") from e
        self._hash.update(data)
        for name, values in rows.items():
            self._rows[name].append(values)
        self._count += count

    def finish(self) -> Path:
        """Write index and meta, flush, rename into place; returns the folder.

        Raises OutputError, or InvalidRequestError if nothing was appended.
        """
        if self._file.closed:
            raise InvalidRequestError("this packed set is finished already")
        if not self._count:
            self.discard()
            raise InvalidRequestError("a packed set needs at least one clip; none was appended")
        meta = PackedMeta.model_validate(
            {"clips": self._count, "frames": self.shape[0], "height": self.shape[1], "width": self.shape[2],
             "labels": self.labels, "clips_sha256": self._hash.hexdigest(), **self._about}
        )  # fmt: skip
        try:
            self._file.seek(0)
            self._write_header(self._count)
            _sync_close(self._file)
            for name in COLUMNS:
                with open(self._tmp / f"{name}.npy", "wb") as f:
                    np.save(f, np.concatenate(self._rows[name]), allow_pickle=False)
                    _sync_close(f)
            with open(self._tmp / "meta.json", "w", encoding="utf-8") as f:
                f.write(meta.model_dump_json(indent=1) + "\n")
                _sync_close(f)
            publish_folder(self._tmp, self._target)
        except OSError as e:
            self.discard()
            if isinstance(e, OutputError):
                raise
            raise OutputError(f"{self._target} could not be written: {e.strerror}; nothing is left of it") from e
        self._cleanup.detach()
        return self._target

    def discard(self) -> None:
        """Give up; the temporary folder is removed and the target is untouched."""
        self._file.close()
        self._cleanup()

    def _write_header(self, count: int) -> int:
        header = {"shape": (count, packed_bytes(*self.shape)), "fortran_order": False, "descr": "|u1"}
        # numpy pads the header to 64 bytes with room for a growing first axis, so the final one takes the same space.
        np.lib.format.write_array_header_1_0(self._file, header)
        size = self._file.tell()
        if count and size != self._header_bytes:
            raise OutputError(f"{self._target}: the header of clips.npy grew from {self._header_bytes} to {size} bytes")
        return size

    def _indices(self, axis: str, values: Sequence[str | int | None] | np.ndarray | None, count: int) -> np.ndarray:
        vocab = getattr(self.labels, axis)
        if isinstance(values, np.ndarray):
            return _whole(axis, values, -1, count, -1, len(vocab) - 1).astype(np.int32)
        if values is None:
            return np.full(count, -1, np.int32)
        found = []
        for value in values:
            if isinstance(value, str):
                if value not in self._lookup[axis]:
                    raise InvalidRequestError(f"no {axis} {value!r} in this set's vocabulary; it has {_some(vocab)}")
                found.append(self._lookup[axis][value])
            else:
                found.append(-1 if value is None else value)
        return _whole(axis, found, -1, count, -1, len(vocab) - 1).astype(np.int32)


def _whole(name: str, values: object, default: int, count: int, low: int, high: int) -> np.ndarray:
    if values is None:
        return np.full(count, default, np.int64)
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidRequestError(f"{name}: one whole number per clip ({count}) is needed, got {array.dtype} {array.shape}")
    if count and (int(array.min()) < low or int(array.max()) > high):
        raise InvalidRequestError(f"{name}: allowed is {low} to {high}, got {int(array.min())} to {int(array.max())}")
    return array


def _load(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    try:
        # A memory map checks the file's size against its header before anything is read.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as e:
        raise DataFormatError(f"{path}: not a readable array: {e}") from e
    if not isinstance(array, np.memmap) or array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        got = f"{getattr(array, 'dtype', type(array).__name__)} {getattr(array, 'shape', '')}"
        raise DataFormatError(f"{path}: holds {got}; meta.json says {np.dtype(dtype)} {shape}")
    return array


def _some(names: Sequence[str], at_most: int = 8) -> str:
    if not names:
        return "none"
    shown = ", ".join(names[:at_most])
    return shown if len(names) <= at_most else f"{shown}, ... ({len(names)} in all)"


def _sync_close(f) -> None:  # type: ignore[no-untyped-def]
    f.flush()
    os.fsync(f.fileno())
    f.close()
