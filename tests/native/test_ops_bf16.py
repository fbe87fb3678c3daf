"""Each op of the bfloat16 tier, by vectors and by the matrix unit: at most twice the error of eager PyTorch in bfloat16, on random
and on trained weights.

Inputs and weights are rounded to bfloat16 first. The judge is ``kernels/*.py`` in double on those values, the yardstick the same
reference run in bfloat16 throughout. There is no other tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import op_cases as cases
import pytest
import torch
from native_ops import BF16, load, need
from op_cases import Case
from trained_cases import trained_cases

from gaitcrafter_rt.models import resolve_model

native = load()
TIMES_EAGER = 2.0
TRAINED = {"walker": resolve_model("walker"), "trained-eps": Path(__file__).parent.parent / "fixtures" / "trained-eps"}
VALUES = 2000  # below this many results an error is one draw of luck; more draws are pooled


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=BF16)
def table(request: pytest.FixtureRequest) -> str:
    return need(native, request.param)


@torch.no_grad()
def squared(table: str, case: Case) -> tuple[float, float, float, int]:
    """Squared L2 norms: native error, eager error, the result; and how many values it has."""
    rounded = {name: t.bfloat16() for name, t in case.tensors.items()}
    exact = {name: t.double() for name, t in rounded.items()}
    want = case.reference(exact)
    eager = case.reference(rounded)
    assert eager.dtype == torch.bfloat16, "the yardstick must stay in bfloat16"
    ours = Case(exact, case.reference, case.native).got(native, table)
    assert ours.shape == want.shape == eager.shape
    return *(float(e.double().square().sum()) for e in (ours - want, eager.double() - want, want)), want.numel()


def judge(name: str, *sums: tuple[float, float, float, int]) -> None:
    ours, eager, size = ((sum(s[i] for s in sums)) ** 0.5 for i in range(3))
    assert ours <= TIMES_EAGER * eager, f"{name}: relative L2 error {ours / size:.3e}, eager bfloat16 has {eager / size:.3e}"


def judge_random(table: str, build: Callable[..., Case], *args: Any) -> None:
    sums: list[tuple[float, float, float, int]] = []
    while sum(s[3] for s in sums) < VALUES:
        with cases.another_draw(len(sums)):
            sums.append(squared(table, build(*args)))
    judge(f"{build.__name__}{args}", *sums)


@pytest.mark.parametrize("shape", cases.CONVS)
def test_conv2d(table: str, shape: tuple[int, ...]) -> None:
    judge_random(table, cases.random_conv2d, shape)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("channels", "stride"), cases.PENDING)
def test_conv2d_applies_the_pending_affine(table: str, channels: int, stride: int, rows: int) -> None:
    judge_random(table, cases.random_pending_conv2d, channels, stride, rows)


@pytest.mark.parametrize("shape", cases.CONV_TRANSPOSES)
def test_conv_transpose2d(table: str, shape: tuple[int, ...]) -> None:
    judge_random(table, cases.random_conv_transpose2d, shape)


# Channels are multiplied in pairs; the engine refuses models of odd widths in this tier.
@pytest.mark.parametrize("shape", [(*s[:3], s[3] + s[3] % 2, s[4]) for s in cases.LINEARS])
@pytest.mark.parametrize("with_residual", [False, True])
def test_linear(table: str, shape: tuple[int, ...], with_residual: bool) -> None:
    judge_random(table, cases.random_linear, shape, with_residual)


@pytest.mark.parametrize("scope", ["clip", "frame"])
@pytest.mark.parametrize("shape", cases.GROUP_NORMS)
@pytest.mark.parametrize("bare", [True, False])
def test_group_norm_silu(table: str, scope: str, shape: tuple[int, ...], bare: bool) -> None:
    judge_random(table, cases.random_group_norm_silu, shape, scope, bare, False)


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("shape", cases.SHORTCUTS)
def test_shortcut_norm_silu(table: str, shape: tuple[int, ...], per_frame: bool) -> None:
    judge_random(table, cases.random_shortcut_norm_silu, shape, per_frame)


@pytest.mark.parametrize("channels", cases.RMS_NORMS)
@pytest.mark.parametrize("bare", [True, False])
def test_rms_norm_silu(table: str, channels: int, bare: bool) -> None:
    judge_random(table, cases.random_rms_norm_silu, channels, bare)


@pytest.mark.parametrize("channels", cases.LAYER_NORMS)
def test_channel_layer_norm(table: str, channels: int) -> None:
    judge_random(table, cases.random_layer_norm, channels)


@pytest.mark.parametrize("shape", cases.TEMPORAL)
def test_temporal_attention(table: str, shape: tuple[int, ...]) -> None:
    judge_random(table, cases.random_temporal, shape)


@pytest.mark.parametrize("shape", cases.SPATIAL)
def test_spatial_attention(table: str, shape: tuple[int, ...]) -> None:
    judge_random(table, cases.random_spatial, shape)


@pytest.mark.parametrize("shape", cases.SPATIAL_LINEAR)
def test_spatial_linear_attention(table: str, shape: tuple[int, ...]) -> None:
    judge_random(table, cases.random_spatial_linear, shape)


@pytest.mark.parametrize("shape", cases.TEMPORAL_CONVS)
def test_temporal_conv(table: str, shape: tuple[int, ...]) -> None:
    judge_random(table, cases.random_temporal_conv, shape)


# No trained model has the RMS norm; the walker model has no linear attention, the eps-model no temporal convolution.
COMMON = (
    "conv2d", "pending_conv2d", "conv_transpose2d", "linear", "group_norm_silu", "layer_norm", "temporal_attention",
    "spatial_attention",
)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "op"),
    [(m, op) for m in TRAINED for op in COMMON] + [("walker", "temporal_conv"), ("trained-eps", "spatial_linear_attention")],
)
def test_trained_weights(table: str, model: str, op: str) -> None:
    for layer, case in trained_cases(TRAINED[model])[op]:
        judge(f"{model} {layer}, {op}", squared(table, case))


@pytest.mark.parametrize("model", TRAINED)
def test_every_op_of_the_trained_models_is_judged(model: str) -> None:
    own = {"walker": "temporal_conv", "trained-eps": "spatial_linear_attention"}
    assert set(trained_cases(TRAINED[model])) == {*COMMON, own[model]}
