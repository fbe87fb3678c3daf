"""Short training probes of network shapes, on equal CPU time: ``python benchmarks/probe_shapes.py DATA --minutes 20``.

Each variant is trained from the same seed on the same batches; then the x0 error on held-out recordings is printed per range of
timesteps, with the right labels and with every clip's identity swapped for another's (the gap says how much identity is used).
One line of JSON per variant and checkpoint. The rate does not decay: a probe ranks starts, it is no whole training.
"""

from __future__ import annotations

import json
import time
from typing import Any

import click
import torch

from gaitcrafter_rt.config import ClipShape
from gaitcrafter_rt.data.packed import SPLIT_TEST, PackedClips
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.train import TrainSettings
from gaitcrafter_rt.train.batches import Batches
from gaitcrafter_rt.train.loop import build_run
from gaitcrafter_rt.train.settings import model_config
from gaitcrafter_rt.train.state import Run
from gaitcrafter_rt.train.step import train_step

VARIANTS: dict[str, dict[str, Any]] = {
    "frame-norm": {"unet": {"norm_scope": "frame"}},
    "clip-norm": {"unet": {"norm_scope": "clip"}},
    "input-maps": {"unet": {"norm_scope": "frame"}, "view": "input_map", "covariate": "input_map"},
    "width-48": {"unet": {"norm_scope": "frame", "dim": 48}},
    "two-blocks": {"unet": {"norm_scope": "frame", "blocks_per_level": 2}},
}
RANGES = ((0, 300), (300, 600), (600, 850), (850, 1000))


@torch.no_grad()
def held_out_error(run: Run, held: Batches, batches: int = 4) -> list[dict[str, float]]:
    """x0 error of the averaged weights per range of timesteps, labels right and identities swapped."""
    model = UNet3D(run.config)
    model.load_state_dict(run.ema.state_dict())
    rows = []
    for low, high in RANGES:
        right = swapped = 0.0
        for k in range(batches):
            batch = held.at(low + k)
            t = torch.randint(low, high, (held.batch,), generator=torch.Generator().manual_seed(k))
            x_t = run.schedule.add_noise(batch.x0, batch.noise, t)
            others = {**batch.labels, "identity": batch.labels["identity"].roll(1, 0)}
            right += (model(x_t, t, batch.labels).clamp(-1, 1) - batch.x0).square().mean().item() / batches
            swapped += (model(x_t, t, others).clamp(-1, 1) - batch.x0).square().mean().item() / batches
        rows.append({"from": low, "to": high, "x0_error": round(right, 5), "swapped": round(swapped, 5)})
    return rows


def probe(name: str, data: PackedClips, minutes: float, report_every: float) -> None:
    """Train one variant for ``minutes`` of CPU time on one thread."""
    settings = TrainSettings.checked(data=str(data.folder), out="unused", hours=minutes / 60, batch=8, ema=0.998, **VARIANTS[name])
    frames, height, width = data.meta.shape
    shape = ClipShape(frames=frames, height=height, width=width)
    run = build_run(settings, model_config(settings, data.labels, shape, data.meta.source, data.meta.terms, "probe"))
    batches = Batches(data, run.config, settings.batch, settings.seed, {"identity": 0.1, "view": 0.05, "covariate": 0.05})
    held = Batches(data, run.config, 16, 1, {}, SPLIT_TEST)
    spent, due = 0.0, report_every
    while spent < minutes * 60:
        began = time.process_time()
        for group in run.optimiser.param_groups:
            group["lr"] = group["base_lr"] * min(1.0, (run.step + 1) / (settings.warmup + 1))
        train_step(run, batches.at(run.step))
        run.step += 1
        run.ema.update(run.step)
        spent += time.process_time() - began
        if spent >= due or spent >= minutes * 60:
            due += report_every
            told = {"variant": name, "cpu_seconds": round(spent), "steps": run.step, "clips": run.step * settings.batch}
            print(json.dumps({**told, "held_out": held_out_error(run, held)}), flush=True)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.option("--minutes", default=20.0, show_default=True, help="CPU minutes of each variant.")
@click.option("--every", default=4.0, show_default=True, help="CPU minutes from one report to the next.")
@click.option("--variant", "names", multiple=True, type=click.Choice(list(VARIANTS)), help="Repeatable.  [default: all]")
def main(data: str, minutes: float, every: float, names: tuple[str, ...]) -> None:
    """Probe shapes on the packed set DATA (gaitcrafter-rt walkers render)."""
    torch.set_num_threads(1)
    for name in names or VARIANTS:
        probe(name, PackedClips.open(data), minutes, every * 60)


if __name__ == "__main__":
    main()
