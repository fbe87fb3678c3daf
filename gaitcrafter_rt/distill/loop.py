"""The distillation loop: one student after another, each a model package of its own."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
from ..train.batches import Batches, DeviceBatches
from ..train.diffusion import NoiseSchedule
from ..train.ema import Ema
from ..train.start import start_from
from ..train.step import compiled, read_losses, uses_bf16
from .networks import from_host, frozen, native
from .rollout import Rollout
from .settings import DistillSettings
from .teacher_runs import TeacherRuns
from .trajectory import Network, Segments, student_sampler

Progress = Callable[[dict[str, Any]], None]


class Lessons(Protocol):
    """What a student learns from."""

    def backward(self, step: int) -> tuple[Tensor, Tensor]:
        """Gradients of one batch, added to the student's; weighted loss and plain squared error."""


@dataclass
class _Stage:
    """One student while it learns."""

    calls: int
    lessons: Lessons
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
        self.started = ""
        self.guidance = self.config.sampler.guidance if settings.guidance is None else settings.guidance
        if self.guidance not in (0.0, 1.0) and not self.config.conditioning.guidance_trained:
            raise InvalidRequestError(f"{settings.teacher} was not trained for guidance; distil it with --guidance 1")
        self.digest = check_sums(settings.teacher)["model.safetensors"]
        d = self.config.diffusion
        self.schedule = NoiseSchedule(d.schedule, d.timesteps, self.device)
        self.student = load_unet(settings.teacher).to(self.device, memory_format=torch.channels_last).train()
        if settings.init:
            self._start_from(settings.init, settings.init_teacher)
        self.forward: Callable[..., Tensor] = self.student
        self.forward = compiled(self.student, settings.compile, self.device, self._try_out)

    def _start_from(self, folder: str, teacher_before: str) -> None:
        """The weights of another student, moved by what fine-tuning has changed in its teacher since, if that is given.

        The difference of two networks' weights carries over to a third that came from the first (Ilharco et al. 2023, "Editing
        models with task arithmetic"): the student knows the new people before its first step.
        """
        # A student has no trained null, which is no difference of the network.
        trained = read_config(folder).conditioning.guidance_trained
        wiring = self.config.conditioning.model_copy(update={"guidance_trained": trained})
        self.started = start_from(self.student, self.config.model_copy(update={"conditioning": wiring}), folder)
        if teacher_before:
            before = UNet3D(self.config)
            told = start_from(before, self.config, teacher_before)
            with torch.no_grad():
                parameters = (m.parameters() for m in (self.student, load_unet(self.settings.teacher), before))
                for mine, now, then in zip(*parameters, strict=True):
                    mine.add_((now - then).to(mine.device))
            self.started += f" Moved by what fine-tuning changed in the teacher. {told}"

    def _try_out(self, forward: Callable[..., Tensor]) -> None:
        self.forward = forward
        clip, size = self.config.clip, self.settings.batch
        x = torch.zeros(size, self.config.unet.channels, clip.frames, clip.height, clip.width, device=self.device)
        t = torch.zeros(size, dtype=torch.long, device=self.device)
        self.predict(x, t, filled_labels(self.config, {}, size, self.device)).square().mean().backward()
        self.student.zero_grad(set_to_none=True)

    def predict(self, x: Tensor, t: Tensor, labels: dict[str, Tensor]) -> Tensor:
        """The student's estimate of the clean clip."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=uses_bf16(self.settings.precision, self.device)):
            out = self.forward(x, t, labels)
        return self.schedule.x0_from(self.config.diffusion.prediction, out.float(), x, t)

    def weight(self, t: Tensor) -> Tensor:
        """Loss weights of timesteps ``t [B]``."""
        return self.schedule.weight("clamp_snr", "x0", self.settings.snr_cap, t)

    def teacher(self) -> Network:
        """The teacher, frozen: natively on a CPU, where its calls are most of the time."""
        s = self.settings
        if self.device.type == "cpu":
            return native(s.teacher, s.precision, s.threads)
        return frozen(load_unet(s.teacher), s.precision, self.device)

    def step(self, stage: _Stage, step: int) -> tuple[Tensor, Tensor]:
        """One optimiser step; weighted loss and plain squared error."""
        stage.optimiser.zero_grad(set_to_none=True)
        told = stage.lessons.backward(step)
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        stage.optimiser.step()
        return told


class _FromData:
    """Noised clips of the data, and where the teacher goes from there (trajectory.py)."""

    def __init__(self, work: _Run, segments: Segments, teacher: Network, guidance: float) -> None:
        self.work, self.segments, self.teacher, self.guidance = work, segments, teacher, guidance
        s, config = work.settings, work.config
        data = PackedClips.open(s.data)
        _check_labels(config, data, s)
        self.batches: Batches
        if DeviceBatches.fits(data, work.device):
            torch.backends.cudnn.benchmark = True
            self.batches = DeviceBatches(data, config, s.batch, s.seed, {}, work.device)
        else:
            self.batches = Batches(data, config, s.batch, s.seed, {})
        self.null = filled_labels(config, {}, s.batch, work.device)

    def backward(self, step: int) -> tuple[Tensor, Tensor]:
        # Students see other batches than each other.
        calls = len(self.segments.start)
        batch = self.batches.at((calls << 32) + step).to(self.work.device)
        index = batch.t % calls
        t = self.segments.start[index]
        x = self.work.schedule.add_noise(batch.x0, batch.noise, t)
        with torch.no_grad():
            wanted = self.segments.target(self.teacher, x, index, batch.labels, self.null, self.guidance)
        per_clip = (self.work.predict(x, t, batch.labels) - wanted).square().flatten(1).mean(1)
        loss = (self.work.weight(t) * per_clip).mean()
        loss.backward()
        return loss.detach(), per_clip.detach().mean()


class _FromNoise:
    """The student's own way against the teacher's (rollout.py)."""

    def __init__(self, work: _Run, rollout: Rollout) -> None:
        self.work, self.rollout = work, rollout

    def backward(self, step: int) -> tuple[Tensor, Tensor]:
        return self.rollout.backward(step, self.work.predict, self.work.weight)


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
    runs = _teacher_runs(work, progress) if settings.start == "noise" else None
    # What the start took is not available to the students.
    seconds = settings.minutes * 60 - (time.monotonic() - began) if settings.minutes else 0.0
    for number, calls in enumerate(settings.calls):
        stage = _stage(work, calls, students, runs)
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


def _teacher_runs(work: _Run, progress: Progress | None) -> TeacherRuns:
    s = work.settings
    runs = TeacherRuns(
        work.config, work.digest, count=s.trajectories, calls=s.calls, steps=s.teacher_steps, guidance=work.guidance, seed=s.seed,
        precision=s.precision,
    )  # fmt: skip

    def tell(done: int, of: int) -> None:
        if progress is not None:
            progress({"trajectories": done, "of": of})

    runs.open(Path(s.keep or f"{s.out}.trajectories"), from_host(work.teacher(), work.device), s.batch, tell)
    return runs


def _stage(work: _Run, calls: int, students: dict[int, UNet3D], runs: TeacherRuns | None) -> _Stage:
    s, config = work.settings, work.config
    halved = students.get(2 * calls) if s.progressive and runs is None else None
    lessons: Lessons
    if runs is not None:
        lessons = _FromNoise(work, Rollout(runs, calls, s.batch, s.seed, work.device))
        whom = (
            f"{runs.count:,} of the teacher's trajectories from noise, {s.teacher_steps} steps of unipc, guidance {work.guidance:g}"
        )
    elif halved is None:
        segments = Segments(config, calls, s.teacher_steps, work.device)
        lessons = _FromData(work, segments, work.teacher(), work.guidance)
        whom = f"the teacher, {s.teacher_steps} steps of dpmpp_2m over the trajectory, guidance {work.guidance:g}"
    else:
        segments = Segments(config, calls, 2 * calls, work.device, halved=True)
        lessons = _FromData(work, segments, frozen(halved, s.precision, work.device), 1.0)
        whom = f"the student of {2 * calls} calls"
    optimiser = torch.optim.AdamW(
        work.student.parameters(), lr=s.lr, betas=(0.9, 0.99), weight_decay=0.0, fused=work.device.type == "cuda"
    )
    return _Stage(calls, lessons, whom, Ema(work.student, s.ema), optimiser)


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
        pending.append(work.step(stage, step))
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
            f"{work.guidance:g} baked in; other numbers of steps are not what it learned.",
        }
    )
    wiring = config.conditioning.model_copy(update={"guidance_trained": False})
    sampler = student_sampler(calls).model_copy(update={"kind": s.sampler})
    changes = {"sampler": sampler, "provenance": about, "quantisation": None, "conditioning": wiring}
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
{f"- {work.started}" + chr(10) if work.started else ""}
Command:

```
{p.command}
```
"""
