"""Writing and reading model packages in Python (the native engine has its own reader, ``csrc/model``)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import ModelConfig
from .errors import MissingExtraError, ModelFormatError, OutputError
from .files import new_folder

if TYPE_CHECKING:
    import numpy as np

CONFIG, WEIGHTS, CARD, CHECKSUMS = "config.json", "model.safetensors", "README.md", "checksums.json"


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """``config.json`` of a package. Raises ModelFormatError if the folder is not one."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ModelFormatError(f"{folder}: no {CONFIG} there; a model package is a folder that holds {CONFIG} and {WEIGHTS}")
    return ModelConfig.from_json(path.read_bytes(), str(path))


def check_sums(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of config and weights, hex by file name. Raises ModelFormatError if they are not those of ``checksums.json``."""
    place = Path(folder)
    try:
        listed = json.loads((place / CHECKSUMS).read_bytes())["sha256"]
        sums = {name: _sha256(place / name) for name in (CONFIG, WEIGHTS)}
    except OSError as e:
        raise ModelFormatError(f"{e.filename}: cannot be read: {e.strerror}") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise ModelFormatError(f"{place / CHECKSUMS}: not a list of checksums") from e
    for name, value in sums.items():
        if not isinstance(listed, dict) or listed.get(name) != value:
            raise ModelFormatError(f"{place / name}: sha256 {value} differs from {CHECKSUMS}; the file is damaged or was changed")
    return sums


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_weights(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All tensors of a package as float32 arrays (extra ``train``, for the safetensors library). Raises ModelFormatError."""
    return {k: v.float().numpy() for k, v in read_stored_weights(folder).items()}


def read_stored_weights(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """All tensors of a package as torch tensors of the type that they are stored in. Raises ModelFormatError."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "reading weights in Python", e.name) from e
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ModelFormatError(f"{folder}: no {WEIGHTS} there")
    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError) as e:
        raise ModelFormatError(f"{path}: not a readable safetensors file: {e}") from e


def write_package(folder: str | os.PathLike[str], config: ModelConfig, weights: dict[str, Any], card: str) -> Path:
    """Write a package beside its place and rename it there.

    ``weights`` maps tensor names to float32, float16 or (torch) bfloat16 arrays or tensors. Raises OutputError if ``folder``
    exists and is not empty, or cannot be written.
    """
    try:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "writing a model package", e.name) from e
    with new_folder(folder) as tmp:
        tensors = {k: torch.as_tensor(v).contiguous() for k, v in weights.items()}
        (tmp / CONFIG).write_text(config.to_json(), encoding="utf-8")
        (tmp / CARD).write_text(card, encoding="utf-8")
        try:
            save_file(tensors, tmp / WEIGHTS)
        except SafetensorError as e:
            raise OutputError(f"{folder} could not be written: {e}") from e
        # safetensors writes for the owner alone, whatever the umask.
        (tmp / WEIGHTS).chmod((tmp / CONFIG).stat().st_mode)
        sums = {name: hashlib.sha256((tmp / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
        (tmp / CHECKSUMS).write_text(json.dumps({"format_version": 1, "sha256": sums}, indent=2) + "\n")
    return Path(folder)
