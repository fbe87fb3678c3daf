"""From a noisy clip along the teacher's trajectory to the student's next timestep, and what the student must say to get there.

A student of n calls runs DDIM over n timesteps. Between two of them the teacher takes several steps of DPM-Solver++(2M), guidance
and all; where it is a student of twice the calls itself, two steps of DDIM. Where it ends, x', fixes the estimate x0~ that takes
DDIM from x there in one step: x' = c_x x + c_x0 x0~ (Salimans and Ho 2022, appendix G). Nothing is random on the way, so x0~ is a
function of x and the student can learn it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from ..config import ModelConfig, SamplerDefaults
from ..samplers.table import compile_rows, compile_segment

Network = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


def student_sampler(calls: int) -> SamplerDefaults:
    """The sampler that a student of ``calls`` network calls is trained for, and gets as its default."""
    return SamplerDefaults(kind="ddim", steps=calls, spacing="trailing", thresholding="clip", guidance=1.0)


class Segments:
    """The student's timesteps and the teacher's steps between them, as tensors on a device.

    ``start [n]`` timesteps; ``rows [n, m, 8]`` coefficients of the teacher's steps (``Row`` without t) at ``times [n, m]``;
    ``jump [n, 2]``: c_x and c_x0 of the student's step.
    """

    def __init__(self, config: ModelConfig, calls: int, teacher_steps: int, device: torch.device, *, halved: bool = False) -> None:
        """``teacher_steps`` are those of the whole trajectory; with ``halved`` the teacher is a student of twice the calls."""
        student = compile_rows(student_sampler(calls), config.diffusion)
        starts = [row.t for row in student]
        inner = 2 if halved else -(-teacher_steps // calls)
        twice = [row.t for row in compile_rows(student_sampler(2 * calls), config.diffusion)] if halved else []
        rows = []
        for number, (t, end) in enumerate(zip(starts, [*starts[1:], -1], strict=True)):
            if halved:
                inside = twice[2 * number : 2 * number + 2]
            else:
                inside = [int(v) for v in np.unique(np.round(np.linspace(t, end, inner, endpoint=False)).astype(int))[::-1]]
            segment = compile_segment(inside, end, config.diffusion, order=1 if halved else 2)
            idle = [(float(max(end, 0)), 0, 0, 1, 0, 0, 0, 0, 0)] * (inner - len(segment))
            rows.append([astuple(row) for row in segment] + idle)
        table = torch.tensor(rows, dtype=torch.float64)
        self.start = torch.tensor(starts, device=device)
        self.times = table[:, :, 0].long().to(device)
        self.rows = table[:, :, 1:].float().to(device)
        self.jump = torch.tensor([(row.c_x, row.c_x0) for row in student], device=device)

    def target(
        self, teacher: Network, x: Tensor, index: Tensor, labels: dict[str, Tensor], null: dict[str, Tensor], guidance: float
    ) -> Tensor:
        """x0~ of noisy clips ``x [B, C, F, H, W]`` that stand at ``start[index]``; ``null``: the labels of the unguided lane."""
        begin, earlier = x, torch.zeros_like(x)
        two = guidance not in (0.0, 1.0)
        for step in range(self.times.shape[1]):
            t, row = self.times[index, step], self.rows[index, step]
            c = [row[:, i].view(-1, 1, 1, 1, 1) for i in range(8)]
            if two:
                both = {axis: torch.cat((labels[axis], null[axis])) for axis in labels}
                out, base = teacher(torch.cat((x, x)), torch.cat((t, t)), both).float().chunk(2)
                out = base + (out - base) * guidance
            else:
                out = teacher(x, t, null if guidance == 0 else labels).float()
            x0 = (c[0] * x + c[1] * out).clamp(-1, 1)
            x, earlier = c[2] * x + c[3] * x0 + c[4] * earlier, x0
        jump = self.jump[index]
        keep, give = (jump[:, i].view(-1, 1, 1, 1, 1) for i in range(2))
        return ((x - keep * begin) / give).clamp(-1, 1)
