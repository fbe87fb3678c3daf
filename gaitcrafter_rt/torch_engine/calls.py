"""A request on its way: what was started on the device, and one call of ``generate``."""

from __future__ import annotations

import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import ModelConfig
from ..errors import CancelledError, InternalError
from ..kernels.launch import triton
from ..nn.denoiser import load_unet
from ..nn.fused import FusedUNet, route_convolutions
from .lanes import Lane, LaneTerms, lanes_of
from .program import Networks, Program, lanes_for
from .requests import Given
from .runtime import CudaRuntime, HostRuntime, Runtime, Slot
from .settings import compile_settings

KEPT_PROGRAMS = 12
IN_FLIGHT = 2
START_COST = 4  # of a network call, in clips
_POLL = 0.0005  # seconds between looks at a batch that is not ready
_REPORT = 0.05  # seconds between reports of progress
Progress = Callable[[int, int, int, int], object]


@dataclass(frozen=True)
class Wanted:
    """A request, checked; ``sampler`` is resolved, ``initial_noise`` float32 [count, C, F, H, W] or None."""

    count: int
    seed: int
    clip_indices: np.ndarray
    given: Given
    sampler: dict[str, Any]
    threshold: float
    initial_noise: np.ndarray | None


class Started:
    """Weights on the device, and what was captured."""

    def __init__(
        self,
        folder: Path,
        config: ModelConfig,
        gpu: int | None,
        dtype: torch.dtype,
        conv: str,
        batches: tuple[int, ...],
        graphs: bool,
    ) -> None:
        self.process, self.config, self.batches = os.getpid(), config, batches
        self.runtime: Runtime = HostRuntime() if gpu is None else CudaRuntime(gpu, graphs and triton is not None)
        self._exact = FusedUNet(load_unet(folder), torch.float32).eval()  # on the CPU, for what is computed there
        self.lanes = LaneTerms(config, self._exact)
        main = self._on_device(folder, dtype, conv)
        needs_exact = config.diffusion.prediction == "eps" and dtype != torch.float32
        self._networks = Networks(main, self._on_device(folder, torch.float32, conv) if needs_exact else None)
        self._programs: OrderedDict[tuple[Any, ...], Program] = OrderedDict()

    def _on_device(self, folder: Path, dtype: torch.dtype, conv: str) -> FusedUNet:
        device = self.runtime.device
        if device.type == "cpu":
            return self._exact if dtype == torch.float32 else FusedUNet(load_unet(folder), dtype).eval()
        return route_convolutions(FusedUNet(load_unet(folder), dtype).eval().to(device), conv)

    def program(self, settings: dict[str, Any], draws: bool, batch: int) -> Program:
        """The program of these settings, with whatever guidance: made, captured and kept."""
        plain = {k: v for k, v in settings.items() if k not in ("guidance", "null_axes")}
        key = (tuple(sorted(plain.items())), lanes_for(settings["guidance"]), draws, batch)
        if key not in self._programs:
            while len(self._programs) >= KEPT_PROGRAMS:
                self._programs.popitem(last=False)
            steps = [row.t for row in compile_settings(self.config, settings)]
            with torch.no_grad():  # one by one, so that a timestep's terms do not depend on what else is in the table
                terms = torch.cat([self._exact.time_terms(torch.tensor([t])) for t in steps])
            self._programs[key] = Program(self.config, self._networks, self.runtime, settings, terms, batch, draws)
        self._programs.move_to_end(key)
        return self._programs[key]

    def close(self) -> None:
        """Drop what holds memory on the device."""
        self.runtime.synchronize()
        self._programs.clear()


class Call:
    """One call of ``generate``: batches through programs, two in flight."""

    def __init__(self, started: Started, wanted: Wanted, packed: np.ndarray, progress: Progress | None) -> None:
        self._started, self._runtime, self._wanted = started, started.runtime, wanted
        self._packed, self._progress = packed, progress
        self._done, self._reported = 0, 0.0
        self._prepared: set[int] = set()

    def run(self) -> None:
        """Fills ``packed``. Raises CancelledError, InternalError."""
        self._check_lanes()
        self._report(always=True)
        waiting: deque[tuple[Slot, int, int]] = deque()
        try:
            for first, size, batch in cut(self._wanted.count, self._started.batches):
                program = self._program(batch)
                while len(waiting) >= IN_FLIGHT:
                    self._take(*waiting.popleft())
                slot = program.next_slot()
                self._fill(program, slot, first, size)
                program.start(slot)
                waiting.append((slot, first, size))
            while waiting:
                self._take(*waiting.popleft())
        finally:
            self._runtime.synchronize()
        self._report(always=True)

    def _check_lanes(self) -> None:
        """Before anything runs."""
        if self._wanted.given.cond is not None:
            for clip in range(self._wanted.count):
                self._lanes(clip, lanes_for(self._wanted.sampler["guidance"]))

    def _lanes(self, clip: int, names: tuple[str, ...]) -> list[Lane]:
        lane = lanes_of(self._wanted.given, clip)
        return [lane if name == "cond" else lane.without(self._wanted.sampler["null_axes"]) for name in names]

    def _program(self, batch: int) -> Program:
        program = self._started.program(self._wanted.sampler, self._wanted.initial_noise is None, batch)
        if batch not in self._prepared:
            program.prepare(self._wanted.sampler["guidance"], self._wanted.threshold)
            self._prepared.add(batch)
        return program

    def _fill(self, program: Program, slot: Slot, first: int, size: int) -> None:
        """The batch of ``size`` clips from ``first``; the rest of it repeats its last clip."""
        inputs, wide = slot.inputs, len(program.lanes)
        sources = [first + min(i, size - 1) for i in range(program.batch)]
        inputs["clips"].copy_(torch.from_numpy(self._wanted.clip_indices[sources].view(np.int64)))
        inputs["seeds"].fill_(int(np.uint64(self._wanted.seed).view(np.int64)))
        for i, clip in enumerate(sources):
            for k, lane in enumerate(self._lanes(clip, program.lanes)):
                terms, maps = self._started.lanes.of(lane)
                inputs["terms"][i * wide + k] = terms
                if maps is not None:
                    inputs["maps"][i * wide + k] = maps
            if self._wanted.initial_noise is not None:
                inputs["noise"][i] = torch.from_numpy(self._wanted.initial_noise[clip].reshape(-1))

    def _take(self, slot: Slot, first: int, size: int) -> None:
        while self._progress is not None and not self._runtime.is_ready(slot):
            self._report()
            time.sleep(_POLL)
        self._runtime.wait(slot)
        for clip, bad in enumerate(slot.bad[:size].tolist()):
            if bad:
                index = int(self._wanted.clip_indices[first + clip])
                raise InternalError(
                    f"clip {index}: {bad} values of the network were not finite; the weights or the condition weights are far "
                    "outside what the model was trained on"
                )
        self._packed[first : first + size] = slot.packed[:size].numpy()
        self._done += size
        self._report()

    def _report(self, always: bool = False) -> None:
        now = time.monotonic()
        if self._progress is None or (not always and now - self._reported < _REPORT):
            return
        self._reported = now
        done, total = self._done * self._wanted.sampler["steps"], self._wanted.count * self._wanted.sampler["steps"]
        if self._progress(done, total, self._done, self._wanted.count) is False:
            raise CancelledError(f"cancelled by the progress callback after {done} of {total} steps; no clip of this call was kept")


def cut(count: int, batches: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(first clip, clips, batch) of every network call: the largest batches, then the cheapest way for what is left."""
    largest = max(batches)
    first = 0
    for size in [largest] * (count // largest) + cheapest(count % largest, batches):
        yield first, min(size, count - first), size
        first += size


@lru_cache
def cheapest(left: int, batches: tuple[int, ...]) -> list[int]:
    """Batches that hold ``left`` clips, the largest first. A batch costs its size, empty places too, and a start of its own."""

    @lru_cache
    def way(left: int) -> tuple[int, list[int]]:
        if left <= 0:
            return 0, []
        ways = ((size, *way(left - size)) for size in batches)
        return min((size + START_COST + cost, [size, *rest]) for size, cost, rest in ways)

    return sorted(way(left)[1], reverse=True)
