"""Whole networks from the kernels alone, one clip of each fixture: minutes under the interpreter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gaitcrafter_rt.kernels import launch as launching
from gaitcrafter_rt.nn.denoiser import load_unet
from gaitcrafter_rt.nn.fused import FusedUNet

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture(autouse=True)
def small_grids() -> None:
    """Lifts the limit on programs; a network has more."""
    assert launching.INTERPRETED


@pytest.mark.parametrize("name", ["tiny-paper", "tiny-walker"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@torch.no_grad()
def test_golden_outputs(name: str, dtype: torch.dtype) -> None:
    g = {k: v[:1] for k, v in load_file(FIXTURES / name / "golden.safetensors").items()}
    labels = {k.removeprefix("weights."): v for k, v in g.items() if k.startswith("weights.")}
    out = FusedUNet(load_unet(FIXTURES / name), dtype)(g["x"], g["t"], labels, g.get("cond"))
    eager = load_unet(FIXTURES / name, dtype)
    cond = None if "cond" not in g else g["cond"].to(dtype)
    loss = (eager(g["x"].to(dtype), g["t"], labels, cond).double() - g["out"]).norm()
    assert (out.double() - g["out"]).norm() <= 2 * loss + 2e-7 * g["out"].norm()
