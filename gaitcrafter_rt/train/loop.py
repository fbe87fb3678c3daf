"""The training loop: resumable, with EMA, sample sheets and a model package at the end."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError as e:
    from ..errors import MissingExtraError

    raise MissingExtraError.for_extra("train", "training", e.name) from e

from ..config import ClipShape, ModelConfig
from ..data.packed import PackedClips
from ..errors import CapabilityError, OutputError
from ..nn.unet import UNet3D
from ..package import write_package
from . import checkpoint
from .batches import Batches, DeviceBatches
from .card import model_card
from .diffusion import NoiseSchedule
from .ema import Ema
from .preview import save_sheet
from .settings import TrainSettings, model_config
from .start import start_from
from .state import Run
from .step import compiled, read_losses, train_step

Progress = Callable[[dict[str, Any]], None]


def forecast(settings: TrainSettings, steps: int = 4) -> dict[str, Any]:
    """Time a few steps and say what the whole run would take; writes nothing.

    Returns parameters, seconds_per_step, clips_per_second, hours (wall clock, this machine as loaded now).
    """
    run, batches = _open(settings, None)
    read_losses([train_step(run, batches.at(0))], 1, settings.lr)  # the first one also pays for set-up
    wall, cpu = time.monotonic(), time.process_time()
    pending = [train_step(run, batches.at(step)) for step in range(1, steps + 1)]
    read_losses(pending, steps + 1, settings.lr)
    wall, cpu = (time.monotonic() - wall) / steps, (time.process_time() - cpu) / steps
    total = float(settings.steps)
    if settings.hours or settings.minutes:
        total = settings.hours * 3600 / cpu if settings.hours else (settings.minutes or 0) * 60 / wall
    return {
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "seconds_per_step": wall,
        "clips_per_second": settings.batch / wall,
        "steps": int(total),
        "hours": total * wall / 3600,
    }


def run(settings: TrainSettings, progress: Progress | None = None, command: list[str] | None = None) -> Path:
    """Train until ``steps`` (or ``hours`` of CPU time, or ``minutes`` of wall-clock time from this call on, over all its resumed
    parts) are done and return the folder of the model package, ``OUT/model``.

    Resumes where the newest checkpoint in ``OUT`` stopped. SIGINT and SIGTERM finish the step, write a checkpoint and leave.
    ``progress`` gets a dict whenever the loss is looked at: step, done, loss, x0_error, seconds_left, clips_per_second.
    """
    began = time.monotonic()
    out = Path(settings.out)
    run, batches = _open(settings, command)
    state = _begin(out)
    if state is not None:
        run.restore(state)
    final = out / "model"
    if final.exists() and not _done(run):
        final.rename(out / f"model-{time.strftime('%Y%m%d-%H%M%S')}")
    with _Stop() as stop:
        _steps(run, batches, progress, stop, out, began)
    checkpoint.save(out, run.state())
    if _done(run) and not final.exists():
        save_sheet(run.ema, run, out / f"sheet-{run.step:06d}.png")
        write_package(final, run.config, run.ema.arrays(), model_card(run))
    return final


def _open(settings: TrainSettings, command: list[str] | None) -> tuple[Run, Batches]:
    data = PackedClips.open(settings.data)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    frames, height, width = data.meta.shape
    shape = ClipShape(frames=frames, height=height, width=width)
    config = model_config(settings, data.labels, shape, data.meta.source, data.meta.terms, _command(command))
    dropout = {str(axis): rate for axis, rate in settings.dropout.items()}
    run = build_run(settings, config)
    if DeviceBatches.fits(data, run.device):
        batches: Batches = DeviceBatches(data, config, settings.batch, settings.seed, dropout, run.device)
    else:
        batches = Batches(data, config, settings.batch, settings.seed, dropout)
    run.forward = compiled(run.model, settings.compile, run.device, lambda forward: _try_out(run, batches, forward))
    return run, batches


def _try_out(run: Run, batches: Batches, forward: Callable[..., Any]) -> None:
    """A step with ``forward`` at a learning rate of 0 that leaves no trace in weights and optimiser."""
    kept = [(group, group["lr"]) for group in run.optimiser.param_groups]
    before, weights = run.optimiser.state_dict(), [p.detach().clone() for p in run.model.parameters()]
    run.forward = forward
    train_step(run, batches.at(0))
    run.optimiser.load_state_dict(before)
    run.optimiser.zero_grad(set_to_none=True)
    for group, lr in kept:
        group["lr"] = lr
    with torch.no_grad():
        for p, w in zip(run.model.parameters(), weights, strict=True):
            p.copy_(w)


def _begin(out: Path) -> dict[str, Any] | None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"{out} is not writable: {e.strerror}") from e
    state = checkpoint.load(out)
    if state is None and any(out.iterdir()):
        raise OutputError(f"{out} is not empty and holds no checkpoint of this trainer; choose another folder")
    return state


def build_run(settings: TrainSettings, config: ModelConfig) -> Run:
    """Network, averaged weights and optimiser at step 0. Raises CapabilityError if the device is not there."""
    device = torch.device(settings.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CapabilityError("device 'cuda' was asked for but torch sees no GPU; use --device cpu")
    torch.manual_seed(settings.seed)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # the shapes never change
    model = UNet3D(config)
    origin = start_from(model, config, settings.init) if settings.init else ""
    model = model.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(_groups(model, settings), lr=settings.lr, betas=(0.9, 0.99), fused=device.type == "cuda")
    d = config.diffusion
    return Run(
        settings, config, model, Ema(model, settings.ema), optimiser, NoiseSchedule(d.schedule, d.timesteps, device), device,
        model, origin=origin,
    )  # fmt: skip


def _groups(model: UNet3D, settings: TrainSettings) -> list[dict[str, Any]]:
    """Weight decay for matrices only; a higher rate for label tables, whose rows see one clip in as many as there are labels."""
    tables: list[torch.nn.Parameter] = []
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for name, p in model.named_parameters():
        if ".tables." in name or name.endswith(".embedding"):
            tables.append(p)
        else:
            (matrices if p.ndim > 1 else vectors).append(p)
    lr = settings.lr
    return [
        {"params": tables, "base_lr": lr * settings.table_lr, "lr": lr, "weight_decay": 0.0},
        {"params": matrices, "base_lr": lr, "lr": lr, "weight_decay": settings.weight_decay},
        {"params": vectors, "base_lr": lr, "lr": lr, "weight_decay": 0.0},
    ]


def _steps(run: Run, batches: Batches, progress: Progress | None, stop: _Stop, out: Path, began: float) -> None:
    settings = run.settings
    every = settings.check_every or (25 if run.device.type == "cuda" else 1)
    started, first = time.monotonic(), run.step
    spent = run.wall_seconds  # by the parts of the run before this one
    clock = time.process_time()
    pending: list[Any] = []
    while not _done(run) and not stop.asked:
        for group in run.optimiser.param_groups:
            group["lr"] = group["base_lr"] * _rate(run)
        pending.append(train_step(run, batches.at(run.step)))
        run.step += 1
        run.ema.update(run.step)
        saves = run.step % settings.checkpoint_every == 0
        shows = settings.sample_every > 0 and run.step % settings.sample_every == 0
        if run.step % every == 0 or saves or shows:
            _look(run, pending, progress, (started, first))
        run.cpu_seconds += time.process_time() - clock
        clock, run.wall_seconds = time.process_time(), spent + time.monotonic() - began
        if saves:
            checkpoint.save(out, run.state())
        if shows:
            save_sheet(run.ema, run, out / f"sheet-{run.step:06d}.png")
    _look(run, pending, progress, (started, first))


def _look(run: Run, pending: list[Any], progress: Progress | None, since: tuple[float, int]) -> None:
    """Read what the last steps lost, which waits for the device, and report it."""
    if not pending:
        return
    losses = read_losses(pending, run.step, run.settings.lr)
    pending.clear()
    run.recent = [*run.recent, *(error for _, error in losses)][-100:]
    if progress is not None:
        started, first = since
        progress(_report(run, losses[-1][0], (time.monotonic() - started) / (run.step - first)))


def _fraction(run: Run) -> float:
    """How much of the run is done, 0 to 1."""
    s = run.settings
    if s.minutes:
        return run.wall_seconds / (s.minutes * 60)
    return run.cpu_seconds / (s.hours * 3600) if s.hours else run.step / s.steps


def _done(run: Run) -> bool:
    return _fraction(run) >= 1


def _rate(run: Run) -> float:
    """Warm-up, a flat stretch, and a cosine over the last half down to 2 %."""
    warm = min(1.0, (run.step + 1) / (run.settings.warmup + 1))
    tail = max(0.0, (_fraction(run) - 0.5) / 0.5)
    return warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(min(tail, 1.0) * math.pi)))


def _report(run: Run, loss: float, seconds_per_step: float) -> dict[str, Any]:
    done = max(_fraction(run), 1e-9)
    steps_left = run.step * (1 - done) / done
    return {
        "step": run.step,
        "done": min(done, 1.0),
        "loss": loss,
        "x0_error": sum(run.recent) / len(run.recent),
        "seconds_left": max(0.0, steps_left * seconds_per_step),
        "clips_per_second": run.settings.batch / seconds_per_step,
        "cpu_seconds": run.cpu_seconds,
    }


def _command(command: list[str] | None) -> str:
    return shlex.join(command if command is not None else sys.argv)


class _Stop:
    """Turns the first SIGINT or SIGTERM into a flag; a second one acts as usual."""

    def __init__(self) -> None:
        self.asked = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: the caller's own handling stays
                break
        return self

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        signal.signal(number, self._old[number])

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
