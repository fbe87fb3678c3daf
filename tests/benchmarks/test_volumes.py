"""The 5-D form of the network, which benchmarks/peers.py offers to peers, computes what the network computes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gaitcrafter_rt.config import ClipShape, Conditioning, Labels, ModelConfig, paper_preset, walker_preset
from gaitcrafter_rt.nn.unet import UNet3D

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from harness.volumes import Volumes

# Last on the path from now on: other tests mean tests/peers.py, which has a namesake there.
sys.path.sort(key=str(Path(__file__).resolve().parents[2] / "benchmarks").__eq__)

LABELS = Labels(identity=["a", "b"], view=["000", "090"])


@pytest.mark.parametrize(
    ("unet", "cond"),
    [
        (paper_preset(dim=16, dim_mults=[1, 2], spatial_linear_attention=[True, True], temporal_attention=[True, True],
                      temporal_conv=[False, False], init_dim=16), Conditioning(cond_dim=6)),
        (paper_preset(dim=16, dim_mults=[1, 2], spatial_linear_attention=[True, True], temporal_attention=[True, True],
                      temporal_conv=[False, False], init_dim=16, norm="rms_norm"), Conditioning(cond_dim=6)),
        (walker_preset(dim=16, init_dim=16), Conditioning(identity="block_table", view="input_map", encoder_dim=4)),
    ],
    ids=["paper", "rms", "walker"],
)  # fmt: skip
def test_volumes_equal_the_network(unet: Any, cond: Conditioning) -> None:
    labels = Labels() if cond.cond_dim else LABELS
    config = ModelConfig(clip=ClipShape(frames=5, height=16, width=32), unet=unet, conditioning=cond, labels=labels)
    torch.manual_seed(0)
    net = UNet3D(config).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():  # gains of one and tables of zero would hide mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
        x, t = torch.randn(2, 1, 5, 16, 32, dtype=torch.double), torch.tensor([3, 700])
        weights = {} if cond.cond_dim else {a: torch.rand(2, 3, dtype=torch.double) for a in ("identity", "view")}
        vector = torch.randn(2, 6, dtype=torch.double) if cond.cond_dim else None
        want, got = net(x, t, weights, vector), Volumes(net)(x, t, weights, vector)
    assert (got - want).norm() < 1e-9 * want.norm()
