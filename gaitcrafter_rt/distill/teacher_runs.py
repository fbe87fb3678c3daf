"""Whole trajectories of the teacher from pure noise, made once and kept: what a student of few calls is held to along its own way.

Noise and labels of trajectory i are functions of (seed, i) alone, so a folder of them is resumed and serves runs that
ask for fewer.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import AXES, ModelConfig, SamplerDefaults
from ..documents import read_object
from ..errors import DataFormatError, InvalidRequestError, OutputError
from ..install import native
from ..samplers.table import compile_rows
from .trajectory import Network, student_sampler

ABOUT, STATES = "about.json", "states.npy"
_KIND, _VERSION = "gaitcrafter-trajectories", 1


def teacher_sampler(steps: int, guidance: float) -> SamplerDefaults:
    """UniPC, the nearest to a thousand steps of DDPM at any number of steps (docs/quality.md)."""
    return SamplerDefaults(kind="unipc", steps=steps, spacing="trailing", thresholding="clip", guidance=guidance)


class TeacherRuns:
    """Trajectories of a folder.

    ``times``: the timesteps at which states are kept, decreasing, -1 for the finished clip; ``states`` float16
    ``[N, len(times), C, F, H, W]``.
    """

    def __init__(
        self, config: ModelConfig, digest: str, *, count: int, calls: Sequence[int], steps: int, guidance: float, seed: int,
        precision: str = "auto",
    ) -> None:  # fmt: skip
        """``digest``: sha256 of the teacher's weights; ``calls`` of all students; ``precision`` that the teacher is asked for.

        Raises InvalidRequestError for a teacher without labels, or one whose steps do not stop where the students do.
        """
        if not any(getattr(config.conditioning, axis) != "none" for axis in AXES):
            raise InvalidRequestError("the teacher takes no labels; distil it from data (--start data)")
        self.config, self.count, self.seed, self.guidance = config, count, seed, guidance
        self.rows = compile_rows(teacher_sampler(steps, guidance), config.diffusion)
        wanted = {row.t for c in calls for row in compile_rows(student_sampler(c), config.diffusion)[1:]}
        missing = wanted - {row.t for row in self.rows}
        if missing:
            raise InvalidRequestError(
                f"the teacher's {steps} steps do not stop at timesteps {sorted(missing)} of the students; give --teacher-steps a "
                f"multiple of {' and '.join(map(str, calls))}"
            )
        self.times = [*sorted(wanted, reverse=True), -1]
        clip = config.clip
        self.shape = (config.unet.channels, clip.frames, clip.height, clip.width)
        self._about: dict[str, Any] = {
            "format": _KIND, "format_version": _VERSION, "teacher_sha256": digest, "count": count, "seed": seed,
            "precision": precision, "guidance": guidance, "sampler": "unipc", "steps": steps, "times": self.times,
            "shape": list(self.shape),
        }  # fmt: skip
        self.states: np.ndarray = np.empty((0, len(self.times), *self.shape), np.float16)

    def open(self, folder: Path, teacher: Network, batch: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Take what ``folder`` holds and make the rest, ``batch`` at a time.

        Raises:
            InvalidRequestError: the folder holds other trajectories. DataFormatError: it is damaged.
            OutputError: it holds something else, or the disk is too small.
        """
        path = folder / STATES
        made = self._made(folder)
        shape = (self._about["count"], len(self.times), *self.shape)
        if made is None:
            folder.mkdir(parents=True, exist_ok=True)
            need, free = 2 * math.prod(shape), shutil.disk_usage(folder).free
            if need > free:
                raise OutputError(f"{self.count} trajectories take {need:,} bytes and {folder} has {free:,} left; ask for fewer")
            self.states = np.lib.format.open_memmap(path, "w+", np.float16, shape)
            made = 0
            self._tell(folder, 0)
        else:
            try:
                states = np.load(path, mmap_mode="r+", allow_pickle=False)
            except (OSError, ValueError) as e:
                raise DataFormatError(f"{path}: not readable ({e}); remove {folder} and make it anew") from e
            if states.shape != shape or states.dtype != np.float16:
                raise DataFormatError(f"{path}: holds {states.dtype} {states.shape}, expected float16 {shape}; remove {folder}")
            self.states = states
        while made < self.count:
            indices = range(made, min(made + batch, self.count))
            self.states[indices.start : indices.stop] = self._run(teacher, indices)
            made = indices.stop
            if made % (16 * batch) < batch or made == self.count:
                self.states.flush()  # type: ignore[attr-defined]
                self._tell(folder, made)
            if progress is not None:
                progress(made, self.count)

    def noise(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Noise that the trajectories begin with, float32 ``[B, C, F, H, W]``: the engine's own."""
        n = math.prod(self.shape)
        return torch.from_numpy(np.stack([native().noise_fill(self.seed, int(i), 0, n).reshape(self.shape) for i in indices]))

    def labels(self, indices: Sequence[int] | np.ndarray) -> dict[str, Tensor]:
        """Labels of the trajectories, drawn evenly from the teacher's: per wired axis one-hot ``[B, n + 1]``."""
        drawn: dict[str, list[int]] = {}
        for i in indices:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, int(i)]))
            for axis in AXES:
                if getattr(self.config.conditioning, axis) != "none":
                    drawn.setdefault(axis, []).append(int(rng.integers(len(getattr(self.config.labels, axis)))))
        sizes = {axis: len(getattr(self.config.labels, axis)) + 1 for axis in drawn}
        return {axis: torch.nn.functional.one_hot(torch.tensor(of), sizes[axis]).float() for axis, of in drawn.items()}

    def at(self, indices: Sequence[int] | np.ndarray, time: int) -> Tensor:
        """States at ``time``, one of ``times``; float32 ``[B, C, F, H, W]``."""
        return torch.from_numpy(self.states[list(indices), self.times.index(time)].astype(np.float32))

    @torch.no_grad()
    def _run(self, teacher: Network, indices: Sequence[int]) -> np.ndarray:
        labels = self.labels(indices)
        two = self.guidance not in (0.0, 1.0)
        null = {}
        for axis, given in labels.items():
            null[axis] = torch.zeros_like(given)
            null[axis][:, -1] = 1
        both = {axis: torch.cat((labels[axis], null[axis])) for axis in labels}
        x = self.noise(indices)
        earlier, kept = [x, x], []
        for row in self.rows:
            if row.t in self.times:
                kept.append(x)
            if two:
                out, base = teacher(torch.cat((x, x)), torch.full((2 * len(x),), row.t), both).chunk(2)
                out = base + (out - base) * self.guidance
            else:
                out = teacher(x, torch.full((len(x),), row.t), null if self.guidance == 0 else labels)
            x0 = (row.a_x * x + row.a_out * out).clamp(-1, 1)
            total = row.c_x * x + row.c_x0 * x0
            for c, term in ((row.c_prev1, earlier[0]), (row.c_prev2, earlier[1])):
                if c:
                    total = total + c * term
            x, earlier = total, [x0, earlier[0]]
        return torch.stack([*kept, x], 1).numpy().astype(np.float16)

    def _made(self, folder: Path) -> int | None:
        """How many trajectories ``folder`` holds; None where nothing stands."""
        about = folder / ABOUT
        if not about.exists():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise OutputError(f"{folder} exists and holds no trajectories; choose another place with --keep")
            return None
        found = read_object(about.read_bytes(), about, _VERSION, DataFormatError, _KIND)
        made = found.pop("made", None)
        if self._holds_more(found.get("times")):
            self.times = self._about["times"] = list(found["times"])
        if type(found.get("count")) is int and found["count"] > self.count:
            self._about["count"] = found["count"]
        if found != self._about:
            other = [k for k in self._about if found.get(k) != self._about[k]]
            raise InvalidRequestError(f"{folder} holds other trajectories ({', '.join(other)} differ); choose another --keep")
        if type(made) is not int or not 0 <= made <= self._about["count"]:
            raise DataFormatError(f"{about}: made is {made!r:.40}, expected 0 to {self._about['count']}; remove {folder}")
        return made

    def _holds_more(self, times: object) -> bool:
        """Whether states of ``times`` are those of our students and of others, in the order that they are kept in."""
        stops = {row.t for row in self.rows} | {-1}
        if not isinstance(times, list) or not all(type(t) is int for t in times):
            return False
        return set(self.times) <= set(times) <= stops and times == sorted(set(times), reverse=True)

    def _tell(self, folder: Path, made: int) -> None:
        tmp = folder / f".{ABOUT}.tmp"
        tmp.write_text(json.dumps({**self._about, "made": made}, indent=1) + "\n", encoding="utf-8")
        os.replace(tmp, folder / ABOUT)
