"""How the ops start their Triton kernels: through one function, so that launches can be checked, recorded and compiled anywhere.

Triton is optional (extra ``gpu``). Without it every op computes its plain torch reference, and the first one that meets a CUDA
tensor says so once. Conventions of all kernels: activations are ``[N, C, H, W]`` with channels-last strides, sums and statistics
are fp32, shapes are compile-time constants, so that the arguments of a launch are tensors and nothing else, and a program's first
offset into a tensor is 64 bits wide. No tile or split depends on the number of clips.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import CapabilityError, InvalidRequestError

try:
    import triton
    import triton.language as tl

    jit: Callable[[Any], Any] = triton.jit
except ImportError:
    triton = None
    tl = None

    def jit(fn: Any) -> Any:
        """Stands in for triton.jit; nothing launches what it returns."""
        return fn


INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
GRID_LIMITS = (2**31 - 1, 65535, 65535)  # CUDA C++ Programming Guide, "Technical Specifications per Compute Capability"
_told: list[str] = []


@dataclass(frozen=True)
class Launch:
    """One kernel start: tensors by parameter name (None where the kernel does without), and everything known at compile time."""

    kernel: Any
    grid: tuple[int, int, int]
    tensors: dict[str, Tensor | None]
    constants: dict[str, Any]
    warps: int
    stages: int
    contract: bool  # may a product and a sum become one rounding
    flops: int
    l2_bytes: int  # what all programs together ask for, cached or not
    updated: tuple[str, ...] = ()  # tensors that are read and written

    @property
    def name(self) -> str:
        """Name of the kernel function, without its leading underscore."""
        return str(self.kernel.__name__).lstrip("_")

    @property
    def dram_bytes(self) -> int:
        """Every tensor once, updated ones twice: what memory must move if caches hold all that programs share."""
        times = {name: 1 + (name in self.updated) for name in self.tensors}
        return sum(times[name] * t.numel() * t.element_size() for name, t in self.tensors.items() if t is not None)


@dataclass
class Recorder:
    """Collects launches in place of making them."""

    launches: list[Launch] = field(default_factory=list)


_recorders: list[Recorder] = []
_plain: list[str] = []


@contextlib.contextmanager
def recording() -> Iterator[Recorder]:
    """Ops on ``meta`` tensors note their launches in the recorder that this yields; nothing runs."""
    recorder = Recorder()
    _recorders.append(recorder)
    try:
        yield recorder
    finally:
        _recorders.remove(recorder)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Ops compute their plain torch references, on a GPU too: what the kernels are measured against."""
    _plain.append("on")
    try:
        yield
    finally:
        _plain.pop()


def is_recording() -> bool:
    """Whether ops on meta tensors should go through their launchers."""
    return bool(_recorders)


def use_kernel(x: Tensor) -> bool:
    """Whether an op on ``x`` runs its kernel: on a GPU with Triton, or under Triton's interpreter."""
    if _plain:
        return False
    if INTERPRETED:
        return True
    if not x.is_cuda:
        return False
    if triton is None and not _told:
        _told.append("triton")
        warnings.warn(
            "Triton is absent, so the network runs on plain torch operations, which is slower: pip install 'gaitcrafter-rt[gpu]'",
            stacklevel=3,
        )
    return triton is not None


def upcast(x: Tensor) -> bool:
    """The interpreter holds bf16 as integers and cannot multiply them: there, products take fp32 copies."""
    return INTERPRETED and x.dtype == torch.bfloat16


def channels_last(x: Tensor, what: str = "x") -> Tensor:
    """``x [N, C, H, W]`` as ``[N, H, W, C]`` without a copy. Raises InvalidRequestError for other strides."""
    y = x.permute(0, 2, 3, 1)
    if not y.is_contiguous():
        raise InvalidRequestError(
            f"{what} has shape {tuple(x.shape)} and strides {x.stride()}; the kernels take channels-last tensors, made by "
            "x.contiguous(memory_format=torch.channels_last)"
        )
    return y


def empty_channels_last(like: Tensor, n: int, c: int, h: int, w: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised ``[n, c, h, w]`` with channels-last strides, of the dtype of ``like`` unless another is given."""
    return like.new_empty((n, h, w, c), dtype=dtype or like.dtype).permute(0, 3, 1, 2)


def check_offsets(*elements: int) -> None:
    """Inside one image or clip offsets are 32 bits wide. Raises CapabilityError where a tensor's share of one is larger."""
    if max(elements) >= 2**31:
        raise CapabilityError(
            f"one clip or image takes {max(elements)} elements of a tensor; the kernels address fewer than {2**31}. "
            "Make clips smaller or run on device cpu"
        )


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least ``n`` (n >= 1)."""
    return 1 << (n - 1).bit_length()


def padded(n: int) -> int:
    """The size of a tile side that holds ``n`` and that tensor cores take: a power of two, at least 16."""
    return max(16, next_power_of_2(n))


def site_tile(sites: int, largest: int = 128) -> int:
    """Pixels of one image per program: a function of the image alone, so that results do not depend on how many there are."""
    return min(largest, padded(sites))


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: dict[str, Tensor | None],
    constants: dict[str, Any],
    *,
    warps: int = 4,
    stages: int = 2,
    contract: bool = True,
    flops: int = 0,
    l2_bytes: int = 0,
    updated: tuple[str, ...] = (),
) -> None:
    """Start ``kernel`` over ``grid``, or record it. Raises CapabilityError where the grid is larger than CUDA allows."""
    first, second, third = (*grid, 1, 1)[:3]
    full = (first, second, third)
    for axis, (got, limit) in enumerate(zip(full, GRID_LIMITS, strict=True)):
        if got > limit:
            raise CapabilityError(
                f"{kernel.__name__} would need {got} programs along grid axis {axis}, CUDA allows {limit}; use a smaller batch"
            )
    if 0 in full:
        return
    if _recorders:
        noted = Launch(kernel, full, dict(tensors), dict(constants), warps, stages, contract, flops, l2_bytes, updated)
        _recorders[-1].launches.append(noted)
        return
    kernel[full](**tensors, **constants, num_warps=warps, num_stages=stages, enable_fp_fusion=contract)
