"""Checkpoints of a run: one file, replaced atomically, read with torch's weights_only reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import DataFormatError

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write beside the place, sync, rename: a crash leaves the old checkpoint or the new one, never half of one."""
    tmp = folder / f".{NAME}.tmp"
    with open(tmp, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(tmp, folder / NAME)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint of ``folder``, or None. Raises DataFormatError if it cannot be read."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds for a damaged file
        raise DataFormatError(f"{path}: not a readable checkpoint of this trainer ({type(e).__name__}: {e})") from e
