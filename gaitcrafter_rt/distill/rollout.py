"""A student's own way from pure noise, held to the teacher's trajectory from the same noise.

At each of the student's timesteps the target is the estimate x0~ that takes DDIM from where the *student* stands to where the
*teacher's* trajectory is at the next one: x_teacher' = c_x x_student + c_x0 x0~. Each call learns to mend what the calls before it
left, and sees what it will see when it generates, which noised clips of the data are not where guidance moves the distribution.
Gradients do not cross from one call to the next. Needs no data.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..samplers.table import compile_rows
from .teacher_runs import TeacherRuns
from .trajectory import student_sampler

Predict = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]


class Rollout:
    """Batches and losses of a student of ``calls`` calls; a batch is a function of seed and step."""

    def __init__(self, runs: TeacherRuns, calls: int, batch: int, seed: int, device: torch.device) -> None:
        self.runs, self.batch, self.seed, self.device = runs, min(batch, runs.count), seed, device
        self.rows = compile_rows(student_sampler(calls), runs.config.diffusion)
        self._order: tuple[int, np.ndarray] | None = None

    def indices(self, step: int) -> np.ndarray:
        """Trajectories of a step: every one once in an epoch, in an order of its own."""
        per_epoch = self.runs.count // self.batch
        epoch, place = divmod(step, per_epoch)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._order = epoch, rng.permutation(self.runs.count)
        return np.sort(self._order[1][place * self.batch : (place + 1) * self.batch])

    def backward(self, step: int, predict: Predict, weight: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Gradients of one batch, added to what the student holds.

        ``predict(x, t, labels)`` is the student's x0; ``weight(t [B])`` the loss weights. Returns the weighted loss, mean over the
        calls, and the squared error of the finished clip.
        """
        indices = self.indices(step)
        labels = {axis: given.to(self.device) for axis, given in self.runs.labels(indices).items()}
        x = self.runs.noise(indices).to(self.device)
        loss, error = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for row, end in zip(self.rows, [*(r.t for r in self.rows[1:]), -1], strict=True):
            t = torch.full((len(x),), row.t, device=self.device)
            wanted = (self.runs.at(indices, end).to(self.device) - row.c_x * x) / row.c_x0
            x0 = predict(x, t, labels)
            per_clip = (x0 - wanted).square().flatten(1).mean(1)
            part = (weight(t) * per_clip).mean() / len(self.rows)
            part.backward()
            loss, error = loss + part.detach(), per_clip.detach().mean()
            x = row.c_x * x + row.c_x0 * x0.detach().clamp(-1, 1)
        return loss, error
