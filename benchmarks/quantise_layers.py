"""Which convolutions of a model may run in int8 and which should stay in bf16, by measurement on the model itself.

    python benchmarks/quantise_layers.py [--model walker] [--clips 64] [--json FILE]

1. Calibrates every 3x3 convolution of the ResNet blocks (gaitcrafter_rt.quantise); --as-is takes the ranges that the model has.
2. One by one: the network with that convolution alone in int8 and the rest in bf16, on noised clips of the timesteps of a
   default run; relative L2 error against the fp32 tier, and what the convolution adds to the error of bf16.
3. Whole runs at the model's default sampler from the same noise against fp32: mean and 1st percentile of IoU, flips at edges and
   inside. All convolutions in int8 first; while the goal (--mean, --p1) is missed, the one that adds most error per multiplication
   goes back to bf16, and --further more of them to show what that would bring.

Prints tables and the --exclude list for `gaitcrafter-rt quantise`. Needs the extra train and a processor with avx512_bf16 and
avx512_vnni.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from gaitcrafter_rt import Engine
from gaitcrafter_rt.config import ModelConfig, Quantisation, resnet_convolutions
from gaitcrafter_rt.evaluate.agreement import Agreement, agreement
from gaitcrafter_rt.models import resolve_model
from gaitcrafter_rt.package import read_config, read_stored_weights, write_package
from gaitcrafter_rt.quantise import quantise_model
from gaitcrafter_rt.quantise.runs import Choice, spread_conditions
from gaitcrafter_rt.ranges import HIGH, LOW
from gaitcrafter_rt.samplers.noise_reference import normals
from gaitcrafter_rt.samplers.schedule import alphas_cumprod, spaced_timesteps

SEED = 1_000_003  # of the measured clips; calibration draws others


class Trial:
    """A calibrated model of which any choice of convolutions can run in int8."""

    def __init__(self, calibrated: Path, scratch: Path) -> None:
        self.config = read_config(calibrated)
        self.weights = read_stored_weights(calibrated)
        assert self.config.quantisation is not None
        self.layers = self.config.quantisation.layers
        self._scratch = scratch
        self._made = 0

    def engine(self, layers: list[str], precision: str, threads: int = 1) -> Engine:
        """The model with ranges for ``layers`` alone."""
        self._made += 1
        others = {name + end for name in self.layers if name not in layers for end in (LOW, HIGH)}
        kept = Quantisation(layers=layers) if layers else None
        config = ModelConfig.model_validate({**dict(self.config), "format_version": 2, "quantisation": kept})
        weights = {k: v for k, v in self.weights.items() if k not in others}
        folder = write_package(self._scratch / str(self._made), config, weights, "")
        return Engine(folder, precision=precision, threads=threads)


class Forward:
    """Inputs as a run meets them, clean clips under noise, and what the fp32 tier answers."""

    def __init__(self, trial: Trial, clips: np.ndarray, conditions: list[Choice]) -> None:
        config = trial.config
        d, s = config.diffusion, config.sampler
        timesteps = spaced_timesteps(s.kind, s.spacing, s.steps, d.timesteps)
        bars = alphas_cumprod(d.schedule, d.timesteps)
        x, t, rows = [], [], []
        for k, clip in enumerate(clips):
            for at in timesteps[k % 4 :: 4]:
                noise = normals(SEED, k, 1 + int(at), clip.size).reshape(clip.shape)
                clean = 2 * clip.astype(np.float32) - 1
                x.append(bars[at] ** 0.5 * clean[None] + (1 - bars[at]) ** 0.5 * noise[None])
                t.append(int(at))
                rows.append(conditions[k])
        self._input = np.array(x, np.float32), np.array(t), {a: _sparse(rows, a) for a in conditions[0]}
        with trial.engine([], "fp32") as engine:
            self._want = self._answer(engine)

    def _answer(self, engine: Engine) -> np.ndarray:
        return np.asarray(engine._native.forward(*self._input), np.float64)

    def error(self, engine: Engine) -> float:
        """Relative L2 over all inputs."""
        return float(np.linalg.norm(self._answer(engine) - self._want) / np.linalg.norm(self._want))


def _sparse(rows: list[Choice], axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    given = [[] if row[axis] is None else [row[axis]] for row in rows]
    labels = np.array([i for one in given for i in one], np.int64)
    return np.cumsum([0] + [len(one) for one in given]), labels, np.ones(len(labels), np.float32)


def multiplications(config: ModelConfig) -> dict[str, int]:
    """Per convolution and frame."""
    import torch

    from gaitcrafter_rt.nn.unet import UNet3D

    with torch.device("meta"):
        net = UNet3D(config)
    u = config.unet
    size = config.clip.height * config.clip.width // u.patch**2
    levels = len(u.dim_mults)
    found = {}
    for name in resnet_convolutions(u):
        part, number = name.split(".")[:2]
        level = {"downs": lambda n: int(n), "ups": lambda n: levels - 1 - int(n)}.get(part, lambda _n: levels - 1)(number)
        pixels = size if part == "final_block" else size // 4**level
        found[name] = pixels * net.get_submodule(name).weight.numel()
    return found


def sensitivity(trial: Trial, forward: Forward) -> list[dict[str, Any]]:
    """One row per convolution, the most harmful per multiplication first."""
    work = multiplications(trial.config)
    with trial.engine([], "bf16") as engine:
        bf16 = forward.error(engine)
    rows = []
    for layer in trial.layers:
        with trial.engine([layer], "int8") as engine:
            error = forward.error(engine)
        added = max(error**2 - bf16**2, 0.0) ** 0.5
        rows.append({"layer": layer, "share": work[layer] / sum(work.values()), "error": error, "added": added})
        click.echo(".", nl=False, err=True)
    click.echo("", err=True)
    return sorted(rows, key=lambda r: r["added"] ** 2 / r["share"], reverse=True)


def choose(
    trial: Trial, reference: np.ndarray, conditions: list[Choice], order: list[str], goal: tuple[float, float], further: int,
    threads: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Whole runs while convolutions leave in ``order``, until the goal is met and ``further`` times more."""
    rows: list[dict[str, Any]] = []
    for excluded in range(len(order)):
        layers = [name for name in trial.layers if name not in order[:excluded]]
        found = whole_runs(trial, layers, "int8", reference, conditions, threads)
        reached = found.iou_mean >= goal[0] and found.iou_p1 >= goal[1]
        rows.append({"excluded": order[:excluded], "reached": reached, **found.to_dict()})
        if sum(r["reached"] for r in rows) > further:
            break
    return rows


def whole_runs(
    trial: Trial, layers: list[str], precision: str, reference: np.ndarray, conditions: list[Choice], threads: int
) -> Agreement:
    with trial.engine(layers, precision, threads) as engine:
        return agreement(reference, engine.generate(conditions, seed=SEED).frames)


@click.command()
@click.option("--model", default="walker", show_default=True, help="Model folder, or the name of a model that ships.")
@click.option("--clips", default=64, show_default=True, help="Clips of the whole runs.")
@click.option("--calibration-clips", default=16, show_default=True)
@click.option("--percentile", default=100.0, show_default=True)
@click.option("--as-is", is_flag=True, help="Take the ranges that the model carries.")
@click.option("--mean", default=0.98, show_default=True, help="Goal: mean IoU.")
@click.option("--p1", default=0.95, show_default=True, help="Goal: 1st percentile of IoU.")
@click.option("--further", default=2, show_default=True, help="Convolutions to exclude beyond the goal.")
@click.option("--threads", default=1, show_default=True, help="Threads of whole runs.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures there.")
def main(
    model: str, clips: int, calibration_clips: int, percentile: float, as_is: bool, mean: float, p1: float, further: int,
    threads: int, json_path: Path | None,
) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = resolve_model(model)
        if not as_is:
            folder = quantise_model(folder, Path(scratch) / "all", clips=calibration_clips, percentile=percentile).folder
        trial = Trial(folder, Path(scratch))
        if trial.config.sampler.eta != 0 or trial.config.unet.channels != 1 or trial.config.conditioning.cond_dim:
            sys.exit("this measures deterministic runs of models with label tables and one channel (eta 0, no cond vector)")
        conditions = spread_conditions(trial.config, clips, SEED)
        with trial.engine([], "fp32", threads) as engine:
            reference = engine.generate(conditions, seed=SEED).frames
            isa = engine.info["isa"]
        forward = Forward(trial, (reference != 0)[:16], conditions)
        with trial.engine(trial.layers, "int8") as engine:
            together = forward.error(engine)
        with trial.engine([], "bf16") as engine:
            alone = forward.error(engine)
        rows = sensitivity(trial, forward)
        bf16 = whole_runs(trial, [], "bf16", reference, conditions, threads)
        runs = choose(trial, reference, conditions, [r["layer"] for r in rows], (mean, p1), further, threads)
    result = {
        "model": trial.config.name, "isa": isa, "clips": clips, "calibration": trial.config.quantisation.model_dump(),
        "forward": {"bf16": alone, "int8": together}, "layers": rows, "bf16": bf16.to_dict(), "int8": runs,
    }  # fmt: skip
    report(result, (mean, p1))
    if json_path:
        json_path.write_text(json.dumps(result, indent=2) + "\n")


def report(result: dict[str, Any], goal: tuple[float, float]) -> None:
    s = result["calibration"]
    click.echo(f"{result['model']}, {result['isa']}; ranges from {s['clips']} clips: {s['method']}")
    click.echo("\nOne network call, relative L2 error against fp32. added: sqrt(error^2 - bf16's error^2); share: of the")
    click.echo("multiplications of these convolutions\n")
    click.echo(f"bf16 {result['forward']['bf16']:.5f}, all in int8 {result['forward']['int8']:.5f}\n")
    click.echo("| the only convolution in int8 | error | added | share |\n|---|---|---|---|")
    for r in result["layers"]:
        click.echo(f"| {r['layer']} | {r['error']:.5f} | {r['added']:.5f} | {r['share']:.1%} |")
    click.echo(f"\n{result['clips']} whole runs against fp32; flips per million pixels\n")
    click.echo("| | mean IoU | 1st percentile | least | edge flips | interior flips |\n|---|---|---|---|---|---|")
    for name, r in [("bf16", result["bf16"])] + [(f"int8 without {len(r['excluded'])}", r) for r in result["int8"]]:
        flips = f"{1e6 * r['edge_flips']:.0f} | {1e6 * r['interior_flips']:.1f}"
        click.echo(f"| {name} | {r['iou_mean']:.4f} | {r['iou_p1']:.4f} | {r['iou_min']:.4f} | {flips} |")
    chosen = next((r for r in result["int8"] if r["reached"]), None)
    click.echo(f"\ngoal: mean {goal[0]}, 1st percentile {goal[1]}")
    if chosen is None:
        click.echo("not reached, whatever is excluded")
    else:
        click.echo(
            "reached with --exclude " + ",".join(chosen["excluded"]) if chosen["excluded"] else "reached with nothing excluded"
        )


if __name__ == "__main__":
    main()
