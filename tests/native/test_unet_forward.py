"""The native forward of every fixture on every instruction set against the torch network in double (the stored golden)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from native_ops import ISAS, load, need
from safetensors.numpy import load_file
from torch.utils.flop_counter import FlopCounterMode

from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import read_config

native = load()
FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = ("tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps")


def conditions(golden: dict[str, np.ndarray], clip: int) -> dict[str, Any]:
    """A dense row of label weights as the sparse list that the engine takes; the last column is null."""
    labels = {}
    for key, table in golden.items():
        if key.startswith("weights."):
            row = table[clip, :-1]
            labels[key.removeprefix("weights.")] = [(int(i), float(row[i])) for i in np.flatnonzero(row)]
    return {"labels": labels, "cond": golden["cond"][clip] if "cond" in golden else None}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NAMES)
def test_forward(name: str, isa: str) -> None:
    unet = native.UNet(str(FIXTURES / name), need(native, isa))
    golden = load_file(FIXTURES / name / "golden.safetensors")
    for clip, want in enumerate(golden["out"]):
        got = unet.forward(golden["x"][clip], int(golden["t"][clip]), **conditions(golden, clip))
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < 1e-6, f"clip {clip}: relative L2 error {error:.2e}"


@pytest.mark.parametrize("name", NAMES)
def test_same_bits_every_time(name: str) -> None:
    """The workspace holds whatever the last call left there; nothing may depend on it."""
    unet = native.UNet(str(FIXTURES / name), "portable")
    golden = load_file(FIXTURES / name / "golden.safetensors")
    first = unet.forward(golden["x"][0], 417, **conditions(golden, 0))
    unet.forward(np.full_like(golden["x"][1], 1e6), 3)
    again = unet.forward(golden["x"][0], 417, **conditions(golden, 0))
    assert np.array_equal(first, again)


def test_labels_out_of_range_are_refused() -> None:
    unet = native.UNet(str(FIXTURES / "tiny-walker"), "portable")
    x = load_file(FIXTURES / "tiny-walker" / "golden.safetensors")["x"][0]
    with pytest.raises(native.Error, match=r"identity index 3 is outside 0\.\.2"):
        unet.forward(x, 0, {"identity": [(3, 1.0)]})


@pytest.mark.parametrize("name", NAMES)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    config = read_config(FIXTURES / name)
    reference = UNet3D(config).to("meta")
    x = torch.empty(1, config.unet.channels, config.clip.frames, config.clip.height, config.clip.width, device="meta")
    cond = config.conditioning
    labels = {
        axis: torch.empty(1, len(getattr(config.labels, axis)) + 1, device="meta")
        for axis in ("dataset", "identity", "view", "covariate")
        if getattr(cond, axis) != "none"
    }
    vector = torch.empty(1, cond.cond_dim, device="meta") if cond.cond_dim else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reference(x, torch.zeros(1, device="meta"), labels, vector)
    # torch also counts the time MLP, FiLM and encoders, which the engine computes once per run or clip.
    counted, ours = counter.get_total_flops(), native.UNet(str(FIXTURES / name), "portable").flops
    assert ours <= counted
    assert ours > 0.99 * counted
