"""int8 and fp8 in a graph: QuantizeLinear and DequantizeLinear around what the 3x3 convolutions of ResNet blocks read and around
their weights, the layers of the native engine's int8 too. All else stays fp16.

The scales come from NVIDIA's ModelOpt (extra ``modelopt``): the largest value that each convolution reads while the model's own
sampler runs, and of its weights: per output channel for int8, one for all for fp8. The operators are ONNX's own, none are custom.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...config import resnet_convolutions
from ...errors import CapabilityError, MissingExtraError
from ...nn.unet import UNet3D
from ...quantise.runs import sample_clips, spread_conditions

KINDS = ("int8", "fp8")
LARGEST = {"int8": 127.0, "fp8": 448.0}
SMALLEST_SCALE = 2.0**-14  # the smallest normal number of fp16
_BITS: dict[str, Any] = {"int8": 8, "fp8": (4, 3)}


@dataclass(frozen=True)
class Scales:
    """Of one convolution: what a step of its input is worth, and of its weights, ``[output channels]`` or ``[]``."""

    given: float
    weight: np.ndarray


def calibrate(model: UNet3D, kind: str, clips: int = 8, seed: int = 0) -> dict[str, Scales]:
    """Scales of every 3x3 ResNet convolution of ``model``, which ModelOpt changes in place. ``clips`` are sampled.

    Raises MissingExtraError without ModelOpt, CapabilityError where it measured nothing usable.
    """
    said = io.StringIO()  # ModelOpt counts its quantisers on standard output
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            warnings.simplefilter("ignore")
            import modelopt.torch.quantization as mtq
    except ImportError as e:
        raise MissingExtraError.for_extra("modelopt", f"calibrating a graph in {kind}", e.name) from e
    layers = list(resnet_convolutions(model.config.unet))
    rules: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    for layer in layers:
        rules.append({"quantizer_name": f"*{layer}.input_quantizer", "cfg": {"num_bits": _BITS[kind], "axis": None}})
        axis = 0 if kind == "int8" else None
        rules.append({"quantizer_name": f"*{layer}.weight_quantizer", "cfg": {"num_bits": _BITS[kind], "axis": axis}})

    def run(_: nn.Module) -> None:
        for _clip in sample_clips(model, spread_conditions(model.config, clips, seed), seed):
            pass

    with warnings.catch_warnings(), contextlib.redirect_stdout(said):
        warnings.simplefilter("ignore")
        mtq.quantize(model, {"quant_cfg": rules, "algorithm": "max"}, forward_loop=run)
    return {layer: _scales(model.get_submodule(layer), layer, kind) for layer in layers}


def _scales(convolution: Any, layer: str, kind: str) -> Scales:
    amax = [getattr(getattr(convolution, name, None), "amax", None) for name in ("input_quantizer", "weight_quantizer")]
    if any(a is None or not torch.isfinite(a).all() or not (a > 0).any() for a in amax):
        raise CapabilityError(f"ModelOpt measured nothing at {layer}; calibrate with more clips")
    given, weight = (np.maximum(torch.as_tensor(a).double().numpy() / LARGEST[kind], SMALLEST_SCALE) for a in amax)
    return Scales(float(given), weight.reshape(-1) if kind == "int8" else weight.reshape(()))


def insert(graph: str | os.PathLike[str], scales: dict[str, Scales], kind: str) -> None:
    """Put the quantisation into the fp16 graph at ``graph``, in place; external weights stay external."""
    import onnx
    from onnx import TensorProto, helper

    path = Path(graph)
    data = path.with_name(f"{path.name}.data")
    external = data.is_file()
    model = onnx.load(path)
    number = TensorProto.INT8 if kind == "int8" else TensorProto.FLOAT8E4M3FN
    found, nodes = set(), []
    for node in model.graph.node:
        layer = node.input[1].removeprefix("model.").removesuffix(".weight") if node.op_type == "Conv" else ""
        if layer not in scales:
            nodes.append(node)
            continue
        found.add(layer)
        for place, scale in ((0, np.array(scales[layer].given)), (1, scales[layer].weight)):
            name = f"{layer}.{'input' if place == 0 else 'weight'}"
            zero = helper.make_tensor(f"{name}_zero", number, scale.shape, np.zeros(scale.size))
            step = onnx.numpy_helper.from_array(scale.astype(np.float16), f"{name}_scale")
            model.graph.initializer.extend([step, zero])
            axis = {"axis": 0} if scale.ndim else {}
            low, back = f"{name}_quantised", f"{name}_back"
            nodes.append(helper.make_node("QuantizeLinear", [node.input[place], step.name, zero.name], [low], **axis))
            nodes.append(helper.make_node("DequantizeLinear", [low, step.name, zero.name], [back], **axis))
            node.input[place] = back
        nodes.append(node)
    if missing := set(scales) - found:
        raise CapabilityError(f"the graph has no convolution {sorted(missing)[0]}")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for old in (path, data):
        old.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=external, location=data.name if external else None)


def read_scales(graph: str | os.PathLike[str]) -> dict[str, Scales]:
    """The scales in a graph that ``insert`` wrote."""
    import onnx

    model = onnx.load(os.fspath(graph))
    numbers = {t.name: t for t in model.graph.initializer}
    layers = [n.removesuffix(".input_scale") for n in numbers if n.endswith(".input_scale")]
    arrays = {
        layer: [onnx.numpy_helper.to_array(numbers[f"{layer}.{k}_scale"]).astype(np.float64) for k in ("input", "weight")]
        for layer in layers
    }
    return {layer: Scales(float(given), weight) for layer, (given, weight) in arrays.items()}


def quantised_torch(model: UNet3D, scales: dict[str, Scales], kind: str) -> UNet3D:
    """``model`` in fp16 with the same quantisation in plain torch: what a quantised graph is compared with."""
    model = model.half()
    for layer, s in scales.items():
        convolution = model.get_submodule(layer)
        weight = convolution.weight.detach()
        shape = (-1, 1, 1, 1) if s.weight.ndim else ()
        convolution.weight = nn.Parameter(_rounded(weight, torch.from_numpy(s.weight).reshape(shape), kind), requires_grad=False)
        step = torch.tensor(s.given, dtype=torch.float64)
        convolution.register_forward_pre_hook(lambda _, given, step=step: (_rounded(given[0], step, kind), *given[1:]))
    return model


def _rounded(x: Tensor, step: Tensor, kind: str) -> Tensor:
    """``x`` quantised and back; exact in double, then in the type of ``x``."""
    scaled = x.double() / step.double()
    limit = LARGEST[kind]
    if kind == "int8":
        return (scaled.round().clamp(-limit - 1, limit) * step.double()).to(x.dtype)
    return (scaled.clamp(-limit, limit).to(torch.float8_e4m3fn).double() * step.double()).to(x.dtype)
