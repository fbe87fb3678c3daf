"""Clips as one npz file without pickle, for numpy users.

``packed`` uint8 [N, bytes], ``shape`` int32 [3], ``seed`` uint64, ``clip_indices`` uint64 [N], ``conditions`` and ``provenance``
JSON text, ``format_version`` int32. The frames come back with
``np.unpackbits(z["packed"], axis=1, count=F*H*W).reshape(-1, F, H, W)``.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..clips import ClipBatch, conditions_json
from ..errors import DataFormatError, InvalidRequestError, UnsupportedVersionError
from ..files import PathLike, new_file

FORMAT_VERSION = 1
_NAMES = ("format_version", "shape", "seed", "clip_indices", "conditions", "provenance", "packed")
# Clips shrink 8 to 30 times; deflate can reach 1000 times.
_RATIO, _SMALL = 200, 1 << 28


def save_npz(batch: ClipBatch, path: PathLike) -> Path:
    """Write ``batch``. Raises OutputError if ``path`` exists or cannot be written."""
    with new_file(path) as f:
        np.savez_compressed(
            f,
            format_version=np.int32(FORMAT_VERSION),
            shape=np.asarray(batch.shape, np.int32),
            seed=np.uint64(batch.seed),
            clip_indices=batch.clip_indices,
            conditions=np.asarray(conditions_json(batch.conditions)),
            provenance=np.asarray(json.dumps(batch.provenance, ensure_ascii=False)),
            packed=batch.packed,
        )
    return Path(path)


def load_npz(path: PathLike) -> ClipBatch:
    """Read what :func:`save_npz` wrote. Raises DataFormatError, or UnsupportedVersionError for a newer file."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {i.filename: i for i in archive.infolist()}
            if sorted(entries) != sorted(f"{n}.npy" for n in _NAMES):
                raise DataFormatError(f"{path}: not clips of this package; it holds {sorted(entries)[:10]}")
            size = sum(i.file_size for i in entries.values())
            if size > max(_SMALL, _RATIO * Path(path).stat().st_size):
                raise DataFormatError(f"{path}: unpacks to {size} bytes, over {_RATIO} times its size; refused as a zip bomb")
            arrays = {name: _member(f"{path}: {name}.npy", archive, entries[f"{name}.npy"]) for name in _NAMES}
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as e:
        if isinstance(e, DataFormatError):
            raise
        raise DataFormatError(f"{path}: not a readable npz file: {e}") from e
    try:
        return _batch(arrays)
    except UnsupportedVersionError:
        raise
    except (InvalidRequestError, ValueError, TypeError, AttributeError, RecursionError) as e:
        raise DataFormatError(f"{path}: {e}") from e


def _member(source: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(entry) as f:
        try:
            version = np.lib.format.read_magic(f)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(f)
        except (ValueError, KeyError) as e:
            raise DataFormatError(f"{source}: not an array: {e}") from e
        # The header may promise anything; what it promises must be what the archive says is there, before memory is taken.
        size = dtype.itemsize
        for n in shape:
            size *= n
        if dtype.hasobject or fortran or size != entry.file_size - f.tell():
            raise DataFormatError(f"{source}: {dtype} {shape} does not fit its {entry.file_size} bytes")
        return np.frombuffer(f.read(), dtype).reshape(shape)


def _batch(arrays: dict[str, np.ndarray]) -> ClipBatch:
    version = int(arrays["format_version"])
    if version > FORMAT_VERSION:
        raise UnsupportedVersionError(f"format_version {version} is newer than {FORMAT_VERSION}; upgrade gaitcrafter-rt")
    if arrays["shape"].shape != (3,) or arrays["shape"].min() < 1 or arrays["shape"].max() > 512:
        raise DataFormatError(f"shape is {arrays['shape'].tolist()}; allowed is three numbers in 1..512")
    conditions: Any = json.loads(str(arrays["conditions"]))
    provenance: Any = json.loads(str(arrays["provenance"]))
    if not isinstance(conditions, list) or not isinstance(provenance, dict):
        raise DataFormatError("conditions or provenance is not of the expected form")
    return ClipBatch(
        arrays["packed"], tuple(arrays["shape"].tolist()), conditions, int(arrays["seed"]), arrays["clip_indices"], provenance
    )
