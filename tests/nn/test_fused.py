"""The network on fused ops: the golden outputs on a CPU, and what torch.export and torch.compile see of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gaitcrafter_rt.config import ModelConfig, paper_preset
from gaitcrafter_rt.nn.denoiser import load_unet
from gaitcrafter_rt.nn.fused import FusedUNet
from gaitcrafter_rt.nn.unet import UNet3D

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ["tiny-paper", "tiny-walker"]


def golden(name: str) -> tuple[tuple[Tensor, Tensor, dict[str, Tensor], Tensor | None], Tensor]:
    g = load_file(FIXTURES / name / "golden.safetensors")
    labels = {k.removeprefix("weights."): v for k, v in g.items() if k.startswith("weights.")}
    return (g["x"], g["t"], labels, g.get("cond")), g["out"]


def distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_golden_outputs(name: str) -> None:
    inputs, out = golden(name)
    model = load_unet(FIXTURES / name)
    assert distance(FusedUNet(model, torch.float32)(*inputs), out) < 2e-6
    half = FusedUNet(model, torch.bfloat16)(*inputs)
    x, t, labels, cond = inputs
    plain = load_unet(FIXTURES / name, torch.bfloat16)(x.bfloat16(), t, labels, None if cond is None else cond.bfloat16())
    assert half.dtype == torch.float32
    assert distance(half, out) < 2 * distance(plain, out)


@pytest.mark.parametrize(
    "changes",
    [
        dict(norm="rms_norm", dim=8, init_dim=8, dim_mults=[1, 2], spatial_linear_attention=[True] * 2,
             temporal_attention=[True] * 2, temporal_conv=[True, False]),
        dict(dim=8, init_dim=16, dim_mults=[1, 2], spatial_linear_attention=[False] * 2, temporal_attention=[False] * 2,
             temporal_conv=[False] * 2, position_buckets=0, rotary_dim=0, init_kernel=1, blocks_per_level=1),
    ],
    ids=["RMSNorm generation", "no position anywhere, one block a level"],
)  # fmt: skip
@torch.no_grad()
def test_other_configurations_agree_with_the_reference(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    unet = paper_preset(**changes).model_dump()
    model = UNet3D(ModelConfig.model_validate({"clip": {"frames": 3, "height": 8, "width": 8}, "unet": unet})).eval()
    x, t = torch.randn(2, 1, 3, 8, 8), torch.tensor([7, 900])
    assert distance(FusedUNet(model, torch.float32)(x, t), model(x, t)) < 2e-6


@pytest.mark.parametrize("dtype, attention", [(torch.float32, "attend_frames"), (torch.bfloat16, "temporal_block")], ids=str)
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_export_keeps_the_ops_whole(name: str, dtype: torch.dtype, attention: str) -> None:
    inputs, _ = golden(name)
    model = FusedUNet(load_unet(FIXTURES / name), dtype).eval()
    program = torch.export.export(model, inputs)
    called = {str(node.target) for node in program.graph.nodes if "gaitcrafter" in str(node.target)}
    assert {f"gaitcrafter.{op}.default" for op in ("conv2d", "norm_affine", attention)} <= called
    assert torch.equal(program.module()(*inputs), model(*inputs))


@torch.no_grad()
def test_compile_has_no_graph_break() -> None:
    inputs, out = golden("tiny-walker")
    model = FusedUNet(load_unet(FIXTURES / "tiny-walker"), torch.float32).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert distance(compiled(*inputs), out) < 2e-6
