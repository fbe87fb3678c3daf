"""Per-channel ranges of what convolutions read, gathered by forward hooks on the torch network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import resnet_convolutions
from ..errors import InvalidRequestError, ModelFormatError
from ..nn.unet import UNet3D
from ..ranges import Ranges
from .balance import balanced

LOWEST_PERCENTILE = 90.0
# A channel that hardly moved gets a range of this share of its layer's widest: calibration clips are a sample, and a
# step of almost nothing would cut off whatever the channel does in other clips.
NARROWEST = 1e-3


class RangeRecorder:
    """While it is entered, every call of ``model`` widens the ranges of its ResNet convolutions' inputs.

    ``percentile`` 100 keeps the extremes. Below, each call counts with the quantiles ``percentile`` and
    ``100 - percentile`` of every channel, and the widest of all calls is kept: noise levels differ in their values, and a
    quantile over all calls would cut off whole noise levels rather than the rare values of each.

    Raises InvalidRequestError for an unknown layer or a percentile outside [90, 100].
    """

    def __init__(self, model: UNet3D, layers: Sequence[str] | None = None, percentile: float = 100.0) -> None:
        known = resnet_convolutions(model.config.unet)
        self.layers = list(known if layers is None else layers)
        for layer in self.layers:
            if layer not in known:
                raise InvalidRequestError(f"{layer!r:.140} is no ResNet convolution of this model; it has {', '.join(known)}")
        if not LOWEST_PERCENTILE <= percentile <= 100:
            raise InvalidRequestError(f"percentile is {percentile:g}; allowed are {LOWEST_PERCENTILE:g} to 100 (100: extremes)")
        self._percentile = percentile
        self._model = model
        self._extremes: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}
        self._images: dict[str, int] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> RangeRecorder:
        self._hooks = [
            self._model.get_submodule(layer).register_forward_pre_hook(partial(self._see, layer)) for layer in self.layers
        ]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _see(self, layer: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].detach()
        here = channel_range(x, self._percentile)
        squares = x.square().mean([d for d in range(x.ndim) if d != 1]).double() * x.shape[0]
        self._squares[layer] = self._squares.get(layer, 0) + squares
        self._images[layer] = self._images.get(layer, 0) + x.shape[0]
        before = self._extremes.get(layer)
        if before is not None:
            here = torch.stack((torch.minimum(here[0], before[0]), torch.maximum(here[1], before[1])))
        self._extremes[layer] = here

    def ranges(self, balance: bool = True) -> Ranges:
        """``{layer: (low, high)}``, float32 ``[input channels]`` each, 0 inside, low < high.

        ``balance`` widens some of them for the sake of the weights (balance.py); without it they are what was seen.

        Raises InvalidRequestError if the model was not called, ModelFormatError if it computed values that are not finite.
        """
        if not self._extremes and self.layers:
            raise InvalidRequestError("no input was given to calibrate on; give at least one (x, t)")
        return {layer: self._balanced(layer) if balance else self._range(layer) for layer in self.layers}

    def _balanced(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        weight = self._model.get_submodule(layer).weight.detach().float().cpu().numpy()
        mean_square = self._squares[layer].cpu().numpy() / self._images[layer]
        return balanced(weight, mean_square, *self._range(layer))

    def _range(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        low, high = self._extremes[layer].float().cpu().numpy()
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ModelFormatError(f"{layer} reads values that are not finite; the weights are damaged or were never trained")
        low, high = np.minimum(low, 0), np.maximum(high, 0)
        least = np.float32(NARROWEST) * np.max(high - low)
        least = least if least > 0 else np.float32(1)
        return low, np.where(high - low < least, low + least, high).astype(np.float32)


def channel_range(x: Tensor, percentile: float = 100.0) -> Tensor:
    """``x [N, C, ...]`` to ``[2, C]``: low and high of every channel, by extremes or by quantile (nearest rank, outwards)."""
    others = [d for d in range(x.ndim) if d != 1]
    extremes = torch.stack((x.amin(others), x.amax(others)))
    n = x.numel() // x.shape[1]
    outside = int((1 - percentile / 100) * (n - 1))
    if outside == 0 or not bool(torch.isfinite(extremes).all()):
        return extremes
    rows = x.transpose(0, 1).flatten(1)
    return torch.stack((rows.kthvalue(1 + outside, dim=1).values, rows.kthvalue(n - outside, dim=1).values))


@torch.no_grad()
def calibrate(
    model: UNet3D,
    inputs: Iterable[Sequence[Any]],
    *,
    layers: Sequence[str] | None = None,
    percentile: float = 100.0,
    balance: bool = True,
) -> Ranges:
    """Ranges of what each ResNet convolution of ``model`` reads over ``inputs``.

    Args:
        model: the torch network in evaluation mode (``nn.denoiser.load_unet``).
        inputs: the arguments of ``UNet3D.forward``, one call each: ``(x, t)``, ``(x, t, labels)`` or ``(x, t, labels, cond)``.
        layers: names of 3x3 convolutions of ResNet blocks; None: all of them.
        percentile: 100 keeps the extremes; see :class:`RangeRecorder`.
        balance: widen ranges where that lessens the error of the convolution (balance.py); without it they are what was seen.

    Returns ``{layer: (low, high)}``, float32 arrays ``[input channels]`` with low <= 0 <= high and low < high: what a package
    stores (``ranges.range_tensors``).
    """
    with RangeRecorder(model, layers, percentile) as recorder:
        for call in inputs:
            model(*call)
    return recorder.ranges(balance)
