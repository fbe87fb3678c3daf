"""A whole run as lists of kernel launches over planned memory: what the cubin backend (csrc/backends/cuda) executes.

Launches are recorded once, for one clip, on tensors without data. No tile and no constant depends on the number of clips, so a
launch of n clips has n times the programs along the first grid axis, and n times the bytes in every buffer of activations: one list
serves every batch. Guidance puts two lanes into a clip (conditioned, null), which lie by turns; the network counts lanes, the rest
clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import InternalError
from ..kernels.add_repeated import add_repeated
from ..kernels.dynamic_limits import dynamic_limits
from ..kernels.launch import Launch, recording
from ..kernels.sampler_step import initial_noise, pack_clips, sampler_step
from ..nn.fused import FusedUNet
from ..nn.unet import UNet3D

META = torch.device("meta")
ALIGNMENT = 256  # bytes; at least the 16 that compiled kernels count on
# Memory that the host binds, and how much of it there is: bytes of one clip, of one lane, of one row of the table, or in all.
CLIP, LANE, ROW, ONCE = "clip", "lane", "row", "once"


@dataclass(frozen=True)
class Buffer:
    """``space`` names who holds it: "weights", "arena" (activations), or memory that the host fills and reads.

    ``offset`` and ``bytes`` count within the space; those of the arena are per lane and scale with the number of lanes.
    """

    space: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Call:
    """One launch: ``unit`` is what the first axis of ``grid`` scales with; arguments are (buffer, byte offset in it)."""

    launch: Launch
    unit: str
    grid: tuple[int, int, int]
    arguments: tuple[tuple[Buffer, int], ...]


@dataclass(frozen=True)
class Program:
    """Launch lists by name, the weights they read by buffer, and the sizes of what the host binds."""

    lists: dict[str, list[Call]]
    weights: dict[str, Buffer]  # "main.NAME" or "exact.NAME", NAME as FusedUNet has it
    spaces: dict[str, tuple[str, int]]  # name to (unit, bytes of one)
    weight_bytes: int
    arena_bytes: int  # of one lane
    film_width: int


def spaces_of(config: ModelConfig, film_width: int, has_maps: bool) -> dict[str, tuple[str, int]]:
    """What the host binds: name to (unit, bytes of one)."""
    clip, channels = config.clip, config.unet.channels
    n = channels * clip.frames * clip.height * clip.width
    spaces = {
        "x": (CLIP, 4 * n), "out": (LANE, 4 * n), "history": (CLIP, 8 * n), "packed": (CLIP, -(-n // 8)), "seeds": (CLIP, 8),
        "clips": (CLIP, 8), "limit": (CLIP, 4), "bad": (CLIP, 4), "conditions": (LANE, 4 * film_width),
        "time": (ROW, 4 * film_width), "row": (ROW, 48), "integers": (ROW, 16), "level": (ONCE, 4),
    }  # fmt: skip
    if has_maps:
        spaces["maps"] = (LANE, 4 * channels * clip.height * clip.width)
    return spaces


class _Bound:
    """Tensors without data that stand for what the host binds, of ``clips`` clips with ``lanes`` lanes each."""

    def __init__(self, config: ModelConfig, film_width: int, has_maps: bool, clips: int, lanes: int) -> None:
        shape = (config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)
        n = shape[0] * shape[1] * shape[2] * shape[3]
        with META:
            self.x, self.out, self.history = torch.empty(clips, *shape), torch.empty(clips, lanes, n), torch.empty(clips, 2, n)
            self.seeds, self.clips = (torch.empty(clips, dtype=torch.int64) for _ in range(2))
            self.limit, self.bad = torch.empty(clips), torch.empty(clips, dtype=torch.int32)
            self.conditions, self.time = torch.empty(clips * lanes, film_width), torch.empty(film_width)
            self.row, self.integers, self.level = torch.empty(12), torch.empty(4, dtype=torch.int32), torch.empty(1)
            self.maps = torch.empty(clips * lanes, shape[0], *shape[2:]) if has_maps else None
        self.flat = self.x.view(clips, n)
        self.lanes = (self.out[:, 0], self.out[:, 1] if lanes == 2 else None)

    def names(self) -> dict[int, str]:
        """Storage to the name of its space."""
        spaces = (
            "x", "out", "history", "seeds", "clips", "limit", "bad", "conditions", "time", "row", "integers", "level", "maps",
        )  # fmt: skip
        return {storage(getattr(self, name)): name for name in spaces if getattr(self, name) is not None}


def storage(tensor: Tensor) -> int:
    """Identity of a tensor's memory."""
    return int(tensor.untyped_storage()._cdata)


def record_program(config: ModelConfig, dtype: torch.dtype, exact: bool = False, clips: int = 1) -> Program:
    """The program of a network in ``dtype``; ``exact`` adds the network in fp32, for rows that need it.

    ``clips`` is how many are recorded; the program is the same for any number.
    """
    with META, torch.no_grad():
        plain = UNet3D(config)
        models = {"main": FusedUNet(plain, dtype)} | ({"exact": FusedUNet(plain, torch.float32)} if exact else {})
    main = models["main"]
    has_maps = len(main.input_maps) > 0
    spaces = spaces_of(config, main.film_width, has_maps)
    weights = _Weights(models)
    lists: dict[str, list[Call]] = {}
    arena = 0
    for lanes in (1, 2):
        bound = _Bound(config, main.film_width, has_maps, clips, lanes)
        names = bound.names()
        for name, model in models.items():
            with torch.no_grad(), recording() as recorder:
                result = model.denoise(bound.x, add_repeated(bound.conditions, bound.time[None]), bound.maps, lanes)
            made = names | {storage(result): "out"}
            plan = _plan(recorder.launches, made.keys() | weights.known, clips * lanes)
            arena = max(arena, _extent(plan.values()))
            lists[f"{name}_{lanes}"] = [_call(launch, LANE, clips * lanes, made, weights, plan) for launch in recorder.launches]
        for name, work in _sampler_work(bound).items():
            with torch.no_grad(), recording() as recorder:
                result = work()
            made = names if result is None else names | {storage(result): "packed"}
            lists[f"{name}_{lanes}"] = [_call(launch, CLIP, clips, made, weights, {}) for launch in recorder.launches]
    for name in ("noise", "pack"):  # the same for both
        del lists[f"{name}_2"]
        lists[name] = lists.pop(f"{name}_1")
    return Program(lists, weights.buffers, spaces, weights.bytes, arena, main.film_width)


def _sampler_work(b: _Bound) -> dict[str, Callable[[], Tensor | None]]:
    out, null = b.lanes
    return {
        "noise": lambda: initial_noise(b.flat, b.seeds, b.clips),
        "limit": lambda: dynamic_limits(b.flat, out, null, b.row, b.integers, b.limit),
        "step": lambda: sampler_step(b.flat, out, null, b.row, b.integers, b.seeds, b.clips, b.limit, b.history, b.bad),
        "pack": lambda: pack_clips(b.flat, b.level, b.bad),
    }


class _Weights:
    """Packed weights of the models, laid out as they are first read."""

    def __init__(self, models: dict[str, FusedUNet]) -> None:
        named = {f"{name}.{k}": v for name, model in models.items() for k, v in model.named_buffers()}
        self.names = {storage(v): (k, v) for k, v in named.items()}
        self.known = set(self.names)
        self.buffers: dict[str, Buffer] = {}
        self.bytes = 0

    def find(self, tensor: Tensor) -> tuple[Buffer, int] | None:
        """The buffer that a tensor lies in, and where; None for other memory."""
        if storage(tensor) not in self.names:
            return None
        name, whole = self.names[storage(tensor)]
        if name not in self.buffers:
            size = whole.numel() * whole.element_size()
            self.buffers[name] = Buffer("weights", self.bytes, size)
            self.bytes += aligned(size)
        return self.buffers[name], (tensor.storage_offset() - whole.storage_offset()) * tensor.element_size()


def aligned(size: int) -> int:
    """Rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _call(launch: Launch, unit: str, count: int, names: dict[int, str], weights: _Weights, plan: dict[int, Buffer]) -> Call:
    if launch.grid[0] % count:
        raise InternalError(f"{launch.name} takes {launch.grid} programs, which is no multiple of {count} {unit}s")
    arguments = []
    for name in launch.kernel.arg_names:
        tensor = launch.tensors.get(name)
        if tensor is None:
            continue
        found = weights.find(tensor)
        if found is None:
            inner = tensor.storage_offset() * tensor.element_size()
            key = storage(tensor)
            found = (plan[key] if key in plan else Buffer(names[key], 0, 0), inner)
        arguments.append(found)
    return Call(launch, unit, (launch.grid[0] // count, *launch.grid[1:]), tuple(arguments))


def _plan(launches: list[Launch], known: Iterable[int], lanes: int) -> dict[int, Buffer]:
    """Places, of one lane, for what launches leave to later ones: first fit, largest first; no two alive at once overlap."""
    outside = set(known)
    lives: dict[int, list[int]] = {}
    sizes: dict[int, int] = {}
    for i, launch in enumerate(launches):
        for tensor in launch.tensors.values():
            if tensor is None or storage(tensor) in outside:
                continue
            key, size = storage(tensor), tensor.untyped_storage().nbytes()
            if size % lanes:
                raise InternalError(f"{launch.name} has a tensor of {size} bytes for {lanes} lanes")
            sizes[key] = aligned(size // lanes)
            lives[key] = [lives.get(key, [i])[0], i]
    placed: dict[int, Buffer] = {}
    for key in sorted(sizes, key=lambda k: (-sizes[k], lives[k][0])):
        first, last = lives[key]
        taken = sorted((b.offset, b.offset + b.bytes) for k, b in placed.items() if lives[k][0] <= last and first <= lives[k][1])
        at = 0
        for start, end in taken:
            if start - at >= sizes[key]:
                break
            at = max(at, end)
        placed[key] = Buffer("arena", at, sizes[key])
    return placed


def _extent(buffers: Iterable[Buffer]) -> int:
    return max((b.offset + b.bytes for b in buffers), default=0)


def packed_weights(program: Program, models: dict[str, FusedUNet]) -> bytearray:
    """The weights of real models in the program's layout."""
    named = {f"{name}.{k}": v for name, model in models.items() for k, v in model.named_buffers()}
    blob = bytearray(program.weight_bytes)
    for name, buffer in program.weights.items():
        data = named[name].detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        if len(data) != buffer.bytes:
            raise InternalError(f"{name} has {len(data)} bytes, the program counts on {buffer.bytes}")
        blob[buffer.offset : buffer.offset + len(data)] = data
    return blob
