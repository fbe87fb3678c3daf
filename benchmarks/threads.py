"""What threads bring, in both modes: ``python benchmarks/threads.py --network walker``.

One clip by one thread against one clip by all of them (mode latency), and clips in a row by one thread against the same number of
clips by all (mode throughput), interleaved, by the wall clock, medians and the least of all rounds. The bits are compared first.
The paper-size network has random weights and predicts x0, so that all of its calls run in one precision; the walker is the model
that ships. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from memory import write_model

from gaitcrafter_rt import Engine
from gaitcrafter_rt.cli.bench import machine
from gaitcrafter_rt.models import resolve_model


def timed(engine: Engine, clips: int, call: dict[str, Any]) -> float:
    began = time.perf_counter()
    engine.generate([{}] * clips, **call)
    return time.perf_counter() - began


def compare(one: Engine, many: Engine, clips: int, rounds: int, call: dict[str, Any], mode: str) -> tuple[list[float], list[float]]:
    """Seconds of both engines, in turns, after one call of each that is checked and not timed."""
    call = {**call, "mode": mode}
    alone, together = one.generate([{}] * clips, **call), many.generate([{}] * clips, **call)
    if not np.array_equal(alone.packed, together.packed):
        raise SystemExit("the clips differ")
    pairs = [(timed(one, clips, call), timed(many, clips, call)) for _ in range(rounds)]
    return [a for a, _ in pairs], [b for _, b in pairs]


@click.command(help=__doc__)
@click.option("--network", type=click.Choice(["walker", "paper"]), default="walker", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--precision", default="bf16", show_default=True)
@click.option("--steps", default=4, show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--guidances", default="1,2", show_default=True, help="1 is none; with others a step takes two network calls.")
def main(network: str, threads: int, precision: str, steps: int, rounds: int, guidances: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) if network == "paper" else resolve_model("walker")
        if network == "paper":
            path = path / "model"
            write_model(path, "x0")
        one, many = Engine(path, precision=precision, threads=1), Engine(path, precision=precision, threads=threads)
        host = machine()
        click.echo(f"{network}, {precision}, {steps} steps; {host['cpu']}, {host['processors']} processors, load {host['load']}")
        click.echo(f"{'':26}{'1 thread s':>12}{f'{threads} threads s':>12}{'ratio':>8}{'least':>18}{'ratio':>8}")
        for guidance in (float(g) for g in guidances.split(",")):
            call = {"steps": steps, "guidance": guidance}
            for mode, clips in (("latency", 1), ("throughput", threads)):
                a, b = compare(one, many, clips, rounds, call, mode)
                label = f"{mode}, {clips} clip{'s' * (clips > 1)}{', guided' * (guidance != 1)}"
                medians, least = (statistics.median(a), statistics.median(b)), (min(a), min(b))
                click.echo(
                    f"{label:26}{medians[0]:12.4f}{medians[1]:12.4f}{medians[0] / medians[1]:8.2f}"
                    f"{least[0]:9.4f}{least[1]:9.4f}{least[0] / least[1]:8.2f}"
                )


if __name__ == "__main__":
    main()
