"""One batch from noise to packed bits: the whole sampler table over buffers that stay, so that it can be captured once and run with
other seeds, clips, conditions, guidance and threshold.

Guidance runs in two lanes of one network call, a clip's conditioned lane and its null lane side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..kernels.add_repeated import add_repeated
from ..kernels.dynamic_limits import dynamic_limits
from ..kernels.sampler_step import DeviceTable, initial_noise, pack_clips, sampler_step, threshold_level
from ..nn.fused import FusedUNet
from ..samplers.table import Row
from .runtime import Runtime, Slot
from .settings import compile_settings, defaults_of

# Rows of an eps-model that divide by so little signal run in fp32 (csrc/engine/cpu_backend.h has the same number and its reason).
EXACT_AMPLIFICATION = 32.0


def lanes_for(guidance: float) -> tuple[str, ...]:
    """Which lanes a guidance takes: at 1 the conditioned one alone, at 0 the null one alone."""
    return {1.0: ("cond",), 0.0: ("null",)}.get(float(guidance), ("cond", "null"))


@dataclass(frozen=True)
class Networks:
    """The network in its precision, and in fp32 where an eps-model needs it."""

    main: FusedUNet
    exact: FusedUNet | None

    def for_row(self, row: Row) -> FusedUNet:
        """The one that a row runs."""
        return self.exact if self.exact is not None and abs(row.a_out) > EXACT_AMPLIFICATION else self.main


class Program:
    """The rows of one sampler over one batch.

    Args:
        time_terms: fp32 ``[rows, film_width]`` of the table's timesteps, on the CPU.
        draws: x_T is drawn on the device; else it is an input.
    """

    def __init__(
        self, config: ModelConfig, networks: Networks, runtime: Runtime, settings: dict[str, Any], time_terms: Tensor, batch: int,
        draws: bool,
    ) -> None:  # fmt: skip
        clip, u = config.clip, config.unet
        self.batch, self.lanes = batch, lanes_for(settings["guidance"])
        self._networks, self._runtime, self._draws = networks, runtime, draws
        self._shape = (u.channels, clip.frames, clip.height, clip.width)
        self.elements = u.channels * clip.frames * clip.height * clip.width
        self.rows, device, lanes = compile_settings(config, settings), runtime.device, batch * len(self.lanes)
        self._table = DeviceTable.of(self.rows, defaults_of(settings), self.elements, device)
        self._time = time_terms.to(device)
        self._x = torch.zeros(batch, self.elements, device=device)
        self._limit = torch.ones(batch, device=device)
        self._history = torch.zeros(batch, 2, self.elements, device=device)
        self._bad = torch.zeros(batch, dtype=torch.int32, device=device)
        self._packed = torch.zeros(batch, -(-self.elements // 8), dtype=torch.uint8, device=device)
        self._level = threshold_level(0.5, device)
        self._inputs: dict[str, Tensor] = {
            "seeds": torch.zeros(batch, dtype=torch.int64, device=device),
            "clips": torch.zeros(batch, dtype=torch.int64, device=device),
            "terms": torch.zeros(lanes, networks.main.film_width, device=device),
        }
        if len(networks.main.input_maps):
            self._inputs["maps"] = torch.zeros(lanes, u.channels, clip.height, clip.width, device=device)
        if not draws:
            self._inputs["noise"] = torch.zeros(batch, self.elements, device=device)
        self._replay: Callable[[], None] | None = None
        self._slots = [self._slot() for _ in range(2)]

    def next_slot(self) -> Slot:
        """Host memory for a batch, by turns: the one before may still be in flight."""
        self._slots.reverse()
        return self._slots[0]

    def _slot(self) -> Slot:
        host = self._runtime.host
        inputs = {name: host(tuple(t.shape), t.dtype) for name, t in self._inputs.items()}
        packed, bad = (host(tuple(t.shape), t.dtype) for t in (self._packed, self._bad))
        return Slot(inputs, packed, bad, (torch.empty_like(self._packed), torch.empty_like(self._bad)))

    def prepare(self, guidance: float, threshold: float) -> None:
        """What is the same for all batches of a call. The first call captures."""
        with torch.no_grad():
            if self._replay is None:
                self._replay = self._runtime.capture(self._run)
            self._runtime.upload(self._table.rows[:, 8], torch.full((len(self.rows),), guidance))
            self._runtime.upload(self._level, threshold_level(threshold, "cpu"))

    def start(self, slot: Slot) -> None:
        """Begin the batch whose inputs are in ``slot``; its results come there."""
        assert self._replay is not None, "prepare() comes first"
        for name, target in self._inputs.items():
            self._runtime.upload(target, slot.inputs[name])
        slot.ready = None
        self._replay()
        self._runtime.download(slot, self._packed, self._bad)

    @torch.no_grad()
    def _run(self) -> None:
        """Every operation of a batch, in order, on the buffers."""
        x, lanes = self._x, len(self.lanes)
        self._bad.zero_()
        if self._draws:
            initial_noise(x, self._inputs["seeds"], self._inputs["clips"])
        else:
            x.copy_(self._inputs["noise"])
        for i, row in enumerate(self.rows):
            films = add_repeated(self._inputs["terms"], self._time[i : i + 1])
            network = self._networks.for_row(row)
            out = network.denoise(x.view(self.batch, *self._shape), films, self._inputs.get("maps"), lanes)
            out = out.reshape(self.batch, lanes, self.elements)
            self._step(i, out[:, 0], out[:, 1] if lanes == 2 else None)
        self._packed.copy_(pack_clips(x, self._level, self._bad))

    def _step(self, i: int, out: Tensor, null: Tensor | None) -> None:
        x, row, integers = self._x, self._table.rows[i], self._table.integers[i]
        if self._table.is_dynamic:
            dynamic_limits(x, out, null, row, integers, self._limit)
        seeds, clips = self._inputs["seeds"], self._inputs["clips"]
        sampler_step(x, out, null, row, integers, seeds, clips, self._limit, self._history, self._bad)
