"""Whole clips, noise to packed bits, through the public engine.

    pytest benchmarks/bench_clips.py                     # pytest-benchmark: steps and precisions of walker
    python benchmarks/bench_clips.py                     # clips per second and core, clips per night, the paper's size beside it
    python benchmarks/bench_clips.py --network paper --calls 1,4

Times are CPU seconds of the process, all threads: conditions, noise, network calls, sampler, packing. Opening the model is not in
them, nor is drawing or saving. The table is measured with a clip on every core at the same time, so that what cores take from each
other (memory, shared cache) is in it; a night is ten hours. A clip at n calls is n steps of the sampler with guidance 1; guidance
doubles the calls of a step. "own" is the model's own sampler at its own steps and guidance, as users get it; walker-fast learned no
other. walker and walker-fast are the packages that ship; the paper's size needs the extra train.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import host
from harness.tables import table
from harness.workers import in_process

from gaitcrafter_rt import Engine
from gaitcrafter_rt.errors import CapabilityError
from gaitcrafter_rt.models import resolve_model
from gaitcrafter_rt.package import read_config

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "peers"
PRECISIONS = ("fp32", "bf16", "int8")
CALLS = ("1", "2", "4", "8", "20", "own")
MODELS = ("walker-fast", "walker")  # what ships; the same network with other weights
NIGHT = 36_000  # seconds


def prepared(name: str, folder: Path) -> None:
    from harness.networks import prepare

    prepare(name, folder, graphs=False)


def open_engine(network: str, precision: str, threads: int, work: Path = WORK) -> Engine:
    """Raises CapabilityError where the processor lacks the precision."""
    if network in MODELS:
        return Engine(resolve_model(network), precision=precision, threads=threads)
    folder = work / network
    in_process(prepared, network, folder)
    return Engine(folder / ("int8" if precision == "int8" else "model"), precision=precision, threads=threads)


def conditions(engine: Engine, clips: int) -> list[dict[str, Any]]:
    """The first labels of every axis, by turns; nothing where there are none."""
    vocabulary = engine.vocabulary
    axes = [a for a, names in vocabulary.labels.items() if names and vocabulary.usable[a]]
    return [{a: k % len(vocabulary.labels[a]) for a in axes} for k in range(clips)]


@pytest.fixture(params=PRECISIONS)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    try:
        with open_engine("walker", request.param, threads=1) as opened:
            yield opened
    except CapabilityError as e:
        pytest.skip(str(e))


@pytest.mark.parametrize("steps", [int(n) for n in CALLS if n != "own"])
@pytest.mark.benchmark(timer=time.process_time)
def test_whole_clip(benchmark: Any, engine: Engine, steps: int) -> None:
    benchmark.group = f"one clip, {steps} calls"
    benchmark.extra_info.update(host.host(), commit=host.commit(), precision=engine.info["precision"], steps=steps)
    settings = {"steps": steps, "guidance": 1.0}
    clip = benchmark.pedantic(engine.generate, (conditions(engine, 1),), settings, rounds=8, warmup_rounds=1)
    assert clip.frames.any()


def settings_of(network: str, calls: str) -> tuple[dict[str, Any], int]:
    """The sampler's settings for so many network calls, or for the model's own ones ("own"), and how many calls that is."""
    if calls != "own":
        return {"steps": int(calls), "guidance": 1.0}, int(calls)
    own = read_config(resolve_model(network)).sampler
    return {}, own.steps * (1 if own.guidance == 1 else 2)


def measured(engine: Engine, settings: dict[str, Any], clips: int) -> float:
    """CPU seconds per clip of one run that keeps every thread busy."""
    begin = time.process_time()
    engine.generate(conditions(engine, clips), **settings)
    return (time.process_time() - begin) / clips


def clips_of(network: str, calls: int, threads: int) -> int:
    """Clips of one run: the same number for every thread, and a second or so of work for the small network."""
    return threads * (1 if network == "paper" else max(1, 40 // calls))


def measure(network: str, precisions: list[str], calls: list[str], rounds: int, threads: int, work: Path) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    engines = {}
    for precision in precisions:
        try:
            engines[precision] = open_engine(network, precision, threads, work)
        except CapabilityError as e:
            click.echo(f"  {network} {precision}: {e}", err=True)
    for engine in engines.values():
        measured(engine, settings_of(network, "1")[0], threads)  # the first call packs and maps
    for number in range(rounds):
        for n in calls:
            for precision, engine in engines.items():
                settings, count = settings_of(network, n)
                start = {"network": network, "precision": precision, "calls": count, "own": n == "own", "isa": engine.info["isa"]}
                row = rows.setdefault((precision, n), {**start, "cpu_s": []})
                row["cpu_s"].append(measured(engine, settings, clips_of(network, count, threads)))
        click.echo(f"  {network}: round {number + 1} of {rounds}", err=True)
    for engine in engines.values():
        engine.close()
    return [rows[p, n] for p in engines for n in calls]


def report(rows: list[dict[str, Any]]) -> str:
    lines = []
    for r in rows:
        seconds = statistics.median(r["cpu_s"])
        spread = f"{min(r['cpu_s']):.4g} to {max(r['cpu_s']):.4g}"
        rates = [f"{1 / seconds:.3g}", f"{2 * NIGHT / seconds:,.0f}"]
        calls = f"{r['calls']}, own sampler" if r.get("own") else str(r["calls"])
        lines.append([r["network"], r["precision"], calls, f"{seconds:.4g}", spread, *rates])
    head = ("network", "precision", "calls", "CPU s a clip", "least to most", "clips/s and core", "clips a night on 2 cores")
    return table(head, lines)


@click.command(help=__doc__)
@click.option("--network", type=click.Choice([*MODELS, "paper", "all"]), default="all", show_default=True)
@click.option("--precisions", default=",".join(PRECISIONS), show_default=True, help="Of the small network; paper: bf16 alone.")
@click.option("--calls", default=",".join(CALLS), show_default=True, help="Network calls of a clip.")
@click.option("--rounds", type=click.IntRange(1), help="Default: 5; paper 1.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Folder of prepared packages; kept.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the samples there.")
def main(network: str, precisions: str, calls: str, rounds: int | None, work: Path, json_path: Path | None) -> None:
    threads = len(os.sched_getaffinity(0))
    rows = []
    for name in [*MODELS, "paper"] if network == "all" else [network]:
        small = name in MODELS
        chosen = precisions.split(",") if small else ["bf16"]
        counts = [n for n in calls.split(",") if small or n != "own"]  # the paper's size has no sampler of its own
        rows += measure(name, chosen, counts, rounds or (5 if small else 1), threads, work)
    where = {"host": host.host(), "commit": host.commit(), "threads": threads}
    click.echo(f"\n{where['host']['cpu']}, commit {where['commit']}; {threads} threads, a clip on each\n\n{report(rows)}")
    if json_path:
        json_path.write_text(json.dumps({**where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
