"""Two commits on one machine: is B slower than A? One network call of one clip, in every tier, by turns.

    python benchmarks/compare.py main HEAD                      # both networks
    python benchmarks/compare.py v0.1.0 HEAD --network walker --rounds 30

Each commit is checked out into a git worktree under build/compare and its native module is built there (release preset, with
ccache where that is installed); both stay for the next time. Both load the same model packages. A round times A and B once each, in
CPU seconds of one thread, and another one goes first every time; what counts is the ratio of a round's two times.

Exit code 1 if a tier lost more than 5 % beyond the noise: if even the lower end of the 95 % range of the median ratio is above
1.05 (harness/stats.py), or a tier that A runs fails in B.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import contestants as field
from harness import host
from harness.contestants import NATIVE, TIERS, Contestant
from harness.descriptions import NETWORKS
from harness.stats import Verdict, verdict
from harness.tables import table
from harness.workers import Worker, WorkerError, in_process

ROOT = Path(__file__).resolve().parent.parent
TREES = ROOT / "build" / "compare"
LEAST_TIMED = 0.25  # CPU seconds of one measurement


class Row(NamedTuple):
    """One tier of one network; ``verdict`` is None where it was not timed, and ``note`` says why."""

    network: str
    tier: str
    verdict: Verdict | None
    note: str = ""
    broken: bool = False  # A ran it and B did not


def exit_code(rows: list[Row]) -> int:
    return int(any(row.broken or (row.verdict is not None and row.verdict.lost) for row in rows))


def report(rows: list[Row]) -> str:
    lines = []
    for r in rows:
        if r.verdict is None:
            lines.append([r.network, r.tier, "-", "-", r.note])
            continue
        told = "LOST" if r.verdict.lost else r.note or "ok"
        v = r.verdict
        lines.append(
            [r.network, r.tier, f"{100 * (v.ratio - 1):+.1f} %", f"{100 * (v.low - 1):+.1f} to {100 * (v.high - 1):+.1f} %", told]
        )
    return table(("network", "tier", "B against A", "95 % range", ""), lines)


def built(commit: str) -> Path:
    """The worktree of a commit with its native module."""
    full = _run("git", "-C", str(ROOT), "rev-parse", "--verify", f"{commit}^{{commit}}").strip()
    tree = TREES / full[:12]
    if not tree.exists():
        _run("git", "-C", str(ROOT), "worktree", "prune")
        _run("git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), full)
    ccache = [f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}"] if (ccache := shutil.which("ccache")) else []
    _run("cmake", "--preset", "release", f"-DPython_EXECUTABLE={sys.executable}", *ccache, cwd=tree)
    _run("cmake", "--build", "--preset", "release", "--target", "_gc_test", "-j", str(os.cpu_count()), cwd=tree)
    return tree


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}\n{(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


def load(tree: Path, tier: str, folder: Path) -> field.Run:
    """In a worker: the engine of ``tree`` on the packages of ``folder``."""
    os.environ["GAITCRAFTER_TEST_MODULE"] = str(tree / "tests" / "native")
    return field.native(Contestant(NATIVE, tier.partition("-")[0], tier=tier), folder)


def _prepared(name: str, folder: Path) -> None:
    from harness.networks import prepare

    prepare(name, folder, graphs=False)


def compared(trees: tuple[Path, Path], network: str, tier: str, rounds: int, folder: Path) -> Row:
    with Worker(load, trees[0], tier, folder) as a, Worker(load, trees[1], tier, folder) as b:
        try:
            want = a.output()
        except WorkerError as e:
            return Row(network, tier, None, f"not in A: {e}")
        try:
            got = b.output()
        except WorkerError as e:
            return Row(network, tier, None, f"not in B: {e}", broken=True)
        calls = max(1, round(LEAST_TIMED / a.seconds()))
        times: dict[Any, list[float]] = {a: [], b: []}
        for number in range(rounds):
            for worker in (a, b) if number % 2 == 0 else (b, a):
                times[worker].append(worker.seconds(calls))
        differ = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        return Row(network, tier, verdict(times[a], times[b]), "" if differ == 0 else f"outputs differ by {differ:.1e}")


@click.command(help=__doc__)
@click.argument("a")
@click.argument("b")
@click.option("--network", type=click.Choice([*NETWORKS, "both"]), default="both", show_default=True)
@click.option("--tiers", default=",".join(TIERS), show_default=True, help="With commas between them.")
@click.option("--rounds", type=click.IntRange(1), help="Default: 8, for the small network 30. Below 6 the range is the extremes.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=ROOT / "build" / "peers", help="Folder of prepared packages; kept."
)
def main(a: str, b: str, network: str, tiers: str, rounds: int | None, work: Path) -> None:
    trees = built(a), built(b)
    rows = []
    for name in NETWORKS if network == "both" else [network]:
        in_process(_prepared, name, work / name)
        for tier in tiers.split(","):
            rows.append(compared(trees, name, tier, rounds or (8 if name == "paper" else 30), work / name))
            click.echo(f"  {name} {tier}: done", err=True)
    click.echo(f"\nA {a} ({host.commit(trees[0])}), B {b} ({host.commit(trees[1])}), {host.host()['cpu']}\n\n{report(rows)}")
    sys.exit(exit_code(rows))


if __name__ == "__main__":
    main()
