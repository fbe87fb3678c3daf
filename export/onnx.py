"""The torch network as an ONNX graph of fixed batch (extras ``train`` and ``onnx``): what other engines are measured on.

    model = load_unet("runs/model")
    inputs = export_onnx(model, "runs/model.onnx")

The graph takes ``x [B, C, F, H, W]`` and ``t [B]`` (int64), then ``weights.AXIS [B, labels + 1]`` for every wired axis (last column
null) or ``cond [B, cond_dim]``, and gives ``out`` like ``x``.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import AXES, ModelConfig
from ..errors import InvalidRequestError, MissingExtraError, OutputError
from ..nn.unet import UNet3D

OPSET = 20
LARGEST_BATCH = 256
LARGEST_BYTES = 1 << 30  # torch moves larger weights into a second file


class _Flat(nn.Module):
    """The network with its conditions as positional tensors; an exported graph has no dicts."""

    def __init__(self, model: UNet3D, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, x: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        given = dict(zip(self.names, conditions, strict=True))
        cond = given.pop("cond", None)
        out: Tensor = self.model(x, t, {name.removeprefix("weights."): v for name, v in given.items()}, cond)
        return out


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


def export_onnx(model: UNet3D, path: str | os.PathLike[str], batch: int = 1) -> dict[str, Tensor]:
    """Write the graph and return example inputs for it.

    Raises InvalidRequestError for a batch outside 1..256 or weights above 1 GiB, OutputError if ``path`` exists,
    MissingExtraError without the extra ``onnx``.
    """
    if not 1 <= batch <= LARGEST_BATCH:
        raise InvalidRequestError(f"batch is {batch}; allowed is 1..{LARGEST_BATCH}")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > LARGEST_BYTES:
        raise InvalidRequestError(f"the weights are {size / 2**30:.1f} GiB; one ONNX file is written for at most 1 GiB")
    target = Path(path)
    if target.exists():
        raise OutputError(f"{target} exists; choose another place or remove it")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as e:
        raise MissingExtraError.for_extra("onnx", "exporting an ONNX graph", e.name) from e
    inputs = example_inputs(model.config, batch)
    names = list(inputs)
    partial = target.with_name(f".{target.name}.partial")
    program = torch.onnx.export(
        _Flat(model, names[2:]).eval(), tuple(inputs.values()), input_names=names, output_names=["out"],
        opset_version=OPSET, dynamo=True, verbose=False,
    )  # fmt: skip
    if program is None:
        raise OutputError("torch.onnx.export gave no graph")
    try:
        program.save(partial)
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return inputs
