"""The whole network in the bfloat16 tier: one call beside eager PyTorch in bfloat16, and whole runs beside the fp32 tier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from native_ops import BF16_ISAS, load, need
from safetensors.numpy import load_file
from test_unet_forward import NAMES, conditions

from gaitcrafter_rt import Engine
from gaitcrafter_rt.config import AXES
from gaitcrafter_rt.errors import CapabilityError
from gaitcrafter_rt.evaluate.agreement import agreement
from gaitcrafter_rt.models import resolve_model
from gaitcrafter_rt.nn.denoiser import load_unet
from gaitcrafter_rt.package import read_config

native = load()
FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=BF16_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return need(native, f"{request.param} bf16").split()[0]


def bf16_unet(folder: Path, isa: str) -> Any:
    return native.UNet(str(folder), isa, "bf16")


def l2(error: np.ndarray) -> float:
    return float(np.linalg.norm(error))


def tensors(golden: dict[str, np.ndarray]) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    labels = {k.removeprefix("weights."): torch.from_numpy(v) for k, v in golden.items() if k.startswith("weights.")}
    return labels, torch.from_numpy(golden["cond"]) if "cond" in golden else None


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_forward_of_random_weights(isa: str, name: str) -> None:
    """Against the stored output in double; eager is ``model.to(bfloat16)``, input and all."""
    golden = load_file(FIXTURES / name / "golden.safetensors")
    labels, cond = tensors(golden)
    network = load_unet(FIXTURES / name, torch.bfloat16)
    eager = network(torch.from_numpy(golden["x"]).bfloat16(), torch.from_numpy(golden["t"]), labels, cond)
    assert eager.dtype == torch.bfloat16
    unet = bf16_unet(FIXTURES / name, isa)
    for clip, want in enumerate(golden["out"]):
        ours = l2(unet.forward(golden["x"][clip], int(golden["t"][clip]), **conditions(golden, clip)) - want)
        theirs = l2(eager[clip].double().numpy() - want)
        assert ours <= 2 * theirs, f"clip {clip}: {ours / l2(want):.2e}, eager bfloat16 {theirs / l2(want):.2e}"


@pytest.mark.parametrize("model", ["walker", "trained-eps"])
@torch.no_grad()
def test_forward_of_trained_weights(isa: str, model: str) -> None:
    folder = FIXTURES / model if (FIXTURES / model).exists() else resolve_model(model)
    double, eager, unet = load_unet(folder, torch.float64), load_unet(folder, torch.bfloat16), bf16_unet(folder, isa)
    clip = double.config.clip
    x = torch.randn(1, 1, clip.frames, clip.height, clip.width, generator=torch.Generator().manual_seed(3))
    for timestep in (999, 500):
        t = torch.tensor([timestep])
        want = double(x.double(), t)[0].numpy()
        theirs = l2(eager(x.bfloat16(), t)[0].double().numpy() - want)
        ours = l2(unet.forward(x[0].numpy(), timestep) - want)
        assert ours <= 2 * theirs, f"t = {timestep}: {ours / l2(want):.2e}, eager bfloat16 {theirs / l2(want):.2e}"


@pytest.mark.parametrize("model", ["walker", "trained-eps"])
def test_whole_runs_agree_with_fp32(isa: str, model: str) -> None:
    """Default steps, the same noise: mean IoU of the binarised clips at least 0.995."""
    folder = FIXTURES / model if (FIXTURES / model).exists() else resolve_model(model)
    config = read_config(folder)
    assert config.sampler.eta == 0, "a deterministic run"
    labels = {axis: getattr(config.labels, axis) for axis in AXES if getattr(config.labels, axis)}
    clips = [{axis: names[5 * (k >> i) % len(names)] for i, (axis, names) in enumerate(labels.items())} for k in range(8)]
    frames = {}
    for precision in ("fp32", "bf16"):
        with Engine(folder, precision=precision, isa=isa) as engine:
            frames[precision] = engine.generate(clips, seed=11).frames.astype(bool)
    exact, ours = frames["fp32"], frames["bf16"]
    assert all(0.02 < clip.mean() < 0.98 for clip in exact), "a trained model draws a figure"
    found = agreement(exact, ours)
    print(f"{model}: {found}")
    assert found.iou_mean >= 0.995, found


def test_a_narrower_instruction_set_means_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAITCRAFTER_ISA", "portable")
    with Engine(FIXTURES / "tiny-walker", threads=1) as engine:
        assert (engine.info["isa"], engine.info["precision"]) == ("portable", "fp32")
    with pytest.raises(CapabilityError, match=r"bf16 needs a processor with avx512_bf16.*this engine runs portable.*fp32 or auto"):
        Engine(FIXTURES / "tiny-walker", threads=1, precision="bf16")
    if native.isa_supported("avx2"):
        monkeypatch.setenv("GAITCRAFTER_ISA", "avx2")
        with Engine(FIXTURES / "tiny-walker", threads=1) as engine:
            assert (engine.info["isa"], engine.info["precision"]) == ("avx2", "fp32")
        with pytest.raises(CapabilityError, match="this engine runs avx2"):
            Engine(FIXTURES / "tiny-walker", threads=1, precision="bf16")
