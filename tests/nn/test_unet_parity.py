"""Whole forwards of ``UNet3D`` against ``Unet3D`` of both releases of the public base network, judged by that in double."""

from __future__ import annotations

import pytest
import torch
from peers import base_network, in_double, our_network, randomise_norms, relative_l2

FORWARD_TOLERANCE = 5e-6
DOUBLE_TOLERANCE = 1e-6
# dim, multipliers, frames, size, batch, options of the base network
SIZES = {
    "smallest": (8, (1,), 4, 4, 1, {}),
    "two levels, unconditional": (8, (1, 2), 5, 8, 2, {}),
    "a clip as long as the paper's": (16, (1, 2), 30, 8, 1, {"cond_dim": 6}),
    "three levels, more frames than buckets are exact": (16, (1, 2, 4), 20, 8, 2, {"cond_dim": 3}),
    "the paper's levels, cond of 74": (8, (1, 2, 4, 8), 9, 16, 2, {"cond_dim": 74}),
    "widest": (32, (1, 2), 6, 8, 1, {"cond_dim": 5, "channels": 3}),
    "no linear attention, small kernel, few heads": (
        16, (1, 3), 7, 8, 2, {"use_sparse_linear_attn": False, "init_kernel_size": 3, "attn_heads": 2, "channels": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("norm", ["group_norm", "rms_norm"])
@pytest.mark.parametrize("case", SIZES)
def test_forward(case: str, norm: str) -> None:
    dim, mults, frames, size, batch, options = SIZES[case]
    torch.manual_seed(len(case))
    base = base_network(norm).Unet3D(dim, dim_mults=mults, **{"channels": 1, **options})
    randomise_norms(base, 1)
    ours = our_network(base, frames, size)
    x = torch.randn(batch, base.channels, frames, size, size)
    t = torch.tensor([999, 417])[:batch]
    cond = torch.randn(batch, options["cond_dim"]) if "cond_dim" in options else None
    exact = (x.double(), t, None if cond is None else cond.double())
    double = in_double(base)
    with torch.no_grad():
        want = double(exact[0], t, cond=exact[2])
        assert relative_l2(ours(x, t, cond=cond), want) < FORWARD_TOLERANCE
        ours = ours.double()
        assert relative_l2(ours(exact[0], t, cond=exact[2]), want) < DOUBLE_TOLERANCE
        if cond is not None:
            null = double(exact[0], t, cond=exact[2], null_cond_prob=1.0)
            assert relative_l2(null, want) > 1e-3
            assert relative_l2(ours(exact[0], t), null) < DOUBLE_TOLERANCE


def test_resnet_groups() -> None:
    """The group count of 0.6.3 is an option that no tensor shape tells."""
    torch.manual_seed(0)
    base = base_network("group_norm").Unet3D(16, dim_mults=(1, 2), channels=1, resnet_groups=4)
    randomise_norms(base, 1)
    x, t = torch.randn(1, 1, 4, 8, 8), torch.tensor([500])
    with torch.no_grad():
        want = in_double(base)(x.double(), t)
        assert relative_l2(our_network(base, 4, 8, groups=4)(x, t), want) < FORWARD_TOLERANCE
        assert relative_l2(our_network(base, 4, 8, groups=8)(x, t), want) > 1e-3
