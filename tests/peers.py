"""Loads the public base network that tests/install_peers.py put into ``.peers/``, both releases in one process."""

from __future__ import annotations

import copy
import importlib
import sys
import types
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gaitcrafter_rt.config import ClipShape, Conditioning, ModelConfig
from gaitcrafter_rt.convert.base_network import infer_unet, package_tensors
from gaitcrafter_rt.nn.unet import UNet3D

torch.set_num_threads(1)
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


def randomise_norms(module: torch.nn.Module, seed: int) -> None:
    """Gains and offsets that are not the ones and zeros of a fresh network; other weights keep torch's initialisation."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(("gamma", "norm.weight")):
                p.copy_(1 + 0.2 * torch.randn(p.shape, generator=gen))
            elif name.endswith("norm.bias"):
                p.copy_(0.2 * torch.randn(p.shape, generator=gen))


def in_double(module: torch.nn.Module) -> torch.nn.Module:
    """A copy in fp64, the judge of a comparison. The time embedding is made in fp32 by the base network, whatever its type."""
    double = copy.deepcopy(module).double()
    for part in double.modules():
        if type(part).__name__ == "SinusoidalPosEmb":
            part.register_forward_hook(lambda module, args, output: output.double())
    return double


def our_network(base: torch.nn.Module, frames: int, size: int, groups: int = 8) -> UNet3D:
    """``UNet3D`` with the weights of a base network."""
    unet, cond_dim = infer_unet(base.state_dict(), groups)
    config = ModelConfig(
        clip=ClipShape(frames=frames, height=size, width=size), unet=unet, conditioning=Conditioning(cond_dim=cond_dim)
    )
    net = UNet3D(config)
    wanted = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    net.load_state_dict(package_tensors(base.state_dict(), wanted, unet.rotary_dim))
    return net


def relative_l2(got: torch.Tensor, judge: torch.Tensor) -> float:
    """``||got - judge|| / ||judge||`` in double; infinite for another shape or for nothing to compare."""
    if got.shape != judge.shape or not judge.norm() > 0:
        return float("inf")
    return ((got.double() - judge.double()).norm() / judge.double().norm()).item()
