"""The ops of a trained network as cases: its weights, and the activations that the first call of a run really meets."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import op_cases as cases
import torch
import torch.nn.functional as F
from op_cases import Case, Tensor, Tensors
from torch import nn

from gaitcrafter_rt.kernels.group_norm_silu import film_silu
from gaitcrafter_rt.nn.blocks import ResnetBlock, SpatialAttention, SpatialLinearAttention, TemporalAttention, TemporalConv
from gaitcrafter_rt.nn.denoiser import load_unet
from gaitcrafter_rt.nn.unet import UNet3D

Named = dict[str, list[tuple[str, Case]]]


@cache
def trained_cases(folder: Path) -> Named:
    """Cases by op, each with the layer's name: one call in double on noise at t = T, without labels."""
    model = load_unet(folder, torch.float64)
    found: Named = defaultdict(list)
    hooks = [
        module.register_forward_pre_hook(lambda m, args, name=name: _add(found, model, name, m, args))
        for name, module in model.named_modules()
    ]
    clip = model.config.clip
    noise = cases.rand(1, model.config.unet.channels, clip.frames, clip.height, clip.width)
    with torch.no_grad():
        model(noise, torch.tensor([model.config.diffusion.timesteps - 1]))
    for hook in hooks:
        hook.remove()
    return dict(found)


def _add(found: Named, model: UNet3D, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    u = model.config.unet
    if isinstance(module, ResnetBlock):
        for op, part, case in _block(model, module, *args):
            found[op].append((f"{name}.{part}", case))
    elif isinstance(module, TemporalAttention):
        tensors = _attention(module, args[0])
        found["layer_norm"].append((name, cases.layer_norm({k: tensors[k] for k in ("x", "gamma")})))
        if model.position_bias is not None:
            tensors["table"] = model.position_bias.weight
        found["temporal_attention"].append((name, cases.temporal(tensors, module.heads, u.rotary_dim, u.position_max_distance)))
    elif isinstance(module, SpatialAttention):
        found["spatial_attention"].append((name, cases.spatial(_attention(module, args[0]), module.heads)))
    elif isinstance(module, SpatialLinearAttention):
        tensors = _attention(module, args[0]) | {"bias": module.to_out.bias}
        found["spatial_linear_attention"].append((name, cases.spatial_linear(tensors, module.heads)))
    elif isinstance(module, TemporalConv):
        tensors = {"x": args[0], "gamma": module.norm["gamma"], **_affine(module.conv)}
        found["temporal_conv"].append((name, cases.temporal_convolution(tensors)))
    elif isinstance(module, nn.ConvTranspose2d):
        found["conv_transpose2d"].append((name, cases.conv_transpose2d({"x": args[0], **_affine(module)})))
    elif name in ("init_conv", "final_conv") or name.endswith("downsample"):
        found["linear" if name == "final_conv" else "conv2d"].append((name, _convolution(module, args[0])))


def _affine(layer: Any) -> Tensors:
    return {"weight": layer.weight, "bias": layer.bias}


def _attention(module: Any, x: Tensor) -> Tensors:
    return {"x": x, "gamma": module.norm["gamma"], "to_qkv": module.to_qkv.weight, "to_out": module.to_out.weight}


def _convolution(layer: Any, x: Tensor) -> Case:
    if layer.kernel_size == (1, 1):
        return cases.linear({"x": x, "weight": layer.weight[:, :, 0, 0], "bias": layer.bias})
    return cases.conv2d({"x": x, **_affine(layer)}, layer.stride[0])


def _block(model: UNet3D, block: ResnetBlock, x: Tensor, frames: int, time: Any, labels: Any) -> list[tuple[str, str, Case]]:
    """Both convolutions alone, the second with the first norm and FiLM pending, both with their norms, and the shortcut."""
    u = model.config.unet
    assert u.norm == "group_norm", "no trained model has the other norm"
    film = None
    if block.film is not None:
        film = block.film(F.silu(time))
        for axis, table in block.tables.items():
            film = film + labels[axis].to(table.dtype) @ table
    y = F.conv2d(x, **_affine(block.conv1), padding=1)
    h = film_silu(block.norm1(y, frames), film, frames)
    residual = x if block.shortcut is None else F.conv2d(x, **_affine(block.shortcut))

    def normed(x: Tensor, conv: Any, norm: Any, **more: Tensor) -> Case:
        tensors = {"x": x, **_affine(conv), "gain": norm.weight, "offset": norm.bias, **more}
        return cases.conv_group_norm_silu(tensors, u.norm_groups, u.norm_scope)

    scale, shift = _pending(y, block.norm1, film)
    found = [
        ("conv2d", "conv1", cases.conv2d({"x": x, **_affine(block.conv1)})),
        ("pending_conv2d", "conv2", cases.conv2d({"x": y, **_affine(block.conv2), "scale": scale, "shift": shift})),
        ("group_norm_silu", "norm1", normed(x, block.conv1, block.norm1, **({} if film is None else {"film": film}))),
        ("group_norm_silu", "norm2", normed(h, block.conv2, block.norm2, residual=residual)),
    ]
    if block.shortcut is not None:
        found.append(("linear", "shortcut", _convolution(block.shortcut, x)))
    return found


def _pending(y: Tensor, norm: Any, film: Tensor | None) -> tuple[Tensor, Tensor]:
    """GroupNorm and FiLM of ``y [F, C, H, W]`` as one scale and shift ``[rows, C]``."""
    frames, channels = y.shape[:2]
    rows = frames if norm.scope == "frame" else 1
    grouped = y.reshape(rows, frames // rows, norm.groups, -1, *y.shape[2:]).transpose(1, 2).flatten(2)
    mean, variance = grouped.mean(2), grouped.var(2, correction=0)
    deviation = (variance + 1e-5).rsqrt().repeat_interleave(channels // norm.groups, 1)
    scale = norm.weight * deviation
    shift = norm.bias - mean.repeat_interleave(channels // norm.groups, 1) * scale
    if film is None:
        return scale, shift
    gain, offset = film.chunk(2, dim=1)
    return scale * (gain + 1), shift * (gain + 1) + offset
