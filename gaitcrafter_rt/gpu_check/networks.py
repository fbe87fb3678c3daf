"""Whole networks on the GPU: the fused U-Net beside the reference module, eager and compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig, SamplerDefaults, paper_preset
from ..export.onnx import example_inputs
from ..models import resolve_model
from ..nn.denoiser import load_unet
from ..nn.fused import FusedUNet
from ..nn.unet import UNet3D
from .kernels import DTYPES
from .measure import compare


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
        ours = FusedUNet(model, dtype).cuda()(x, t, labels)
        eager = copy.deepcopy(model).to(dtype).cuda()(x.to(dtype), t, labels)
        found[name] = {"ours": _distance(ours, exact), "eager": _distance(eager, exact)}
        found[name]["why"] = "" if found[name]["ours"] <= 2 * found[name]["eager"] else "more than twice eager's loss"
        if not ours.isfinite().all():
            found[name]["why"] = "not finite"
    return found


def _distance(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b).norm() / b.norm()).item()


def contestants(model: UNet3D, batch: int, compiled: bool) -> dict[str, Callable[[], object]]:
    """One call of the network in bf16, by name."""
    x, t, labels = inputs(model.config, batch)
    fused = FusedUNet(model, torch.bfloat16).cuda()
    plain = copy.deepcopy(model).bfloat16().cuda().to(memory_format=torch.channels_last)
    half = x.bfloat16()
    works: dict[str, Callable[[], object]] = {"ours": lambda: fused(x, t, labels), "eager": lambda: plain(half, t, labels)}
    if compiled:
        fast = torch.compile(plain)
        works["compile"] = lambda: fast(half, t, labels)
    return works


@torch.no_grad()
def section(batches: dict[str, list[int]], dtypes: list[str], compiled: bool = True) -> dict[str, Any]:
    """Parity of one call, then milliseconds of one call per batch size; with CUDA graphs, and eager also without."""
    rows, parity, failures = [], {}, []
    for name, model in (("walker", walker()), ("paper", paper())):
        try:
            parity[name] = forward_parity(model, dtypes)
            failures += [f"{name} {k}: {v['why']} ({v})" for k, v in parity[name].items() if v["why"]]
        except Exception as e:
            failures.append(f"{name} parity: {type(e).__name__}: {str(e)[:300]}")
        for batch in batches.get(name, []):
            try:
                works = contestants(model, batch, compiled)
                torch.cuda.reset_peak_memory_stats()
                rows.append({"network": name, "batch": batch, **compare(works, rounds=5)})
            except Exception as e:
                failures.append(f"{name} batch {batch}: {type(e).__name__}: {str(e)[:300]}")
            torch.cuda.empty_cache()
    return {"rows": rows, "parity": parity, "failures": failures}
