"""One optimiser step, its arithmetic, and what torch.compile makes of the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import CapabilityError, InvalidRequestError

if TYPE_CHECKING:
    from .batches import Batch
    from .state import Run


def train_step(run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns the weighted loss and the plain x0 error as tensors, so that a GPU is not waited for."""
    batch = batch.to(run.device)
    pred = run.config.diffusion.prediction
    x_t = run.schedule.add_noise(batch.x0, batch.noise, batch.t)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=uses_bf16(run.settings.precision, run.device)):
        out = run.forward(x_t, batch.t, batch.labels)
    out = out.float()
    target = run.schedule.target(pred, batch.x0, batch.noise, batch.t)
    per_clip = (out - target).square().flatten(1).mean(1)
    weight = run.schedule.weight(run.settings.loss_weight, pred, run.settings.snr_cap, batch.t)
    loss = (weight * per_clip).mean()
    run.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimiser.step()
    with torch.no_grad():
        x0 = run.schedule.x0_from(pred, out.detach(), x_t, batch.t).clamp(-1, 1)
        error = (x0 - batch.x0).square().mean()
    return loss.detach(), error


def read_losses(pending: list[tuple[Tensor, Tensor]], step: int, lr: float) -> list[tuple[float, float]]:
    """Loss and x0 error of the steps up to ``step``, in one transfer. Raises InvalidRequestError unless all are finite."""
    values = torch.stack([torch.stack(pair) for pair in pending])
    if not torch.isfinite(values).all():
        first = int((~torch.isfinite(values)).any(1).nonzero()[0])
        raise InvalidRequestError(
            f"the loss is {values[first, 0].item()} at step {step - len(pending) + first}; lower --lr (now {lr}) and start from "
            "the last checkpoint"
        )
    return [(loss, error) for loss, error in values.tolist()]


def compiled(model: torch.nn.Module, choice: str, device: torch.device, trial: Callable[[Any], None]) -> Callable[..., Tensor]:
    """``model`` through torch.compile if ``choice`` ("auto", "on", "off") says so.

    ``trial`` runs what it is given once, so that a failure shows here. With "auto" it then warns and the model is used as it is;
    with "on" it raises CapabilityError.
    """
    if choice == "off" or (choice == "auto" and device.type != "cuda"):
        return model
    forward = torch.compile(model, dynamic=False)
    try:
        trial(forward)
    except Exception as e:  # compilers fail in many ways
        why = f"torch.compile does not work here ({type(e).__name__}: {str(e).strip()[:300]})"
        if choice == "on":
            raise CapabilityError(f"{why}; train with --compile off") from e
        warnings.warn(f"{why}; the run goes on without it, slower", stacklevel=2)
        model.zero_grad(set_to_none=True)
        return model
    return forward


def uses_bf16(precision: str, device: torch.device) -> bool:
    """bf16 pays where the processor multiplies it natively; elsewhere autocast is slower than fp32."""
    return precision == "bf16" if precision != "auto" else _fast_bf16(device.type)


@cache
def _fast_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and "avx512_bf16" in _cpu_flags()


def _cpu_flags() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
