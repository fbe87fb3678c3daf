"""The distillation loop: one student after another, each a model package of its own."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError as e:
    from ..errors import MissingExtraError

    raise MissingExtraError.for_extra("train", "distillation", e.name) from e
from torch import Tensor

from ..config import ModelConfig
from ..data.packed import PackedClips
from ..errors import CapabilityError, InvalidRequestError
from ..files import refuse_occupied_folder
from ..nn.denoiser import load_unet
from ..nn.unet import UNet3D, filled_labels
from ..package import check_sums, read_config, write_package
from ..train.batches import Batch, Batches, DeviceBatches
from ..train.diffusion import NoiseSchedule
from ..train.ema import Ema
from ..train.step import compiled, read_losses, uses_bf16
from .networks import frozen
from .settings import DistillSettings
from .trajectory import Network, Segments, student_sampler

Progress = Callable[[dict[str, Any]], None]


@dataclass
class _Stage:
    """One student while it learns."""

    calls: int
    segments: Segments
    teacher: Network
    guidance: float
    learns_from: str
    ema: Ema
    optimiser: torch.optim.Optimizer


class _Run:
    def __init__(self, settings: DistillSettings) -> None:
        self.settings = settings
        self.device = torch.device(settings.device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise CapabilityError("device 'cuda' was asked for but torch sees no GPU; use --device cpu")
        if settings.threads:
            torch.set_num_threads(settings.threads)
        self.config = read_config(settings.teacher)
        self.guidance = self.config.sampler.guidance if settings.guidance is None else settings.guidance
        if self.guidance not in (0.0, 1.0) and not self.config.conditioning.guidance_trained:
            raise InvalidRequestError(f"{settings.teacher} was not trained for guidance; distil it with --guidance 1")
        self.digest = check_sums(settings.teacher)["model.safetensors"]
        data = PackedClips.open(settings.data)
        _check_labels(self.config, data, settings)
        if DeviceBatches.fits(data, self.device):
            torch.backends.cudnn.benchmark = True
            self.batches: Batches = DeviceBatches(data, self.config, settings.batch, settings.seed, {}, self.device)
        else:
            self.batches = Batches(data, self.config, settings.batch, settings.seed, {})
        d = self.config.diffusion
        self.schedule = NoiseSchedule(d.schedule, d.timesteps, self.device)
        self.student = load_unet(settings.teacher).to(self.device, memory_format=torch.channels_last).train()
        self.null = filled_labels(self.config, {}, settings.batch, self.device)
        self.guided = frozen(self.student, settings.precision, self.device)
        self.forward: Callable[..., Tensor] = self.student
        self.forward = compiled(self.student, settings.compile, self.device, self._try_out)

    def _try_out(self, forward: Callable[..., Tensor]) -> None:
        self.forward = forward
        batch = self.batches.at(0).to(self.device)
        self.predict(batch.x0, batch.t, batch.labels).square().mean().backward()
        self.student.zero_grad(set_to_none=True)

    def predict(self, x: Tensor, t: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """The student's estimate of the clean clip."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(self.settings.precision, self.device)):
            out = self.forward(x, t, labels)
        return self.schedule.x0_from(self.config.diffusion.prediction, out.float(), x, t)

    def step(self, stage: _Stage, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimiser step; weighted loss and plain squared error."""
        batch = batch.to(self.device)
        index = batch.t % stage.calls
        t = stage.segments.start[index]
        x = self.schedule.add_noise(batch.x0, batch.noise, t)
        with torch.no_grad():
            wanted = stage.segments.target(stage.teacher, x, index, batch.labels, self.null, stage.guidance)
        per_clip = (self.predict(x, t, batch.labels) - wanted).square().flatten(1).mean(1)
        loss = (self.schedule.weight("clamp_snr", "x0", self.settings.snr_cap, t) * per_clip).mean()
        stage.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        stage.optimiser.step()
        return loss.detach(), per_clip.detach().mean()


def run(settings: DistillSettings, progress: Progress | None = None, command: list[str] | None = None) -> list[Path]:
    """Distil and return the folders of the students, ``OUT/calls-N``.

    ``progress`` gets a dict now and then: calls, step, done (of this student), loss, error, clips_per_second.

    Raises:
        InvalidRequestError: labels of data and teacher differ, a teacher without guidance, a loss that is not finite.
        OutputError: ``OUT`` is occupied. ModelFormatError, DataFormatError: the teacher or the data are damaged.
    """
    refuse_occupied_folder(settings.out)
    began = time.monotonic()
    work = _Run(settings)
    folders: list[Path] = []
    students: dict[int, UNet3D] = {}
    # What the start took is not available to the students.
    seconds = settings.minutes * 60 - (time.monotonic() - began) if settings.minutes else 0.0
    for number, calls in enumerate(settings.calls):
        stage = _stage(work, calls, students)
        share = settings.part(number)
        steps, spent = _learn(work, stage, max(1, round(settings.steps * share)), seconds * share, progress)
        kept = UNet3D(work.config)
        kept.load_state_dict({k: v.cpu() for k, v in stage.ema.state_dict().items()})
        students[calls] = kept
        with torch.no_grad():  # the next student starts from the average
            for p, average in zip(work.student.parameters(), stage.ema.avg, strict=True):
                p.copy_(average)
        folder = Path(settings.out) / f"calls-{calls}"
        config = _student_config(work, calls, command)
        write_package(folder, config, stage.ema.arrays(), _card(work, stage, config, steps, spent))
        folders.append(folder)
    return folders


def _stage(work: _Run, calls: int, students: dict[int, UNet3D]) -> _Stage:
    s, config = work.settings, work.config
    halved = students.get(2 * calls) if s.progressive else None
    if halved is None:
        teacher, guidance, inner = work.guided, work.guidance, s.teacher_steps
        whom = f"the teacher, {inner} steps of dpmpp_2m over the trajectory, guidance {guidance:g}"
    else:
        teacher, guidance, inner = frozen(halved, s.precision, work.device), 1.0, 2 * calls
        whom = f"the student of {2 * calls} calls"
    optimiser = torch.optim.AdamW(
        work.student.parameters(), lr=s.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=work.device.type == "cuda"
    )
    segments = Segments(config, calls, inner, work.device, halved=halved is not None)
    return _Stage(calls, segments, teacher, guidance, whom, Ema(work.student, s.ema), optimiser)


def _learn(work: _Run, stage: _Stage, steps: int, seconds: float, progress: Progress | None) -> tuple[int, float]:
    """Train one student for ``seconds`` if above 0, else for ``steps``; returns steps done and seconds spent."""
    s, began = work.settings, time.monotonic()
    every = 10 if work.device.type == "cuda" else 1
    pending: list[tuple[Tensor, Tensor]] = []
    step = 0
    while True:
        spent = time.monotonic() - began
        done = spent / seconds if seconds > 0 else step / steps
        if done >= 1 and step:
            break
        warm = min(1.0, (step + 1) / (s.warmup + 1))
        for group in stage.optimiser.param_groups:
            group["lr"] = s.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))
        # Students see other batches than each other.
        pending.append(work.step(stage, work.batches.at((stage.calls << 32) + step)))
        step += 1
        stage.ema.update(step)
        if step % every == 0:
            losses = read_losses(pending, step, s.lr)
            pending.clear()
            if progress is not None:
                rate = step * s.batch / (time.monotonic() - began)
                loss, error = losses[-1]
                told = {"calls": stage.calls, "step": step, "done": min(done, 1.0), "loss": loss, "error": error}
                progress({**told, "clips_per_second": rate})
    if pending:
        read_losses(pending, step, s.lr)
    return step, time.monotonic() - began


def _check_labels(config: ModelConfig, data: PackedClips, settings: DistillSettings) -> None:
    if data.labels != config.labels or data.meta.shape != (config.clip.frames, config.clip.height, config.clip.width):
        raise InvalidRequestError(
            f"{settings.data} has other labels or clips of another shape than {settings.teacher}; distil with the data that the "
            "teacher was trained on"
        )


def _student_config(work: _Run, calls: int, command: list[str] | None) -> ModelConfig:
    config, s = work.config, work.settings
    about = config.provenance.model_copy(
        update={
            "command": shlex.join(command if command is not None else sys.argv),
            "notes": f"Distilled from {config.name} (weights sha256 {work.digest[:16]}) for {calls} calls of ddim, guidance "
            f"{work.guidance:g} baked in; other samplers and numbers of steps are not what it learned.",
        }
    )
    wiring = config.conditioning.model_copy(update={"guidance_trained": False})
    changes = {"sampler": student_sampler(calls), "provenance": about, "quantisation": None, "conditioning": wiring}
    return config.model_copy(update={"name": s.name or f"{config.name}-{calls}", **changes})


def _card(work: _Run, stage: _Stage, config: ModelConfig, steps: int, spent: float) -> str:
    where = "a CPU" if work.device.type == "cpu" else torch.cuda.get_device_name(work.device)
    p, s = config.provenance, work.settings
    return f"""# {config.name}

{p.notes}

- Identities: **{p.identities}**
- Training data: {p.training_data}
- Terms of the training data: {p.training_data_terms}
- Parameters: {sum(t.numel() for t in work.student.parameters()):,}
- Learned from {stage.learns_from}: {steps:,} steps of {s.batch} clips, {spent / 60:.1f} minutes on {where}; the weights are the
  moving average

Command:

```
{p.command}
```
"""
