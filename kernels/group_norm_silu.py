"""Normalisation, FiLM scale-shift and SiLU of a ResNet block's convolution output, and the block's residual.

Source: ``Block`` of video-diffusion-pytorch. Releases up to 0.6.3 use GroupNorm over the whole clip, 0.7.0 uses a
per-position RMS norm over the channels.

Kernels, GroupNorm: ``_moments`` takes mean and squared deviations of every channel over a tile of pixels (conv2d.py gives the same
numbers out of its epilogue, which saves this pass), ``_affine`` merges them per group in a fixed order and folds norm, gain and
FiLM into one ``a * x + b`` per channel, ``_apply`` does that, SiLU and the residual. Three passes over the tensor: two reads, one
write. RMSNorm: one kernel, one read and one write. Tuned for 32 to 512 channels; a tile of ``_rms`` holds whole pixels, at most
4096 channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InvalidRequestError
from .launch import channels_last, empty_channels_last, is_recording, jit, launch, next_power_of_2, site_tile, tl, use_kernel

EPS = 1e-5
RMS_EPS = 1e-12  # of F.normalize


def clip_view(x: torch.Tensor, frames: int) -> torch.Tensor:
    """``[B*F, C, H, W]`` as ``[B, C, F, H, W]`` without a copy (channels-last becomes channels-last-3d)."""
    n, c, h, w = x.shape
    return x.view(n // frames, frames, c, h, w).transpose(1, 2)


def group_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, frames: int, scope: str = "clip"
) -> torch.Tensor:
    """GroupNorm with eps 1e-5 of ``x [B*F, C, H, W]``; ``scope`` "clip" takes statistics over all frames of a clip."""
    if scope == "frame":
        return F.group_norm(x, groups, weight, bias, EPS)
    y = F.group_norm(clip_view(x, frames), groups, weight, bias, EPS)
    return y.transpose(1, 2).reshape(x.shape)


def rms_norm(x: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """``x / ||x||_2 * sqrt(C) * gamma`` over the channels of every position; gamma ``[C]``."""
    c = x.shape[1]
    return F.normalize(x, dim=1) * (c**0.5) * gamma.view(1, c, 1, 1)


def film_silu(x: torch.Tensor, scale_shift: torch.Tensor | None, frames: int) -> torch.Tensor:
    """``silu(x * (scale + 1) + shift)``; ``scale_shift [B, 2C]`` holds scale then shift, None means SiLU alone."""
    if scale_shift is None:
        return F.silu(x)
    scale, shift = scale_shift.repeat_interleave(frames, 0)[:, :, None, None].to(x.dtype).chunk(2, dim=1)
    return F.silu(torch.addcmul(shift, x, scale + 1))


def moments_of(x: torch.Tensor) -> torch.Tensor:
    """``moments [N, tiles, 2, C]`` of ``x [N, C, H, W]`` in plain operations, at least fp32; tiles are those of ``site_tile``."""
    sites = x.permute(0, 2, 3, 1).flatten(1, 2).to(torch.promote_types(x.dtype, torch.float32))
    parts = [(part.mean(1), part.var(1, correction=0) * part.shape[1]) for part in sites.split(site_tile(sites.shape[1]), dim=1)]
    return torch.stack([torch.stack(pair, dim=1) for pair in parts], dim=1)


@jit
def _moments(x, moments, SITES: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, BLOCK_C: tl.constexpr):
    """moments [N, TILES, 2, C]: mean and sum of squared deviations of every channel over a tile of one image's pixels."""
    at = tl.program_id(0)
    n = at // TILES
    site = (at - n * TILES) * TILE + tl.arange(0, TILE)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (site < SITES)[:, None]
    mask = inside & (c < C)[None, :]
    v = tl.load(x + n.to(tl.int64) * (SITES * C) + site[:, None] * C + c[None, :], mask=mask, other=0).to(tl.float32)
    count = tl.minimum(SITES - (at - n * TILES) * TILE, TILE).to(tl.float32)
    mean = tl.sum(v, axis=0) / count
    apart = tl.where(inside, v - mean[None, :], 0.0)
    out = moments + at.to(tl.int64) * (2 * C) + c
    tl.store(out, mean, mask=c < C)
    tl.store(out + C, tl.sum(apart * apart, axis=0), mask=c < C)


@jit
def _affine(
    moments, weight, bias, film, affine, SITES: tl.constexpr, C: tl.constexpr, GROUP: tl.constexpr, TILES: tl.constexpr,
    TILE: tl.constexpr, IMAGES: tl.constexpr, SCOPES: tl.constexpr, FILM: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """affine [scopes, 2, C]: a and b of ``a * x + b``, from the moments of IMAGES images.

    SCOPES scopes share a clip's FiLM row; rows are FILM apart.
    """
    s = tl.program_id(0).to(tl.int64)
    j = tl.arange(0, BLOCK_C)
    c = tl.program_id(1) * GROUP + j
    has = (j < GROUP)[None, :]
    rows: tl.constexpr = IMAGES * TILES
    total: tl.constexpr = IMAGES * SITES * GROUP
    base = moments + s * (rows * 2 * C)
    sums = tl.zeros((BLOCK_C,), tl.float32)
    for first in range(0, rows, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        count = tl.minimum(SITES - (r % TILES) * TILE, TILE).to(tl.float32)[:, None]
        mean = tl.load(base + r[:, None] * (2 * C) + c[None, :], mask=(r < rows)[:, None] & has, other=0)
        sums += tl.sum(mean * count, axis=0)
    centre = tl.sum(sums, axis=0) / total
    squares = tl.zeros((BLOCK_C,), tl.float32)
    for first in range(0, rows, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        mask = (r < rows)[:, None] & has
        count = tl.minimum(SITES - (r % TILES) * TILE, TILE).to(tl.float32)[:, None]
        mean = tl.load(base + r[:, None] * (2 * C) + c[None, :], mask=mask, other=0)
        within = tl.load(base + r[:, None] * (2 * C) + C + c[None, :], mask=mask, other=0)
        squares += tl.sum(tl.where(mask, within + count * (mean - centre) * (mean - centre), 0.0), axis=0)
    scale = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / total + EPS)
    a = tl.load(weight + c, mask=j < GROUP).to(tl.float32) * scale
    b = tl.load(bias + c, mask=j < GROUP).to(tl.float32) - centre * a
    if film is not None:
        row = film + (s // SCOPES) * FILM + c
        gain = tl.load(row, mask=j < GROUP).to(tl.float32) + 1.0
        a = a * gain
        b = b * gain + tl.load(row + C, mask=j < GROUP).to(tl.float32)
    tl.store(affine + s * (2 * C) + c, a, mask=j < GROUP)
    tl.store(affine + s * (2 * C) + C + c, b, mask=j < GROUP)


@jit
def _apply(
    x, affine, residual, y, SITES: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, IMAGES: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = silu(a * x + b) + residual; a and b are those of the image's scope."""
    at = tl.program_id(0)
    n = (at // TILES).to(tl.int64)
    site = (at % TILES) * TILE + tl.arange(0, TILE)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (site < SITES)[:, None] & (c < C)[None, :]
    offset = site[:, None] * C + c[None, :]
    row = affine + (n // IMAGES) * (2 * C) + c
    a = tl.load(row, mask=c < C)
    b = tl.load(row + C, mask=c < C)
    v = tl.load(x + n * (SITES * C) + offset, mask=mask).to(tl.float32) * a[None, :] + b[None, :]
    v = v * tl.sigmoid(v)
    if residual is not None:
        v += tl.load(residual + n * (SITES * C) + offset, mask=mask).to(tl.float32)
    tl.store(y + n * (SITES * C) + offset, v.to(y.dtype.element_ty), mask=mask)


@jit
def _rms(
    x, gamma, film, residual, y, SITES: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr,
    FRAMES: tl.constexpr, FILM: tl.constexpr, BLOCK_C: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """y = silu(film(x / max(|x|, eps) * sqrt(C) * gamma)) + residual; a program holds whole pixels."""
    at = tl.program_id(0)
    n = (at // TILES).to(tl.int64)
    site = (at % TILES) * TILE + tl.arange(0, TILE)
    c = tl.arange(0, BLOCK_C)
    mask = (site < SITES)[:, None] & (c < C)[None, :]
    offset = site[:, None] * C + c[None, :]
    v = tl.load(x + n * (SITES * C) + offset, mask=mask, other=0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(v * v, axis=1)), EPS)
    gain = tl.load(gamma + c, mask=c < C, other=0).to(tl.float32) * (C**0.5)
    v = v / length[:, None] * gain[None, :]
    if film is not None:
        row = film + (n // FRAMES) * FILM + c
        scale = tl.load(row, mask=c < C, other=0).to(tl.float32) + 1.0
        v = v * scale[None, :] + tl.load(row + C, mask=c < C, other=0).to(tl.float32)[None, :]
    v = v * tl.sigmoid(v)
    if residual is not None:
        v += tl.load(residual + n * (SITES * C) + offset, mask=mask).to(tl.float32)
    tl.store(y + n * (SITES * C) + offset, v.to(y.dtype.element_ty), mask=mask)


def film_stride(film: Tensor | None) -> int:
    """From one clip's FiLM row to the next; rows may be parts of longer ones."""
    if film is None:
        return 0
    if film.stride(1) != 1:
        raise InvalidRequestError(f"FiLM rows of shape {tuple(film.shape)} have strides {film.stride()}; the last must be 1")
    return film.stride(0)


def _channel_block(c: int) -> int:
    return min(64, next_power_of_2(c))


def launch_moments(x: Tensor) -> tuple[Tensor, int]:
    """``moments [N, tiles, 2, C]`` of ``x`` and the pixels of a tile."""
    n, h, w, c = channels_last(x).shape
    tile = site_tile(h * w)
    tiles = -(-h * w // tile)
    moments = x.new_empty((n, tiles, 2, c), dtype=torch.float32)
    block = _channel_block(c)
    launch(
        _moments, (n * tiles, -(-c // block)), {"x": x, "moments": moments},
        dict(SITES=h * w, C=c, TILES=tiles, TILE=tile, BLOCK_C=block), flops=5 * x.numel(),
        l2_bytes=x.numel() * x.element_size() + moments.numel() * 4,
    )  # fmt: skip
    return moments, tile


def launch_affine(
    moments: Tensor, weight: Tensor, bias: Tensor, film: Tensor | None, groups: int, frames: int, scope: str, sites: int, tile: int
) -> Tensor:
    """``affine [scopes, 2, C]`` from moments, for a clip-wide or per-frame norm and the FiLM rows ``[B, 2C]``."""
    n, tiles, _, c = moments.shape
    images = frames if scope == "clip" else 1
    affine = moments.new_empty((n // images, 2, c))
    group = c // groups
    rows = min(64, next_power_of_2(images * tiles))
    launch(
        _affine, (n // images, groups), dict(moments=moments, weight=weight, bias=bias, film=film, affine=affine),
        dict(SITES=sites, C=c, GROUP=group, TILES=tiles, TILE=tile, IMAGES=images, SCOPES=frames // images, FILM=film_stride(film),
             BLOCK_R=rows, BLOCK_C=next_power_of_2(group), EPS=EPS),
        flops=8 * moments.numel(), l2_bytes=12 * moments.numel(),
    )  # fmt: skip
    return affine


def launch_apply(x: Tensor, affine: Tensor, residual: Tensor | None) -> Tensor:
    """``silu(a * x + b) + residual`` with the rows of ``affine`` shared by equally many images."""
    n, h, w, c = channels_last(x).shape
    y = empty_channels_last(x, n, c, h, w)
    if residual is not None:
        channels_last(residual, "residual")
    tile = site_tile(h * w)
    tiles = -(-h * w // tile)
    block = _channel_block(c)
    launch(
        _apply, (n * tiles, -(-c // block)), dict(x=x, affine=affine, residual=residual, y=y),
        dict(SITES=h * w, C=c, TILES=tiles, TILE=tile, IMAGES=n // max(len(affine), 1), BLOCK_C=block), flops=6 * x.numel(),
        l2_bytes=(2 + (residual is not None)) * x.numel() * x.element_size(),
    )  # fmt: skip
    return y


def launch_rms(x: Tensor, gamma: Tensor, film: Tensor | None, residual: Tensor | None, frames: int) -> Tensor:
    """The whole of ``rms_norm_silu`` in one kernel."""
    n, h, w, c = channels_last(x).shape
    y = empty_channels_last(x, n, c, h, w)
    if residual is not None:
        channels_last(residual, "residual")
    block = next_power_of_2(c)
    tile = min(next_power_of_2(h * w), max(1, 8192 // block))
    tiles = -(-h * w // tile)
    launch(
        _rms, (n * tiles,), dict(x=x, gamma=gamma, film=film, residual=residual, y=y),
        dict(SITES=h * w, C=c, TILES=tiles, TILE=tile, FRAMES=frames, FILM=film_stride(film), BLOCK_C=block, EPS=RMS_EPS),
        flops=9 * x.numel(),
        l2_bytes=(2 + (residual is not None)) * x.numel() * x.element_size(),
    )  # fmt: skip
    return y


@torch.library.custom_op("gaitcrafter::channel_moments", mutates_args=())
def channel_moments(x: Tensor) -> Tensor:
    """``moments [N, tiles, 2, C]`` fp32: every channel's mean and squared deviations over tiles of ``site_tile`` pixels."""
    return launch_moments(x)[0] if use_kernel(x) else moments_of(x)


@channel_moments.register_fake
def _(x):
    if is_recording():
        return launch_moments(x)[0]
    n, c, h, w = x.shape
    return x.new_empty((n, -(-h * w // site_tile(h * w)), 2, c), dtype=torch.float32)


@torch.library.custom_op("gaitcrafter::group_norm_silu", mutates_args=())
def group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, frames: int, scope: str, scale_shift: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """``film_silu(group_norm(x)) + residual``; arguments as above, ``residual`` like ``x``."""
    if use_kernel(x):
        return _group_norm_silu(x, weight, bias, groups, frames, scope, scale_shift, residual)
    y = film_silu(group_norm(x, weight.to(x.dtype), bias.to(x.dtype), groups, frames, scope), scale_shift, frames)
    return (y if residual is None else y + residual).contiguous(memory_format=torch.channels_last)


def _group_norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, frames: int, scope: str, film: Tensor | None, residual: Tensor | None
) -> Tensor:
    moments, tile = launch_moments(x)
    affine = launch_affine(moments, weight, bias, film, groups, frames, scope, x.shape[2] * x.shape[3], tile)
    return launch_apply(x, affine, residual)


@torch.library.custom_op("gaitcrafter::norm_affine", mutates_args=())
def norm_affine(
    moments: Tensor, weight: Tensor, bias: Tensor, groups: int, frames: int, scope: str, sites: int,
    scale_shift: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """GroupNorm and FiLM as ``a * x + b``: ``affine [scopes, 2, C]`` fp32 from the moments of images of ``sites`` pixels."""
    if use_kernel(moments):
        return launch_affine(moments, weight, bias, scale_shift, groups, frames, scope, sites, site_tile(sites))
    images = frames if scope == "clip" else 1
    n, tiles, _, c = moments.shape
    tile = site_tile(sites)
    count = torch.tensor([min(tile, sites - t * tile) for t in range(tiles)], dtype=moments.dtype, device=moments.device)
    parts = moments.view(n // images, images, tiles, 2, groups, c // groups)
    count = count[None, None, :, None, None]
    means, within = parts[:, :, :, 0], parts[:, :, :, 1]
    total = images * sites * (c // groups)
    mean = (means * count).sum((1, 2, 4), keepdim=True) / total
    variance = (within + count * (means - mean) ** 2).sum((1, 2, 4)) / total
    scale = (variance + EPS).rsqrt().repeat_interleave(c // groups, 1)
    a = weight * scale
    b = bias - mean[:, 0, 0, :, 0].repeat_interleave(c // groups, 1) * a
    if scale_shift is not None:
        gain, shift = scale_shift.repeat_interleave(frames // images, 0).chunk(2, dim=1)
        a, b = a * (gain + 1), b * (gain + 1) + shift
    return torch.stack((a, b), dim=1)


@norm_affine.register_fake
def _(moments, weight, bias, groups, frames, scope, sites, scale_shift=None):
    if is_recording():
        return launch_affine(moments, weight, bias, scale_shift, groups, frames, scope, sites, site_tile(sites))
    return moments.new_empty((moments.shape[0] // (frames if scope == "clip" else 1), 2, moments.shape[3]))


@torch.library.custom_op("gaitcrafter::affine_silu", mutates_args=())
def affine_silu(x: Tensor, affine: Tensor, residual: Tensor | None = None) -> Tensor:
    """``silu(a * x + b) + residual``; ``affine [scopes, 2, C]``, each scope equally many images."""
    if use_kernel(x):
        return launch_apply(x, affine, residual)
    rows = affine.repeat_interleave(x.shape[0] // len(affine), 0)[..., None, None].to(x.dtype)
    y = F.silu(x * rows[:, 0] + rows[:, 1])
    return (y if residual is None else y + residual).contiguous(memory_format=torch.channels_last)


@affine_silu.register_fake
def _(x, affine, residual=None):
    if is_recording():
        return launch_apply(x, affine, residual)
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.custom_op("gaitcrafter::rms_norm_silu", mutates_args=())
def rms_norm_silu(
    x: Tensor, gamma: Tensor, frames: int, scale_shift: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """``film_silu(rms_norm(x)) + residual``."""
    if use_kernel(x):
        return launch_rms(x, gamma, scale_shift, residual, frames)
    y = film_silu(rms_norm(x, gamma.to(x.dtype)), scale_shift, frames)
    return (y if residual is None else y + residual).contiguous(memory_format=torch.channels_last)


@group_norm_silu.register_fake
def _(x, weight, bias, groups, frames, scope, scale_shift=None, residual=None):
    if is_recording():
        return _group_norm_silu(x, weight, bias, groups, frames, scope, scale_shift, residual)
    return torch.empty_like(x, memory_format=torch.channels_last)


@rms_norm_silu.register_fake
def _(x, gamma, frames, scale_shift=None, residual=None):
    if is_recording():
        return launch_rms(x, gamma, scale_shift, residual, frames)
    return torch.empty_like(x, memory_format=torch.channels_last)
