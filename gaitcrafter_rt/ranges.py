"""Calibrated input ranges in a model package: for each layer of ``config.quantisation`` the tensors ``LAYER.input_low`` and
``LAYER.input_high``, float32 ``[input channels]``.

A range must be finite, contain 0 (zero padding is exact in eight bits only then) and not be empty. ``csrc/model/package.cc``
checks the same when a package is opened.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .config import ModelConfig, resnet_convolutions
from .errors import ModelFormatError

LOW, HIGH = ".input_low", ".input_high"
Ranges = dict[str, tuple[np.ndarray, np.ndarray]]


def range_tensors(ranges: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """``{layer: (low, high)}`` as the tensors of a package."""
    return {
        layer + end: np.asarray(v, np.float32) for layer, pair in ranges.items() for end, v in zip((LOW, HIGH), pair, strict=True)
    }


def split_ranges(config: ModelConfig, tensors: Mapping[str, np.ndarray], source: str) -> tuple[dict[str, np.ndarray], Ranges]:
    """The weights of a package without its ranges, and the ranges ``{layer: (low, high)}`` (empty if it has none).

    Raises ModelFormatError, naming ``source``, if a range is missing, of another shape, not finite, without 0 or empty.
    """
    weights = dict(tensors)
    ranges: Ranges = {}
    widths = resnet_convolutions(config.unet)
    for layer in config.quantisation.layers if config.quantisation else ():
        pair = []
        for name in (layer + LOW, layer + HIGH):
            values = weights.pop(name, None)
            if values is None or values.shape != (widths[layer],) or not np.isfinite(values).all():
                got = "missing" if values is None else f"not {widths[layer]} finite values (shape {list(values.shape)})"
                raise ModelFormatError(f"{source}: {name} is {got}; config.json says that {layer} has calibrated ranges")
            pair.append(values)
        low, high = pair
        wrong = np.flatnonzero((low > 0) | (high < 0) | (low >= high))
        if wrong.size:
            i = wrong[0]
            raise ModelFormatError(
                f"{source}: {layer}: the range of input channel {i} is {low[i]:g} to {high[i]:g}; it must contain 0 and not be "
                "empty, run `gaitcrafter-rt quantise` again"
            )
        ranges[layer] = (low, high)
    return weights, ranges
