"""Calibration for the int8 tier: which values each ResNet convolution reads, measured on a model's own runs (extra ``train``).

``calibrate(model, inputs)`` measures given network inputs; ``quantise_model(folder, out)`` runs the model's sampler and writes a
package with the ranges in it. docs/cpu-engine.md, "int8".
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model import Quantised, quantise_model
    from .recorder import RangeRecorder, calibrate

_HOME = {"RangeRecorder": "recorder", "calibrate": "recorder", "Quantised": "model", "quantise_model": "model"}

__all__ = ["Quantised", "RangeRecorder", "calibrate", "quantise_model"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
