"""The base network's tensor names and shapes: what they tell about its configuration, and how they map to a model package.

Source: ``Unet3D`` of video-diffusion-pytorch 0.6.3 and 0.7.0.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ..config import UNetConfig
from ..errors import ModelFormatError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

POSITION_MAX_DISTANCE = 32
LINEAR_DIM_HEAD = 32
ROTARY_FREQS = ".rotary_emb.freqs"

_BLOCK = (
    (r"\bconv([12])\.(?=\w+$)", r"block\1.proj."),
    (r"\bnorm([12])\.(?=\w+$)", r"block\1.norm."),
    (r"\bfilm\.", "mlp.1."),
    (r"\bshortcut\.", "res_conv."),
)
_ATTENTIONS = r"(init_temporal|mid_spatial|mid_temporal)_attention"
_RULES = (
    (r"^null_cond$", "null_cond_emb"),
    (r"^position_bias\.", "time_rel_pos_bias.relative_attention_bias."),
    (r"^time_mlp\.linear1\.", "time_mlp.1."),
    (r"^time_mlp\.linear2\.", "time_mlp.3."),
    (r"^final_conv\.", "final_conv.1."),
    (r"^final_block\.", "final_conv.0."),
    (rf"^{_ATTENTIONS}\.norm\.", r"\1_attn.fn.norm."),
    (rf"^{_ATTENTIONS}\.to_", r"\1_attn.fn.fn.fn.to_"),
    (r"^(downs|ups)\.(\d+)\.blocks\.(\d)\.", r"\1.\2.\3."),
    (r"^(downs|ups)\.(\d+)\.spatial_attention\.norm\.", r"\1.\2.2.fn.norm."),
    (r"^(downs|ups)\.(\d+)\.spatial_attention\.to_", r"\1.\2.2.fn.fn.to_"),
    (r"^(downs|ups)\.(\d+)\.temporal_attention\.norm\.", r"\1.\2.3.fn.norm."),
    (r"^(downs|ups)\.(\d+)\.temporal_attention\.to_", r"\1.\2.3.fn.fn.fn.to_"),
    (r"^(downs|ups)\.(\d+)\.(?:downsample|upsample)\.", r"\1.\2.4."),
    *_BLOCK,
)


def base_name(name: str) -> str:
    """The base network's name of a package tensor."""
    for pattern, replacement in _RULES:
        name = re.sub(pattern, replacement, name)
    return name


def base_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The base network's shape of a package tensor: 3-D convolutions of depth 1, gains that broadcast over a clip."""
    if name == "null_cond":
        return (1, *shape)
    if re.search(r"norm[12]\.gamma$", name):
        return (*shape, 1, 1, 1)
    if name.endswith("norm.gamma"):
        return (1, *shape, 1, 1, 1)
    if ".spatial_attention.to_" in name and len(shape) == 2:
        return (*shape, 1, 1)
    if len(shape) == 4:
        return (shape[0], shape[1], 1, *shape[2:])
    return shape


def infer_unet(state: dict[str, Tensor], norm_groups: int) -> tuple[UNetConfig, int]:
    """The U-Net's configuration and its ``cond_dim`` (0 without conditions), as far as names and shapes tell them.

    Raises ModelFormatError where they contradict each other or tell of an option that no package can hold.
    """
    init_dim, channels, _, kernel, _ = _shape(state, "init_conv.weight", 5)
    time_rows, dim = _shape(state, "time_mlp.1.weight", 2)
    if time_rows != 4 * dim:
        raise ModelFormatError(f"time_mlp.1.weight is [{time_rows}, {dim}]; expected [{4 * dim}, {dim}]")
    buckets, heads = _shape(state, "time_rel_pos_bias.relative_attention_bias.weight", 2)
    qkv_rows = _shape(state, "init_temporal_attn.fn.fn.fn.to_qkv.weight", 2)[0]
    mid_rows = _shape(state, "mid_spatial_attn.fn.fn.fn.to_qkv.weight", 2)[0]
    if qkv_rows % (3 * heads) or qkv_rows != mid_rows:
        raise ModelFormatError(
            f"attention projections have {qkv_rows} rows in time and {mid_rows} in the middle for {heads} heads; expected "
            f"equal multiples of {3 * heads} (attn_dim_head other than 32 gives two head sizes, which no package can hold)"
        )
    mults = _multipliers(state, dim)
    levels = len(mults)
    linear = [f"downs.{i}.2.fn.norm.gamma" in state for i in range(levels)]
    linear_dim_head = LINEAR_DIM_HEAD
    for i in [i for i in range(levels) if linear[i]][:1]:
        linear_dim_head = max(_shape(state, f"downs.{i}.2.fn.fn.to_qkv.weight", 4)[0] // (3 * heads), 1)
    rotary = next((t for name, t in state.items() if name.endswith(ROTARY_FREQS)), None)
    try:
        config = UNetConfig.model_validate(
            {
                "channels": channels, "dim": dim, "init_dim": init_dim, "dim_mults": mults, "init_kernel": kernel,
                "norm": _norm_kind(state),
                "norm_groups": norm_groups, "attention_heads": heads, "attention_dim_head": qkv_rows // (3 * heads),
                "linear_heads": heads, "linear_dim_head": linear_dim_head, "spatial_linear_attention": linear,
                "temporal_attention": [True] * levels, "temporal_conv": [False] * levels,
                "rotary_dim": 2 * rotary.numel() if rotary is not None else 0,
                "position_buckets": buckets, "position_max_distance": POSITION_MAX_DISTANCE,
            }
        )  # fmt: skip
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "unet"
        raise ModelFormatError(f"the checkpoint's shapes give {where}: {first['msg']} (got {first.get('input')!r:.80})") from e
    cond_dim = _shape(state, "null_cond_emb", 2)[1] if "null_cond_emb" in state else 0
    return config, cond_dim


def package_tensors(state: dict[str, Tensor], wanted: dict[str, tuple[int, ...]], rotary_dim: int) -> dict[str, Tensor]:
    """The same values under package names and shapes; ``wanted`` holds those (docs/architecture.md).

    Raises ModelFormatError unless ``state`` holds exactly the tensors of the inferred network.
    """
    names = {base_name(ours): ours for ours in wanted}
    rotary = {k for k in state if k.endswith(ROTARY_FREQS)}
    _check_names(state, set(names) | _rotary_names(names), rotary)
    for name in sorted(rotary):
        _check_rotary(name, state[name], rotary_dim)
    out = {}
    for theirs, ours in names.items():
        tensor, expected = state[theirs], base_shape(ours, wanted[ours])
        if tuple(tensor.shape) != expected:
            raise ModelFormatError(f"{theirs} has shape {list(tensor.shape)}; this network's has {list(expected)}")
        if tensor.dtype not in _float_types():
            allowed = ", ".join(str(t) for t in _float_types())
            raise ModelFormatError(f"{theirs} holds {tensor.dtype}; expected floating point ({allowed})")
        if not bool(tensor.isfinite().all()):
            raise ModelFormatError(f"{theirs} holds values that are not finite; this training run has diverged")
        out[ours] = tensor.detach().reshape(wanted[ours])
    return out


def _float_types() -> tuple[torch.dtype, ...]:
    import torch

    return torch.float32, torch.float16, torch.bfloat16, torch.float64


def _shape(state: dict[str, Tensor], name: str, rank: int) -> tuple[int, ...]:
    if name not in state:
        held = ", ".join(k[:80] for k in list(state)[:4])
        raise ModelFormatError(
            f"no tensor {name!r} in the state dict; expected a Unet3D of video-diffusion-pytorch 0.6 or 0.7, found {held}, ..."
        )
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise ModelFormatError(f"{name} has shape {list(shape)}; expected {rank} dimensions, none of them 0")
    return shape


def _multipliers(state: dict[str, Tensor], dim: int) -> list[int]:
    widths: list[int] = []
    while f"downs.{len(widths)}.0.block1.proj.weight" in state and len(widths) < 64:
        widths.append(_shape(state, f"downs.{len(widths)}.0.block1.proj.weight", 5)[0])
    if not widths or any(w % dim for w in widths):
        raise ModelFormatError(f"level widths {widths} are not multiples of dim {dim}")
    return [w // dim for w in widths]


def _norm_kind(state: dict[str, Tensor]) -> str:
    prefix = "downs.0.0.block1.norm."
    for suffix, kind in (("gamma", "rms_norm"), ("weight", "group_norm")):
        if prefix + suffix in state:
            return kind
    raise ModelFormatError(f"neither {prefix}weight (GroupNorm, up to 0.6.3) nor {prefix}gamma (RMSNorm, 0.7.0) is there")


def _rotary_names(names: dict[str, str]) -> set[str]:
    temporal = (n for n, ours in names.items() if ours.endswith("temporal_attention.to_qkv.weight"))
    return {n.removesuffix(".to_qkv.weight") + ROTARY_FREQS for n in temporal}


def _check_names(state: dict[str, Tensor], expected: set[str], rotary: set[str]) -> None:
    missing, extra = sorted(expected - set(state)), sorted(set(state) - expected)
    if missing or extra:
        parts = [f"{kind} {len(keys)}: {', '.join(k[:120] for k in keys[:4])}{', ...' if len(keys) > 4 else ''}"
                 for kind, keys in (("missing", missing), ("unexpected", extra)) if keys]  # fmt: skip
        raise ModelFormatError(
            f"the state dict has {len(state)} tensors, this Unet3D has {len(expected)}; {'; '.join(parts)}"
        )


def _check_rotary(name: str, freqs: Tensor, rotary_dim: int) -> None:
    """Packages hold no frequencies: they must be the usual ones, theta 10000."""
    import torch

    usual = 10000.0 ** -(torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim)
    if tuple(freqs.shape) != tuple(usual.shape) or not torch.allclose(freqs.double(), usual, rtol=1e-5, atol=0):
        raise ModelFormatError(f"{name} is not the table 10000^(-2i/{rotary_dim}); other rotary frequencies are not supported")
