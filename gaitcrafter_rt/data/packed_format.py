"""``meta.json`` of a packed training set (packed.py says what the folder holds), and the bit layout of a clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from ..config import AXES, Labels
from ..documents import read_object, validated
from ..errors import DataFormatError
from ..files import PathLike

FORMAT: Final = "gaitcrafter-packed"
FORMAT_VERSION: Final = 1
SPLIT_TRAIN, SPLIT_TEST = 0, 1
COLUMNS: dict[str, type] = dict.fromkeys(AXES, np.int32) | {"sequence": np.int32, "split": np.uint8}
_META_LIMIT = 64 << 20


class PackedMeta(BaseModel):
    """``meta.json``. ``source`` is "rendered" for walkers and "real" for captured people, never anything between."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal["gaitcrafter-packed"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    clips: Annotated[int, Field(ge=1, le=1 << 40)]
    frames: Annotated[int, Field(ge=1, le=512)] = 30
    height: Annotated[int, Field(ge=4, le=512)] = 64
    width: Annotated[int, Field(ge=4, le=512)] = 64
    labels: Labels = Labels()
    source: Literal["rendered", "real"]
    terms: Annotated[str, Field(max_length=4096)] = "unknown"
    made_by: Annotated[str, Field(max_length=16384)] = ""
    clips_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return (self.frames, self.height, self.width)

    @property
    def clip_bytes(self) -> int:
        """Bytes of one packed clip; 15,360 at 30x64x64."""
        return packed_bytes(*self.shape)

    @classmethod
    def read(cls, folder: PathLike) -> PackedMeta:
        """Parse ``folder/meta.json``. Raises DataFormatError or UnsupportedVersionError."""
        path = Path(folder) / "meta.json"
        try:
            if path.stat().st_size > _META_LIMIT:
                raise DataFormatError(f"{path}: larger than {_META_LIMIT} bytes; not a packed training set")
            text = path.read_bytes()
        except OSError as e:
            raise DataFormatError(
                f"{folder}: not a packed training set: {path.name} cannot be read ({e.strerror}); "
                "make one with 'gaitcrafter-rt pack TREE' (captured people) or 'gaitcrafter-rt walkers render'"
            ) from e
        read_object(text, path, FORMAT_VERSION, DataFormatError, FORMAT)
        return validated(cls, text, path, DataFormatError)


def packed_bytes(frames: int, height: int, width: int) -> int:
    """Bytes of one clip at one bit per pixel, rounded up."""
    return (frames * height * width + 7) // 8


def unpack(bits: np.ndarray, frames: int, height: int, width: int) -> np.ndarray:
    """uint8 [..., bytes] to uint8 [..., frames, height, width] of 0 and 1."""
    pixels = np.unpackbits(bits, axis=-1, count=frames * height * width)
    return pixels.reshape(*bits.shape[:-1], frames, height, width)


def pack(clips: np.ndarray) -> np.ndarray:
    """[..., frames, height, width], foreground wherever non-zero, to uint8 [..., bytes]."""
    return np.packbits(clips.reshape(*clips.shape[:-3], -1) != 0, axis=-1)
