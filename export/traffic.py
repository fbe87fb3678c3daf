"""Bytes and operations of a network's kernels, counted from their own launches, beside torch's sequence for the same blocks.

Arithmetic: nothing here was timed. A launch moves every tensor once through memory (what programs share comes from cache), and
asks the L2 cache for what all its programs read and write together. Torch's sequence
is counted alike: every operation of the reference network reads its inputs and writes its output once, views are free. A floor is
the time that the larger of both takes at an H100's published rates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..config import AXES, ModelConfig
from ..kernels.add_repeated import add_repeated
from ..kernels.launch import Launch, Recorder, recording
from ..nn.fused import FusedUNet
from ..nn.unet import UNet3D
from .launches import META, sampler_launches

# NVIDIA H100 SXM, "NVIDIA H100 Tensor Core GPU" data sheet: 3.35 TB/s; bf16 1,979 TFLOP/s with sparsity, half of that without.
H100_BYTES, H100_OPERATIONS = 3.35e12, 989e12
NIGHT = 10 * 3600  # seconds
# Blocks of the reference network; those of kernels have the same names after "Fused".
BLOCKS = {
    "ResnetBlock": "ResNet blocks", "SpatialLinearAttention": "linear attention", "TemporalAttention": "temporal attention",
    "SpatialAttention": "full spatial attention", "TemporalConv": "temporal convolution",
}  # fmt: skip
_FUSED = {"FusedResnet": "ResnetBlock", "FusedLinearAttention": "SpatialLinearAttention"}
REST = "stem, resampling, joins, last layer"


@dataclass
class Work:
    """Of one network call, one clip."""

    launches: int = 0
    operations: float = 0.0
    dram: float = 0.0  # bytes
    l2: float = 0.0  # bytes

    def add(self, launch: Launch, clips: int = 1) -> None:
        """One launch that serves ``clips`` clips."""
        self.launches += 1
        self.operations += launch.flops / clips
        self.dram += memory_bytes(launch) / clips
        self.l2 += launch.l2_bytes / clips


def memory_bytes(launch: Launch) -> int:
    """What a launch moves through memory: its tensors once, or less where its programs read a part of them."""
    return min(launch.dram_bytes, launch.l2_bytes or launch.dram_bytes)


class TorchTraffic(TorchDispatchMode):
    """Counts the bytes of every torch operation: inputs and outputs once each, views nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        ins, outs = _tensors((args, kwargs)), _tensors(out)
        is_view = _storages(outs) <= _storages(ins) and not func._schema.is_mutable
        if not is_view and "empty" not in func._schema.name:
            self.bytes += sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in (*ins, *outs))
        return out


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _storages(tensors: list[Tensor]) -> set[int]:
    return {t.untyped_storage()._cdata for t in tensors}


def kernels_by_block(config: ModelConfig, clips: int, dtype: torch.dtype = torch.bfloat16) -> dict[str, list[Launch]]:
    """Launches of one network call on so many clips, by kind of block; conditions and FiLM rows are among the rest."""
    clip, u = config.clip, config.unet
    with META, torch.no_grad():
        model = FusedUNet(UNet3D(config), dtype)
        x = torch.empty(clips, u.channels, clip.frames, clip.height, clip.width)
        maps = torch.empty(clips, u.channels, clip.height, clip.width) if len(model.input_maps) else None
        found: dict[str, list[Launch]] = {}
        with recording() as recorder, _blocks(model, lambda: len(recorder.launches)) as spans:
            model.denoise(x, add_repeated(torch.empty(clips, model.film_width), torch.empty(1, model.film_width)), maps)
    _split(recorder, spans, found)
    return found


def _split(recorder: Recorder, spans: list[tuple[str, int, int]], found: dict[str, list[Launch]]) -> None:
    kinds = [REST] * len(recorder.launches)
    for kind, first, last in spans:
        kinds[first:last] = [kind] * (last - first)
    for kind, launch in zip(kinds, recorder.launches, strict=True):
        found.setdefault(kind, []).append(launch)


def torch_by_block(config: ModelConfig, dtype: torch.dtype = torch.bfloat16) -> dict[str, int]:
    """Bytes of one call of the reference network on one clip, operation by operation, by kind of block."""
    clip, u = config.clip, config.unet
    with META, torch.no_grad():
        model = UNet3D(config).to(dtype)
        x = torch.empty(1, u.channels, clip.frames, clip.height, clip.width, dtype=dtype)
        labels = {axis: torch.empty(1, len(getattr(config.labels, axis)) + 1) for axis in AXES}
        with TorchTraffic() as traffic, _blocks(model, lambda: traffic.bytes) as spans:
            model(x, torch.empty(1, dtype=torch.int64), labels)
    found = dict.fromkeys((*BLOCKS.values(), REST), 0)
    for kind, before, after in spans:
        found[kind] += after - before
    found[REST] = traffic.bytes - sum(found.values())
    return {kind: count for kind, count in found.items() if count}


@contextmanager
def _blocks(model: nn.Module, count: Any) -> Iterator[list[tuple[str, int, int]]]:
    """(kind, count before, count after) of every block that runs inside."""
    spans: list[tuple[str, int, int]] = []
    begun: list[int] = []
    handles = []
    for module in model.modules():
        name = type(module).__name__
        kind = BLOCKS.get(_FUSED.get(name, name.removeprefix("Fused")))
        if kind is None:
            continue

        def before(*_: Any) -> None:
            begun.append(count())

        def after(*_: Any, kind: str = kind) -> None:
            spans.append((kind, begun.pop(), count()))

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield spans
    finally:
        for handle in handles:
            handle.remove()


def work_of(launches: Iterable[Launch], clips: int) -> Work:
    """The sum, per clip."""
    total = Work()
    for launch in launches:
        total.add(launch, clips)
    return total


def by_kernel(launches: Iterable[Launch], clips: int) -> dict[str, Work]:
    """Sums by kernel function, per clip."""
    found: dict[str, Work] = {}
    for launch in launches:
        found.setdefault(launch.name, Work()).add(launch, clips)
    return found


def floor_seconds(launches: Iterable[Launch], clips: int) -> float:
    """Per clip, of an H100: every launch takes its bytes or its operations at the published rate, whichever is longer."""
    return sum(max(memory_bytes(launch) / H100_BYTES, launch.flops / H100_OPERATIONS) for launch in launches) / clips


@dataclass(frozen=True)
class Floor:
    """Of a whole clip by a model's own sampler, seconds."""

    call: float  # one network call, one lane
    calls: int
    sampler: float

    @property
    def clip(self) -> float:
        """Noise, all network calls, all rows, packing."""
        return self.calls * self.call + self.sampler

    @property
    def night(self) -> float:
        """Clips in ten hours."""
        return NIGHT / self.clip


def floor_of(config: ModelConfig, clips: int) -> Floor:
    """With the model's default sampler, calls of so many lanes in bf16."""
    settings = config.sampler
    lanes = 1 if settings.guidance in (0, 1) else 2
    network = [launch for launches in kernels_by_block(config, clips).values() for launch in launches]
    return Floor(floor_seconds(network, clips), settings.steps * lanes, floor_seconds(sampler_launches(config, clips), clips))
