"""The folder that ``gaitcrafter-rt export onnx`` writes, read and checked without torch or onnx (csrc/backends/exported.cc in C++).

    export.json          this file's :class:`Manifest`: what was exported, checksums, the sampler table
    config.json          the model's own, which rebuilds any other sampler table
    README.md            the model card
    model.onnx           the graph; model.onnx.data beside it, if its weights are external
    exact.onnx           the same in fp32, for the first steps of an eps-model in a lower precision
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..config import ModelConfig
from ..documents import read_object, validated
from ..errors import ModelFormatError
from ..package import CONFIG, WEIGHTS

MANIFEST = "export.json"
FORMAT_VERSION = 1
LARGEST_MANIFEST = 16 << 20
# A network call runs on the fp32 graph if the sampler multiplies its output by more than this (csrc/engine/cpu_backend.h).
EXACT_AMPLIFICATION = 32.0
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]


class SamplerTable(BaseModel):
    """The model's default sampler compiled to rows (docs/architecture.md, "The sampler"), for runtimes of others."""

    model_config = ConfigDict(extra="forbid", strict=True)
    settings: dict[str, Any]
    columns: list[str]
    rows: list[list[float]]


class Tensor(BaseModel):
    """An input or output of the graph; a dynamic dimension is "batch"."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str
    type: Literal["float32", "int64"]
    shape: list[int | str]


class Manifest(BaseModel):
    """``export.json``. ``batch`` 0 is a dynamic one; ``null_cond`` is the network's own vector where it takes ``cond``."""

    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["gaitcrafter-onnx"] = "gaitcrafter-onnx"
    format_version: Literal[1] = 1
    model_sha256: Hash
    precision: Precision
    batch: Annotated[int, Field(ge=0, le=256)]
    opset: int
    graph: FileName
    exact_graph: FileName | None
    null_cond: list[float]
    inputs: list[Tensor]
    outputs: list[Tensor]
    sampler: SamplerTable
    files: dict[FileName, Hash]
    made_by: dict[str, str]


@dataclass(frozen=True)
class Exported:
    """An export whose files are what its manifest says. ``sha256`` is the manifest's, and so of everything in the folder."""

    folder: Path
    manifest: Manifest
    config: ModelConfig
    sha256: str

    @property
    def graph(self) -> Path:
        return self.folder / self.manifest.graph

    @property
    def exact_graph(self) -> Path | None:
        return None if self.manifest.exact_graph is None else self.folder / self.manifest.exact_graph


def read_export(folder: str | os.PathLike[str]) -> Exported:
    """Open an export folder and check every file of it.

    Raises ModelFormatError for a folder that is none or was changed, UnsupportedVersionError for one of a newer release.
    """
    place = Path(folder)
    path = place / MANIFEST
    if not path.is_file():
        what = "a model package" if (place / WEIGHTS).is_file() else "no ONNX export"
        raise ModelFormatError(
            f"{place}: {what}: no {MANIFEST} there; make an export with: gaitcrafter-rt export onnx MODEL OUT"
        )
    text = path.read_bytes()
    manifest = _manifest(text, path)
    for name, wanted in manifest.files.items():
        if (got := file_sha256(place / name)) != wanted:
            raise ModelFormatError(f"{place / name}: sha256 is {got}, {MANIFEST} says {wanted}; the file was changed: export again")
    for name in (CONFIG, manifest.graph, *([manifest.exact_graph] if manifest.exact_graph else [])):
        if name not in manifest.files:
            raise ModelFormatError(f"{path}: files has no checksum of {name}")
    config = ModelConfig.from_json((place / CONFIG).read_bytes(), str(place / CONFIG))
    if len(manifest.null_cond) != config.conditioning.cond_dim:
        raise ModelFormatError(
            f"{path}: null_cond has {len(manifest.null_cond)} numbers; the config's cond_dim is {config.conditioning.cond_dim}"
        )
    return Exported(place, manifest, config, hashlib.sha256(text).hexdigest())


def file_sha256(path: Path) -> str:
    """Raises ModelFormatError if the file cannot be read."""
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, "sha256").hexdigest()
    except OSError as e:
        raise ModelFormatError(f"{path}: cannot be read: {e.strerror}") from e


def _manifest(text: bytes, path: Path) -> Manifest:
    if len(text) > LARGEST_MANIFEST:
        raise ModelFormatError(f"{path}: {len(text)} bytes; a manifest has at most {LARGEST_MANIFEST}")
    read_object(text, path, FORMAT_VERSION, ModelFormatError)
    return validated(Manifest, text, path, ModelFormatError)
