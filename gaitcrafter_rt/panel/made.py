"""Columns that were made elsewhere, on a GPU for one: a folder of packed clips and what is said about them.

::

    columns.json    format, format_version, model_sha256, made_on, columns: a list of {file, clips, seed, sampler, sha256}
    FILE            uint8 [clips, bytes], numpy .npy (no pickle), clips of ``spread_cells`` in order, clip index from 0

A thousand-step reference takes hours on a CPU and minutes on a GPU. Noise and table are the same, so the clips are the same but for
the arithmetic of the network; whoever uses them says where they were made (``made_on``, which every report repeats).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..config import Labels
from ..documents import read_object, validated
from ..errors import DataFormatError, InvalidRequestError
from ..evaluate.clipset import ClipSet
from .cells import spread_cells

NAME = "columns.json"
_LIMIT = 1 << 20  # bytes of columns.json


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Made(_Strict):
    """One column. ``sampler``: what ``Engine.resolve_sampler`` gives, whole or in part."""

    file: str = Field(pattern=r"^[A-Za-z0-9_.-]+\.npy$", max_length=128)
    clips: int = Field(ge=1, le=1 << 24)
    seed: int = Field(ge=0, lt=2**64)
    sampler: dict[str, Any]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class MadeColumns(_Strict):
    """``columns.json``."""

    format: Literal["gaitcrafter-columns"] = "gaitcrafter-columns"
    format_version: Literal[1] = 1
    model_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    made_on: str = Field(min_length=1, max_length=1024)
    columns: list[Made] = Field(max_length=4096)


def read_made(folder: Path) -> MadeColumns:
    """Raises DataFormatError if ``folder`` holds no such list, UnsupportedVersionError for one of a newer release."""
    path = folder / NAME
    try:
        if path.stat().st_size > _LIMIT:
            raise DataFormatError(f"{path}: larger than {_LIMIT} bytes; not a list of columns")
        text = path.read_bytes()
    except OSError as e:
        raise DataFormatError(f"{path}: cannot be read: {e.strerror}") from e
    read_object(text, path, 1, DataFormatError, "gaitcrafter-columns")
    return validated(MadeColumns, text, path, DataFormatError)


def find(folder: Path, model_sha256: str, seed: int, sampler: dict[str, Any], count: int, labels: Labels) -> ClipSet | None:
    """The first ``count`` clips of the column with that model, seed and sampler; None if there is none or it is shorter.

    ``labels`` is the model's vocabulary. Raises DataFormatError if the file is not what the list says.
    """
    made = read_made(folder)
    if made.model_sha256 != model_sha256:
        return None
    for column in made.columns:
        same = all(sampler.get(name) == value for name, value in column.sampler.items())
        if same and column.seed == seed and column.clips >= count:
            return _clips(folder, column, count, labels)
    return None


def _clips(folder: Path, column: Made, count: int, labels: Labels) -> ClipSet:
    path = folder / column.file
    try:
        bits = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise DataFormatError(f"{path}: not a readable array: {e}") from e
    if bits.dtype != np.uint8 or bits.ndim != 2 or len(bits) != column.clips:
        raise DataFormatError(f"{path}: holds {bits.dtype} {bits.shape}; {NAME} says uint8 of {column.clips} clips")
    if hashlib.sha256(np.ascontiguousarray(bits).data).hexdigest() != column.sha256:
        raise DataFormatError(f"{path}: its sha256 is not the one in {NAME}; the file is damaged")
    cells = spread_cells(labels, count)
    place = {axis: {name: i for i, name in enumerate(getattr(labels, axis))} for axis in ("identity", "view", "covariate")}
    rows = {axis: np.array([index[cell[axis]] for cell in cells], np.int64) for axis, index in place.items()}
    return ClipSet(np.array(bits[:count]), _shape(bits.shape[1]), **rows, sequence=np.zeros(count, np.int64))


def _shape(size: int) -> tuple[int, int, int]:
    if size != 30 * 64 * 64 // 8:
        raise InvalidRequestError(f"columns hold clips of {size} bytes; 30x64x64 has {30 * 64 * 64 // 8}")
    return 30, 64, 64
