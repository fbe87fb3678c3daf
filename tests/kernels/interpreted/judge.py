"""The rule for kernels: against fp64, at most twice the error of eager torch at the same type, plus a tiny constant.

fp32 and fp16 by that rule. The interpreter truncates where it stores bf16 and cannot multiply it, so bf16 is tried at load and
store only and may lose one more unit in the last place (2^-7).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gaitcrafter_rt.kernels import (
    add_repeated,
    conv2d,
    dynamic_limits,
    group_norm_silu,
    pixel_shuffle,
    sampler_step,
    spatial_linear_attention,
    temporal_attention,
    temporal_conv,
)
from gaitcrafter_rt.kernels.launch import plain_torch

MODULES = [
    add_repeated, conv2d, dynamic_limits, group_norm_silu, pixel_shuffle,
    sampler_step, spatial_linear_attention, temporal_attention, temporal_conv,
]  # fmt: skip
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TINY = {torch.float32: 2e-7, torch.float16: 2e-4, torch.bfloat16: 2.0**-7}


def _doubled(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def judge(op: Callable[..., Any], *args: Any, dtype: torch.dtype, terms: int = 0) -> None:
    """Run ``op`` by its kernel, eagerly, and in double; compare every floating-point result.

    ``terms``: a result is a plain fp32 sum of so many terms of one sign. The interpreter adds them one after another, where torch
    and a GPU add in a tree, so what that order costs, sqrt(terms) * 2^-24 of the sum (Higham and Mary 2019), is allowed too.
    """
    got = op(*args)
    with plain_torch():
        plain, exact = op(*args), op(*map(_doubled, args))
    if isinstance(got, Tensor):
        got, plain, exact = (got,), (plain,), (exact,)
    for mine, theirs, truth in zip(got, plain, exact, strict=True):
        if not truth.numel():
            continue
        assert mine.shape == truth.shape and mine.dtype == theirs.dtype and mine.isfinite().all()
        error, loss = ((v.double() - truth.double()).abs().max().item() for v in (mine, theirs))
        allowed = 2 * loss + (TINY[dtype] + terms**0.5 * 2.0**-24) * truth.abs().max().item()
        assert error <= allowed, f"{op}: error {error:.3g}, eager {loss:.3g}"


class Maker:
    """Random tensors of one seed, in the dtype under test."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def vector(self, *shape: int, mean: float = 0.0) -> Tensor:
        """fp32, as norms and biases are."""
        return torch.randn(*shape, generator=self.generator) + mean

    def weight(self, *shape: int, terms: int) -> Tensor:
        """Product weights that keep the size of what they multiply, sums having ``terms`` terms."""
        return (self.vector(*shape) * terms**-0.5).to(self.dtype)

    def image(self, n: int, c: int, h: int, w: int, mean: float = 1.0, scale: float = 2.0) -> Tensor:
        """Activations off centre, as after a bias."""
        x = self.vector(n, c, h, w) * scale + mean
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last)
