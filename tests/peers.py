"""Loads the public base network that tests/install_peers.py put into ``.peers/``, both releases in one process."""

from __future__ import annotations

import importlib
import sys
import types
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

PEERS = Path(__file__).resolve().parent.parent / ".peers"
GENERATIONS = {"group_norm": "0.6.3", "rms_norm": "0.7.0"}


@cache
def base_network(norm: str) -> ModuleType:
    """The base network's module (``Unet3D``, ``GaussianDiffusion``, ``Block``, ...) of one norm generation.

    Skips the calling test where the peers are not installed.
    """
    version = GENERATIONS[norm]
    folder = PEERS / f"base-{version}"
    if not folder.is_dir():
        pytest.skip(f"video-diffusion-pytorch {version} is absent: run python tests/install_peers.py")
    name = "video_diffusion_pytorch"
    stand_ins = _torchvision_stand_in()
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        del sys.modules[module]
    sys.path[:0] = [str(folder), str(PEERS / "shared")]
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(f"{name}.{name}")
    finally:
        del sys.path[:2]
        for module in [m for m in sys.modules if m.split(".")[0] == name or m in stand_ins]:
            del sys.modules[module]


def _torchvision_stand_in() -> dict[str, ModuleType]:
    """Empty modules for the names that the base network imports for its data loader and never uses here."""
    if "torchvision" in sys.modules:
        return {}
    root = types.ModuleType("torchvision")
    root.transforms = types.ModuleType("torchvision.transforms")  # type: ignore[attr-defined]
    root.transforms.ToTensor = lambda: None  # type: ignore[attr-defined]
    root.utils = types.ModuleType("torchvision.utils")  # type: ignore[attr-defined]
    return {m.__name__: m for m in (root, root.transforms, root.utils)}  # type: ignore[attr-defined]
