"""Every op at every shape of both networks, alone, one thread, with its share of the core's limit: ``make bench``.

    python benchmarks/ops.py [--filter paper/bf16] [--min-time 0.05] [--program build/bench/benchmarks/ops_bench]

Runs benchmarks/native/ops_bench.cc (Google Benchmark, CPU time) and prints a table per network and precision; a shape that occurs
several times in a network is measured once. Shares count the operations of direct convolutions against the limit of the op's own
arithmetic, measured by the same program. Operands lie where the run before left them, mostly in the L2 and L3 cache; in a whole
call they are colder (gaitcrafter-rt bench latency --profile shows that).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import host
from harness.tables import table

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = [ROOT / "build" / name / "benchmarks" / "ops_bench" for name in ("bench", "release")]


def limits_of(measured: dict[str, Any]) -> dict[str, float]:
    """GFLOP/s by arithmetic."""
    return {k.removeprefix("limit_"): float(v) for k, v in measured["context"].items() if k.startswith("limit_")}


def rows_of(measured: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per benchmark of ops_bench's JSON; ``share`` is None for ops without products."""
    limits = limits_of(measured)
    to_seconds = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
    for b in measured["benchmarks"]:
        network, precision, op, size, channels, _node = b["name"].split("/")
        seconds = b["cpu_time"] * to_seconds[b["time_unit"]]
        limit = limits.get(b.get("label", ""))
        rate = b["operations"] / seconds / 1e9
        yield {
            "network": network, "precision": precision, "op": op, "size": size, "channels": int(channels), "seconds": seconds,
            "arithmetic": b.get("label", ""), "rate": rate, "share": rate / limit if limit and b["operations"] else None,
        }  # fmt: skip


def report(rows: list[dict[str, Any]]) -> str:
    blocks = []
    for (network, precision), group in groupby(rows, lambda r: (r["network"], r["precision"])):
        lines = [
            [
                r["op"], r["size"], str(r["channels"]), f"{1e6 * r['seconds']:,.1f}", r["arithmetic"],
                *(["", ""] if r["share"] is None else [f"{r['rate']:.0f}", f"{r['share']:.0%}"]),
            ]
            for r in group
        ]  # fmt: skip
        head = ("op", "pixels", "channels", "CPU us", "arithmetic", "GFLOP/s", "of the limit")
        blocks.append(f"{network}, {precision}\n\n{table(head, lines)}")
    return "\n\n".join(blocks)


@click.command(help=__doc__)
@click.option("--filter", "pattern", default="", help="Regular expression on NETWORK/PRECISION/OP/SIZE/CHANNELS.")
@click.option("--min-time", default=0.05, show_default=True, help="CPU seconds of each measurement, at least.")
@click.option("--program", type=click.Path(path_type=Path), help="ops_bench.  [default: of build/bench, else build/release]")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Keep Google Benchmark's JSON there.")
def main(pattern: str, min_time: float, program: Path | None, json_path: Path | None) -> None:
    found = [p for p in ([program] if program else PROGRAMS) if p.is_file()]
    if not found:
        raise click.ClickException(
            "ops_bench is not built; install Google Benchmark (Debian: libbenchmark-dev), then cmake --preset release "
            "-DGAITCRAFTER_BENCHMARKS=ON && cmake --build --preset release --target ops_bench"
        )
    command = [str(found[0]), "--benchmark_format=json", f"--benchmark_min_time={min_time}"]
    command += [f"--benchmark_filter={pattern}"] if pattern else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{found[0]} failed, exit code {done.returncode}\n{done.stderr[-2000:]}")
    if json_path:
        json_path.write_text(done.stdout)
    measured = json.loads(done.stdout)
    limits = ", ".join(
        f"{k.removeprefix('limit_')} {float(v):.0f}" for k, v in measured["context"].items() if k.startswith("limit_")
    )
    click.echo(f"{host.host()['cpu']}; limits of one core, GFLOP/s: {limits}; commit {host.commit()}\n")
    click.echo(report(list(rows_of(measured))))


if __name__ == "__main__":
    main()
