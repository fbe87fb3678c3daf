"""Whole networks on the GPU: the fused U-Net beside the reference module, eager, with torch's fused attention, and compiled."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig, SamplerDefaults, paper_preset
from ..export.onnx import example_inputs
from ..kernels import spatial_attention, temporal_attention
from ..models import resolve_model
from ..nn.denoiser import load_unet
from ..nn.fused import FusedUNet, route_convolutions
from ..nn.unet import UNet3D
from .kernels import DTYPES
from .measure import compare, time_left

ROW_SECONDS = 12  # what a batch size wants to have left
COMPILE_SECONDS = 100  # torch.compile of one network gets no longer


def paper_config() -> ModelConfig:
    """The paper's network and sampler."""
    return ModelConfig(unet=paper_preset(), sampler=SamplerDefaults(kind="ddpm", steps=20))


def walker() -> UNet3D:
    """The model that ships."""
    return load_unet(Path(resolve_model("walker")))


def paper() -> UNet3D:
    """The paper's network with random weights of one seed."""
    torch.manual_seed(0)
    return UNet3D(paper_config()).eval()


def inputs(config: ModelConfig, batch: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, t and null labels on the GPU."""
    given = {k: v.cuda() for k, v in example_inputs(config, batch).items()}
    x = torch.randn(given["x"].shape, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    labels = {k.removeprefix("weights."): v for k, v in given.items() if k.startswith("weights.")}
    return x, torch.full((batch,), 500, device="cuda"), labels


def forward_parity(model: UNet3D, dtypes: list[str], batch: int = 2) -> dict[str, Any]:
    """One call: distance to the reference in double (relative, in the 2-norm) of the fused network and of eager, per dtype."""
    x, t, labels = inputs(model.config, batch)
    exact = copy.deepcopy(model).double().cuda()(x.double(), t, {k: v.double() for k, v in labels.items()})
    found: dict[str, Any] = {}
    for name in dtypes:
        dtype = DTYPES[name]
        eager = _distance(copy.deepcopy(model).to(dtype).cuda()(x.to(dtype), t, labels), exact)
        for conv in ("triton", "torch"):
            ours = route_convolutions(FusedUNet(copy.deepcopy(model), dtype).cuda(), conv)(x, t, labels)
            row = found[f"{name}, {conv} convolutions"] = {"ours": _distance(ours, exact), "eager": eager, "why": ""}
            if not ours.isfinite().all():
                row["why"] = "not finite"
            elif row["ours"] > 2 * eager + 2e-7:
                row["why"] = "more than twice eager's loss"
    return found


def _distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """The reference's attention by scaled_dot_product_attention."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        mask = None if bias is None else bias.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)  # q is scaled already

    saved = temporal_attention.attention
    temporal_attention.attention = spatial_attention.attention = attend  # type: ignore[attr-defined]
    try:
        yield
    finally:
        temporal_attention.attention = spatial_attention.attention = saved  # type: ignore[attr-defined]


def contestants(model: UNet3D, batch: int) -> dict[str, Callable[[], object]]:
    """One call of the network in bf16, by name: the fused network with three choices of convolution, eager, eager with SDPA."""
    x, t, labels = inputs(model.config, batch)
    half, works = x.bfloat16(), {}
    for conv in ("triton", "auto", "torch"):
        fused = route_convolutions(FusedUNet(copy.deepcopy(model), torch.bfloat16).cuda(), conv)
        works["ours" if conv == "triton" else f"ours, {conv} convolutions"] = _call(fused, x, t, labels)
    plain = _plain(model)
    works["eager"] = _call(plain, half, t, labels)

    def with_sdpa() -> object:
        with fused_attention():
            return plain(half, t, labels)

    works["eager, SDPA"] = with_sdpa
    return works


def _call(model: Callable[..., Any], *given: Any) -> Callable[[], object]:
    return lambda: model(*given)


def _plain(model: UNet3D) -> UNet3D:
    return copy.deepcopy(model).bfloat16().cuda().to(memory_format=torch.channels_last)


def compiled(model: UNet3D, batch: int) -> dict[str, Callable[[], object]]:
    """The reference by torch.compile, compiled here. Raises TimeoutError after COMPILE_SECONDS."""
    x, t, labels = inputs(model.config, batch)
    fast, half = torch.compile(_plain(model), dynamic=False), x.bfloat16()

    def too_long(*_: object) -> None:
        raise TimeoutError(f"torch.compile took longer than {COMPILE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(COMPILE_SECONDS)
    try:
        fast(half, t, labels)
        torch.cuda.synchronize()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return {"torch.compile": _call(fast, half, t, labels)}


@torch.no_grad()
def section(batches: dict[str, list[int]], dtypes: list[str], compile_at: dict[str, int], products: float) -> dict[str, Any]:
    """Parity of one call; milliseconds of one call per batch size, everything as a CUDA graph that can be one.

    ``compile_at``: the batch at which torch.compile takes part, by network; ``products``: the measured rate of a large product.
    """
    rows, parity, failures, left_out = [], {}, [], []
    for name, model in (("walker", walker()), ("paper", paper())):
        try:
            parity[name] = forward_parity(model, dtypes)
            failures += [f"{name} {k}: {v['why']} ({v})" for k, v in parity[name].items() if v["why"]]
        except Exception as e:
            failures.append(f"{name} parity: {type(e).__name__}: {str(e)[:300]}")
        for batch in batches.get(name, []):
            if time_left() < ROW_SECONDS:
                left_out.append(f"{name} batch {batch}")
                continue
            row: dict[str, Any] = {"network": name, "batch": batch}
            rows.append(row)
            try:
                row |= compare(contestants(model, batch), rounds=5)
                if compile_at.get(name) == batch:
                    row |= _compiled(model, batch)
            except Exception as e:
                failures.append(f"{name} batch {batch}: {type(e).__name__}: {str(e)[:300]}")
            row["rate_share"] = _share(model.config, batch, row, products)
            torch.cuda.empty_cache()
    return {"rows": rows, "parity": parity, "failures": failures, "left_out": left_out}


def _compiled(model: UNet3D, batch: int) -> dict[str, Any]:
    """Not ours, so its failure is an entry and not a failure of the check."""
    try:
        return compare(compiled(model, batch), rounds=5)
    except Exception as e:
        return {"torch.compile": {"absent": f"{type(e).__name__}: {str(e)[:200]}"}}


def _share(config: ModelConfig, batch: int, row: dict[str, Any], products: float) -> float | None:
    """Of the product rate, by the operations of our launches."""
    from ..export.launches import network_launches

    if "us" not in row.get("ours", {}):
        return None
    flops = sum(launch.flops for launch in network_launches(config, batch))
    return flops / (row["ours"]["us"] / 1e6) / products
