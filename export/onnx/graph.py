"""One ONNX file from the plain network ``UNet3D``: GroupNormalization, convolutions, attention as products and softmax.

    model = load_unet("runs/model")
    inputs = export_onnx(model, "runs/model.onnx")

The graph takes ``x [B, C, F, H, W]`` and ``t [B]`` (int64), then ``weights.AXIS [B, labels + 1]`` for every wired axis (last column
null) or ``cond [B, cond_dim]``, and gives ``out`` like ``x``. These are fp32 in every precision; everything between has the type of
the precision, weights included, except what GroupNormalization and LayerNormalization sum up, which is fp32.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...config import AXES, ModelConfig
from ...errors import InvalidRequestError, MissingExtraError, OutputError
from ...files import refuse_existing_file
from ...nn.unet import UNet3D

OPSET = 22  # the first with GroupNormalization as one op and bfloat16 convolutions
LARGEST_BATCH = 256
LARGEST_BYTES = 1 << 30  # of weights in one file
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
DATA_SUFFIX = ".data"
# Loggers that say, for every export, which nodes stay as they are and that torchvision is not there.
_CHATTY = ("onnxscript.optimizer._constant_folding", "torch.onnx._internal.exporter._registration")


class _Flat(nn.Module):
    """The network with its conditions as positional tensors (an exported graph has no dicts) and with fp32 at its edges."""

    def __init__(self, model: nn.Module, names: list[str], dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.names, self.dtype = model, names, dtype

    def forward(self, x: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        given = {name: value.to(self.dtype) for name, value in zip(self.names, conditions, strict=True)}
        cond = given.pop("cond", None)
        labels = {name.removeprefix("weights."): v for name, v in given.items()}
        out: Tensor = self.model(x.to(self.dtype), t, labels, cond)
        return out.float()


def example_inputs(config: ModelConfig, batch: int) -> dict[str, Tensor]:
    """Zero inputs of a clip batch with null conditions, by graph input name and in graph order."""
    clip, cond = config.clip, config.conditioning
    inputs = {
        "x": torch.zeros(batch, config.unet.channels, clip.frames, clip.height, clip.width),
        "t": torch.zeros(batch, dtype=torch.int64),
    }
    for axis in AXES:
        if getattr(cond, axis) != "none":
            null = torch.zeros(batch, len(getattr(config.labels, axis)) + 1)
            null[:, -1] = 1
            inputs[f"weights.{axis}"] = null
    if cond.cond_dim:
        inputs["cond"] = torch.zeros(batch, cond.cond_dim)
    return inputs


def check_batch(batch: int | None) -> None:
    """Raises InvalidRequestError unless ``batch`` is 1 to 256, or None for a dynamic one."""
    if batch is not None and not 1 <= batch <= LARGEST_BATCH:
        raise InvalidRequestError(f"batch is {batch}; allowed is 1..{LARGEST_BATCH}")


def weight_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def export_onnx(
    model: UNet3D, path: str | os.PathLike[str], batch: int | None = 1, *, external_data: bool = False, opset: int = OPSET
) -> dict[str, Tensor]:
    """Write the graph of ``model``, in the type of its weights, and return example inputs for it.

    ``batch`` None makes a graph for any number of clips. ``external_data`` puts the weights beside the graph, into
    ``path.data``, which a graph of more than 1 GiB of weights needs.

    Raises InvalidRequestError for a batch outside 1..256 or too many weights for one file, OutputError if ``path`` exists,
    MissingExtraError without the extra ``onnx``.
    """
    check_batch(batch)
    size = weight_bytes(model)
    if size > LARGEST_BYTES and not external_data:
        raise InvalidRequestError(
            f"the weights are {size / 2**30:.1f} GiB and one ONNX file holds at most 1 GiB; export with external data"
        )
    target = refuse_existing_file(path)
    data = refuse_existing_file(target.with_name(target.name + DATA_SUFFIX)) if external_data else None
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise MissingExtraError.for_extra("onnx", "exporting an ONNX graph", e.name) from e
    inputs = example_inputs(model.config, 2 if batch is None else batch)
    program = _program(model, inputs, batch is None, opset)
    try:
        if external_data:
            program.save(target, external_data=True)  # the graph names its data file, so neither is renamed
        else:
            partial = target.with_name(f".{target.name}.partial")
            program.save(partial)
            partial.rename(target)
    except OSError as e:
        for half in (target, target.with_name(f".{target.name}.partial"), *([data] if data else [])):
            half.unlink(missing_ok=True)
        raise OutputError(f"{target} could not be written: {e.strerror or e}") from e
    return inputs


def _program(model: UNet3D, inputs: dict[str, Tensor], dynamic: bool, opset: int) -> Any:
    names = list(inputs)
    shapes: dict[str, Any] = {}
    if dynamic:
        first = {0: torch.export.Dim("batch", min=1, max=LARGEST_BATCH)}
        shapes["dynamic_shapes"] = (first, first, tuple(first for _ in names[2:]))
    flat = _Flat(model, names[2:], next(model.parameters()).dtype).eval()
    with warnings.catch_warnings(), _quiet(*_CHATTY):
        # torch 2.13 warns about its own use of torch.export, and that every input shares the axis "batch".
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            flat, tuple(inputs.values()), input_names=names, output_names=["out"], opset_version=opset, dynamo=True,
            verbose=False, **shapes,
        )  # fmt: skip
    if program is None:
        raise OutputError("torch.onnx.export gave no graph")
    _strip(program.model)
    return program


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _strip(model: Any) -> None:
    """Drop what says where the exporter found each node: stack traces with the paths of this machine, twice the graph's size."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
