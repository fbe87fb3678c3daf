"""One network call of this engine beside its peers: both tables of docs/benchmarks.md, JSON and a chart, by one command.

    python benchmarks/peers.py                                # paper size, then the model that ships; make bench-peers
    python benchmarks/peers.py --network walker --rounds 3    # more rounds on top of those measured before
    python benchmarks/peers.py --report                       # tables and chart from what is stored

Every contestant runs in a process of its own. First each form of each peer alone, in a fresh process: output against the torch
network in double, peak memory, a trial time. Then the best form of each peer and all tiers of this engine, interleaved, round by
round, CPU seconds of one thread. Rounds are added to benchmarks/results/peers-NETWORK-PROCESSOR.json while machine, commit and
versions stay the same, so several short runs make one measurement; every processor has files and a chart of its own. Shares of the
limit count the operations of direct convolutions, whatever a contestant really does. Not timed: loading, compiling, packing
weights; in this engine also the time embedding and FiLM terms, which a run computes once, while peers compute them in every call
(below 0.1 % of the work).
"""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import contestants as field
from harness import host, tables
from harness.contestants import Contestant
from harness.results import Results
from harness.workers import Worker, WorkerError, in_process

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "build" / "peers"
IMAGES = ROOT / "docs" / "images"
DISTRIBUTIONS = ["torch", "openvino", "nncf", "onnxruntime"]
# An error above says that something else than this network was computed; how exact a peer is, the tables say. fp32 keeps
# five digits on random weights; bf16 has eight bits; int8 of a graph loses up to a quarter (docs/benchmarks.md).
BOUNDS = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.5}
LEAST_TIMED = 0.5  # CPU seconds of one measurement; shorter calls are repeated


def _made(name: str, folder: Path) -> None:
    from harness.networks import prepare

    prepare(name, folder)


def _identity(name: str) -> dict[str, Any]:
    from harness.descriptions import NETWORKS

    network = NETWORKS[name]
    return {
        "network": name, "title": network.title, "calibration": network.calibration, "host": host.host(), "commit": host.commit(),
        "versions": host.versions(DISTRIBUTIONS),
    }  # fmt: skip


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    """Relative L2 error; infinite for another shape or for values that are not finite."""
    if got.shape != want.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def checked(c: Contestant, folder: Path) -> dict[str, Any]:
    """A contestant alone in fresh processes: does it run, what does it lose, what does it need."""
    entry: dict[str, Any] = {
        "peer": c.peer, "engine": c.engine, "precision": c.precision, "form": c.form, "batch": c.batch, "state": "ok", "note": "",
    }  # fmt: skip
    if why := field.absence(c):
        return entry | {"state": "absent", "note": why}
    reference = np.load(folder / "reference.npy")[: c.batch]
    try:
        with Worker(field.load, c, folder) as worker:  # what is compiled for the first time is compiled here
            entry["error"] = relative_error(np.asarray(worker.output(), np.float64), reference)
        if not entry["error"] < BOUNDS[c.precision]:
            return entry | {"state": "failed", "note": f"relative error {entry['error']:.2e}, above {BOUNDS[c.precision]:g}"}
        with Worker(field.load, c, folder) as worker:
            worker.output()
            entry["peak_mb"] = worker.memory()
            once = worker.seconds()
            entry["trial"] = worker.seconds(repeats(once)) / c.batch
    except WorkerError as e:
        return entry | {"state": "failed", "note": str(e)}
    return entry


def repeats(seconds: float) -> int:
    return max(1, round(LEAST_TIMED / seconds))


def try_forms(results: Results, name: str, only: tuple[str, ...], folder: Path) -> None:
    from harness.descriptions import NETWORKS

    for c in field.field(name, NETWORKS[name].batches):
        entry = results.contestants.get(c.key)
        wanted = not only or any(fnmatch.fnmatch(c.key, f"*{pattern}*") for pattern in only)
        if not wanted or (entry is not None and entry["state"] == "ok"):
            continue
        began = time.monotonic()
        entry = results.contestants[c.key] = checked(c, folder)
        told = entry["note"] or f"error {entry['error']:.1e}, {entry['trial']:.4f} s, {entry['peak_mb']:.0f} MB"
        click.echo(f"  {c.key}: {entry['state']}, {told} ({time.monotonic() - began:.0f} s)", err=True)
        results.save()


def measure(results: Results, rounds: int, folder: Path, only: tuple[str, ...]) -> None:
    """``rounds`` calls of each peer's best form, by turns; each round starts with the core's limits and is stored."""
    keys = [k for k in results.best_forms() if not only or any(fnmatch.fnmatch(k, f"*{p}*") for p in only)]
    workers: dict[str, Worker] = {}
    try:
        for key in keys:
            c = results.contestants[key]
            tier = c["peer"].removeprefix(field.NATIVE + " ") if c["engine"] == field.NATIVE else ""
            workers[key] = Worker(field.load, Contestant(c["engine"], c["precision"], c["form"], c["batch"], tier), folder)
        for worker in workers.values():
            worker.output()  # warm
        for number in range(rounds):
            limits, seconds = host.limits(), {}
            turn = len(results.rounds) % max(1, len(keys))  # another one begins each round
            for key in keys[turn:] + keys[:turn]:
                c = results.contestants[key]
                seconds[key] = workers[key].seconds(repeats(c["trial"] * c["batch"])) / c["batch"]
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            results.rounds.append({"at": at, "load": round(os.getloadavg()[0], 2), "limits": limits, "seconds": seconds})
            results.save()
            click.echo(f"  round {number + 1} of {rounds}", err=True)
    finally:
        for worker in workers.values():
            worker.close()


def report(measured: list[Results]) -> None:
    for results in measured:
        click.echo(f"\n## {results.identity['network']}\n\n{tables.conditions(results)}\n\n{tables.comparison(results)}")
        click.echo(f"\nForms tried:\n\n{tables.forms(results)}")


def chart(measured: list[Results], path: Path | None) -> None:
    """Draws what one processor measured."""
    drawn = [r for r in measured if r.rounds]
    if path is None or not drawn:
        return
    try:
        from harness.chart import draw

        draw(drawn, path)
        click.echo(f"\nchart: {path}")
    except ImportError as e:
        click.echo(f"\nno chart: {e}; {field.INSTALL}", err=True)


def stored(where: Path, names: list[str], processor: str) -> dict[str, list[Results]]:
    """By processor, what ``where`` holds of these networks; of all processors if ``processor`` is "all"."""
    pattern = "*" if processor == "all" else processor
    found: dict[str, list[Results]] = {}
    for name in names:
        for path in sorted(where.glob(f"peers-{name}-{pattern}.json")):
            found.setdefault(path.stem.removeprefix(f"peers-{name}-"), []).append(Results.read(path))
    return found


def measured_now(name: str, where: Path, work: Path, rounds: int | None, only: tuple[str, ...], fresh: bool) -> Results:
    identity = _identity(name)
    path = where / f"peers-{name}-{host.machine(identity['host'])}.json"
    results = Results(path, identity, fresh)
    if results.dropped:
        click.echo(f"{path.name} is of another {', '.join(results.dropped)}: it starts anew", err=True)
    click.echo(f"{name}: preparing, then every form alone", err=True)
    folder = work / name
    in_process(_made, name, folder)
    results.gflop = field.gflop(folder)
    try_forms(results, name, only, folder)
    measure(results, rounds if rounds is not None else 3 if name == "paper" else 15, folder, only)
    return results


@click.command(help=__doc__)
@click.option("--network", type=click.Choice(["paper", "walker", "both"]), default="both", show_default=True)
@click.option(
    "--rounds", type=click.IntRange(0), help="Rounds to add; 0 checks and tries the forms alone.  [default: 3, walker 15]"
)
@click.option("--only", multiple=True, help="Contestants by shell pattern on their key; repeatable.  [default: all]")
@click.option("--fresh", is_flag=True, help="Forget stored rounds.")
@click.option("--report", "report_only", is_flag=True, help="Measure nothing, print what is stored.")
@click.option("--processor", help='Whose results --report prints, as files name it, or "all".  [default: this machine\'s]')
@click.option("--results", "where", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the JSON files.")
@click.option("--work", type=click.Path(path_type=Path), default=WORK, help="Folder of prepared graphs; kept.")
@click.option(
    "--chart", "image", type=click.Path(path_type=Path), help="PNG to draw.  [default: docs/images/peers-PROCESSOR.png for both]"
)
def main(
    network: str, rounds: int | None, only: tuple[str, ...], fresh: bool, report_only: bool, processor: str | None, where: Path,
    work: Path, image: Path | None,
) -> None:  # fmt: skip
    names = ["paper", "walker"] if network == "both" else [network]
    here = host.machine(host.host())
    if report_only:
        found = stored(where, names, processor or here)
        if not found:
            raise click.ClickException(f"{where} holds nothing of {processor or here}; --processor all prints what is there")
    else:
        found = {here: [measured_now(name, where, work, rounds, only, fresh) for name in names]}
    for name, measured in found.items():
        report(measured)
        default = IMAGES / f"peers-{name}.png" if network == "both" and where == RESULTS and not only else None
        chart(measured, image or default)


if __name__ == "__main__":
    main()
