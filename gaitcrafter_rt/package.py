"""Writing and reading model packages in Python (the native engine has its own reader, ``csrc/model``)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .config import ModelConfig
from .errors import MissingExtraError, ModelFormatError, OutputError

if TYPE_CHECKING:
    import numpy as np

CONFIG, WEIGHTS, CARD, CHECKSUMS = "config.json", "model.safetensors", "README.md", "checksums.json"


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """``config.json`` of a package. Raises ModelFormatError if the folder is not one."""
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise ModelFormatError(f"{folder}: no {CONFIG} there; a model package is a folder that holds {CONFIG} and {WEIGHTS}")
    return ModelConfig.from_json(path.read_bytes(), str(path))


def read_weights(folder: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All tensors of a package as float32 arrays (extra ``train``, for the safetensors library)."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "reading weights in Python", e.name) from e
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ModelFormatError(f"{folder}: no {WEIGHTS} there")
    try:
        return {k: v.float().numpy() for k, v in load_file(path).items()}
    except (SafetensorError, OSError, KeyError) as e:
        raise ModelFormatError(f"{path}: not a readable safetensors file: {e}") from e


def write_package(
    folder: str | os.PathLike[str], config: ModelConfig, weights: dict[str, np.ndarray], card: str
) -> Path:
    """Write a package beside its place and rename it there.

    ``weights`` maps tensor names to float32, float16 or (torch) bfloat16 arrays. Raises OutputError if ``folder`` exists and is not empty.
    """
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "writing a model package", e.name) from e
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target} exists and is not an empty folder; choose another place or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tmp = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as e:
        raise OutputError(f"{target.parent} is not writable: {e.strerror}") from e
    try:
        tensors = {k: torch.as_tensor(v).contiguous() for k, v in weights.items()}
        save_file(tensors, tmp / WEIGHTS)
        (tmp / CONFIG).write_text(config.to_json())
        (tmp / CARD).write_text(card)
        sums = {name: hashlib.sha256((tmp / name).read_bytes()).hexdigest() for name in (CONFIG, WEIGHTS)}
        (tmp / CHECKSUMS).write_text(json.dumps({"format_version": 1, "sha256": sums}, indent=2) + "\n")
        tmp.chmod(0o755)
        if target.exists():
            target.rmdir()
        tmp.rename(target)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    return target
