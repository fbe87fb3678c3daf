"""``gaitcrafter-rt bench``."""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidRequestError
from .common import SAMPLERS, console, json_option, print_json, progress, split_list, whole_numbers


@click.group()
def bench() -> None:
    """Measure this machine."""


@bench.command()
@click.option("--model", default="walker", show_default=True, help="Model folder, or the name of a model that ships.")
@click.option("--steps", default="4,8,20", show_default=True, help="Sampler steps, with commas between them.")
@click.option("--threads", default="1", show_default=True, help="Threads of the engine, with commas between them.")
@click.option("--precision", default="auto", show_default=True, help="Precisions, with commas between them.")
@click.option("--mode", "modes", default="auto", show_default=True,
              help="auto, throughput (a clip is one thread's) or latency (a clip is all threads'), with commas between them; "
                   "auto is latency here, where clips are made one by one.")  # fmt: skip
@click.option("--sampler", type=click.Choice(SAMPLERS), help="Sampler.  [default: the model's]")
@click.option("--guidance", type=float, help="Guidance scale.  [default: the model's]")
@click.option("--repeats", default=20, show_default=True, help="Warm clips per setting.")
@click.option("--profile", "profiled", is_flag=True, help="Print time and share of the cores' limit per op and resolution.")
@json_option
def latency(
    model: str, steps: str, threads: str, precision: str, modes: str, profiled: bool, as_json: bool, **options: Any
) -> None:
    """Time one clip from noise to packed bits.

    Cold is the first clip of a fresh engine, warm the clips after it; p50, p90 and p99 are over the warm ones. Opening the model
    is its own column, beside where its packed weights came from: the cache, a cache file written now, or memory. Times are by the
    wall clock, so other work on the machine shows in them; "cpu" is processor time of all threads per warm clip. Drawing and
    saving are not in them.

    \b
    gaitcrafter-rt bench latency --steps 4,20 --threads 1,2
    gaitcrafter-rt bench latency --steps 4 --threads 2 --mode throughput,latency
    gaitcrafter-rt bench latency --steps 4 --profile
    """
    repeats = options.pop("repeats")
    if not 1 <= repeats <= 100_000:
        raise InvalidRequestError(f"--repeats must lie in 1..100000, got {repeats}")
    settings = [
        (p, t, m, s)
        for p in split_list([precision])
        for t in whole_numbers(threads, "--threads")
        for m in split_list([modes])
        for s in whole_numbers(steps, "--steps")
    ]
    rows = []
    with progress("timing", "settings", show=not as_json) as update:
        for number, (p, t, m, s) in enumerate(settings):
            rows.append(_measure(model, p, t, m, s, repeats, options, profiled))
            update(number + 1, len(settings))
    result = {"machine": machine(), "model": rows[0].pop("model"), "repeats": repeats, "rows": rows}
    for row in rows[1:]:
        row.pop("model")
    if as_json:
        print_json(result)
    else:
        _show(result)


def _measure(
    model: str, precision: str, threads: int, mode: str, steps: int, repeats: int, options: dict[str, Any], profiled: bool
) -> dict[str, Any]:
    from ..engine import Engine
    from .profile_table import profile

    began = time.perf_counter()
    engine = Engine.from_pretrained(model, precision=precision, threads=threads)
    opened = time.perf_counter() - began
    labels = engine.vocabulary
    condition = {a: 0 for a in ("identity", "view", "covariate") if labels.usable[a] and labels.labels[a]}
    call = {"steps": steps, "mode": mode, "sampler": options["sampler"], "guidance": options["guidance"]}
    times, cpu = [], 0.0
    for number in range(repeats + 1):
        cpu_before, before = time.process_time(), time.perf_counter()
        engine.generate([condition], seed=0, start=number, **call)
        times.append(time.perf_counter() - before)
        cpu += (time.process_time() - cpu_before) if number else 0.0
    info = engine.info
    warm = sorted(times[1:])
    cores = 1 if mode == "throughput" else info["threads"]
    found = {"profile": profile(engine, condition, repeats, cores, call)} if profiled else {}
    engine.close()
    return {
        "model": {"name": info["name"], "sha256": info["model_sha256"], "flops_per_call": info["flops_per_call"]},
        "steps": steps, "threads": threads, "mode": mode, "precision": info["precision"], "isa": info["isa"],
        "open_s": opened, "weights_from": info["weights_from"], "cold_s": times[0],
        "p50_s": percentile(warm, 50), "p90_s": percentile(warm, 90), "p99_s": percentile(warm, 99), "cpu_s": cpu / repeats,
        **found,
    }  # fmt: skip


def percentile(ordered: list[float], percent: float) -> float:
    """Nearest rank: the smallest value that at least ``percent`` % of the values do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def machine() -> dict[str, Any]:
    """What the times depend on."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "cpu": name,
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": _load(),
    }


def _load() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _show(result: dict[str, Any]) -> None:
    from rich.table import Table

    from .profile_table import show_profile

    host = result["machine"]
    out = console()
    where = f"{host['cpu']}, {host['processors']} processors, load {host['load']}"
    out.print(f"{result['model']['name']} on {where}; {result['rows'][0]['isa']}; {result['repeats']} warm clips; milliseconds")
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("steps", "threads", "mode", "precision", "open", "weights", "cold", "p50", "p90", "p99", "cpu"):
        table.add_column(name, justify="left" if name in ("mode", "precision", "weights") else "right", no_wrap=True)
    for row in result["rows"]:
        opened, *numbers = [f"{1000 * row[key]:.1f}" for key in ("open_s", "cold_s", "p50_s", "p90_s", "p99_s", "cpu_s")]
        setting = (str(row["steps"]), str(row["threads"]), row["mode"], row["precision"])
        table.add_row(*setting, opened, row["weights_from"], *numbers)
    out.print(table)
    for row in result["rows"]:
        if "profile" in row:
            name = f"{row['steps']} steps, {row['threads']} threads, mode {row['mode']}, {row['precision']} {row['isa']}"
            show_profile(name, row["profile"])
