"""The faults of tests/bulk, all of them: make torture. Its result goes into docs/reliability.md.

    python tests/bulk/torture.py                  # everything, some ten minutes on two cores
    python tests/bulk/torture.py --seconds 500    # part of it: exit code 75 until nothing is left; the same command goes on
    python tests/bulk/torture.py --fresh          # from the beginning

What is done is kept in build/torture.json, and done again when the package's or these tests' sources have changed.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import damage
import kills
import mutations
import sweeps
from mutation_list import MUTATIONS
from scenarios import BY_NAME, SCENARIOS, Scenario

from gaitcrafter_rt.bulk import injection

ROOT = Path(__file__).resolve().parent.parent.parent
STATE, PAGE = ROOT / "build" / "torture.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- torture: begin (written by make torture) -->", "<!-- torture: end -->"
KILLS = {1: 60, 2: 70, 4: 70}
SWEEPS = (
    "power cuts",
    "a death, a run, a power cut",
    "a slower writer and a power cut",
    "two writers interleaved",
    "failing calls",
    "two deaths and a power cut",
)
Found = dict[str, int]
"""What was tried, and how often."""


def sweep(here: Scenario) -> Found:
    """Every fault at every call of one small job."""
    found = dict.fromkeys(SWEEPS, 0)

    def every(what: str, fault: Callable[[int], bool]) -> None:
        k = 1
        while fault(k):
            found[what] += 1
            k += 1

    every(SWEEPS[0], lambda k: sweeps.power_cut(here, k, 0))
    every(SWEEPS[0], lambda k: sweeps.power_cut(here, k, k))
    every(SWEEPS[1], lambda k: sweeps.crash_run_power_cut(here, k, 0 if k % 3 else k))
    every(SWEEPS[2], lambda k: sweeps.overtaken(here, k, 0 if k % 2 else k))
    every(SWEEPS[3], lambda k: sweeps.interleaved(here, k))
    for error in (errno.EIO, errno.ENOSPC, errno.EACCES):
        for sticky in (False, True):
            every(SWEEPS[4], lambda k, e=error, s=sticky: sweeps.failing(here, k, e, sticky=s, cut=bool(k % 2)))  # type: ignore[misc]
    every(SWEEPS[4], lambda k: sweeps.failing(here, k, (errno.EIO, errno.EACCES)[k % 2], sticky=k % 4 > 1, reading=True))
    return found


def two_deaths() -> Found:
    """Every pair of moments in a repair at which two processes die one after the other, before the power fails."""
    here, count = BY_NAME["damage to repair"], 0
    for k in sweeps.moments(here)[:20]:
        for second in sweeps.moments(here):
            assert sweeps.crash_crash_power_cut(here, k, second, 0)
            count += 1
    return {SWEEPS[5]: count}


def random_kills(writers: int) -> Found:
    """SIGKILL at random moments until there are enough."""
    killed, seed = 0, 0
    while killed < KILLS[writers]:
        with _folder() as root:
            killed += kills.at_random(root / "job", writers, 1000 * writers + seed)
        seed += 1
    return {f"SIGKILL, writers: {writers}": killed}


def steps(kind: str) -> Found:
    """SIGKILL at the named steps of one kind, as often as it comes, alone and beside another writer."""
    where = {"table": "a table that grows", "extent": "a table that grows", "aside": "damage to repair"}
    found = 0
    for point in (p for p in injection.POINTS if p.startswith(f"{kind}.")):
        for beside in (False, True):
            for count in range(1, 10):
                with _folder() as root:
                    killed = kills.at_point(BY_NAME[where.get(kind, "a new job")], root / "job", point, count, beside=beside)
                found += killed
                if not killed:
                    break
            assert count > 1 or beside, f"{point} was never reached"
    return {"SIGKILL at a named step": found}


def mutation(number: int) -> Found:
    """One mutation."""
    outcome = mutations.try_one(MUTATIONS[number])
    assert outcome.caught, f"no test notices: {outcome.name}"
    return {"mutations caught": 1}


def pieces() -> dict[str, Callable[[], Found]]:
    """All there is to do, by name; what takes longest comes first."""
    kinds = dict.fromkeys(p.partition(".")[0] for p in injection.POINTS)
    return {
        "damage: 8 clips": damage.small,
        **{f"sweeps: {here.name}": partial(sweep, here) for here in SCENARIOS},
        "two deaths": two_deaths,
        "damage: a full shard": damage.full,
        **{f"kills: {writers}": partial(random_kills, writers) for writers in KILLS},
        **{f"steps: {kind}": partial(steps, kind) for kind in kinds},
        **{f"mutation: {m.name}": partial(mutation, number) for number, m in enumerate(MUTATIONS)},
    }


def one(name: str) -> tuple[str, dict[str, Any]]:
    """Do a piece; what came of it."""
    began, failed, found = time.monotonic(), "", {}
    try:
        found = pieces()[name]()
    except Exception as e:
        failed = f"{type(e).__name__}: {e}"[:500]
    return name, {"found": found, "failed": failed, "seconds": round(time.monotonic() - began, 1), "sources": of(name)}


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder in memory where there is one."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@cache
def sources(mutations: bool) -> str:
    """A hash of what is tested and of what tests it; only mutations run the tests themselves."""
    tested = [Path(m.__file__) for name, m in sys.modules.items() if name.startswith("gaitcrafter_rt.bulk") and m.__file__]
    names = {f"{name}.py" for name in ("faulty_fs", "jobs", "stub", "scenarios", "sweeps", "kills", "damage")}
    if mutations:
        names |= {"mutation_list.py", *(test for one in MUTATIONS for test in one.tests)}
    h = hashlib.sha256()
    for path in sorted([*tested, *(ROOT / "tests" / "bulk" / name for name in names)]):
        h.update(path.name.encode() + path.read_bytes())
    return h.hexdigest()


def commit() -> str:
    """Of the checkout, marked if it differs from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "gaitcrafter_rt/bulk", "tests/bulk")
    return (git("rev-parse", "--short=9", "HEAD") or "unknown") + (", changed" if changed else "")


def machine() -> str:
    """Processor, kernel, Python, pyarrow."""
    import pyarrow

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return (
        f"{os.cpu_count()} x {name}, {platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}, "
        f"pyarrow {pyarrow.__version__}"
    )


def table(state: dict[str, Any]) -> str:
    """The result for people: sums over the pieces, and what failed."""
    sums: dict[str, int] = {}
    for piece in state["done"].values():
        for what, count in piece["found"].items():
            sums[what] = sums.get(what, 0) + count
    failed = [f"{name}: {piece['failed']}" for name, piece in state["done"].items() if piece["failed"]]
    simulated = sum(sums.get(what, 0) for what in SWEEPS)
    killed = sum(count for what, count in sums.items() if what.startswith("SIGKILL"))
    seconds = sum(piece["seconds"] for piece in state["done"].values())
    lines = [
        f"{state['date']}, commit {state['commit']}, {state['machine']}; {seconds / 60:.0f} minutes.", "",
        "| | how many | |", "|---|---|---|",
        *(f"| {what} | {sums.get(what, 0):,} | simulated disk |" for what in SWEEPS),
        f"| all simulated faults | {simulated:,} | seeds: the number of the call, or none of the cache kept |",
        *(f"| {what} | {count:,} | real processes; seeds {1000 * int(what[-1])} and on |"
          for what, count in sums.items() if what.startswith("SIGKILL, writers")),
        f"| SIGKILL at a named step | {sums.get('SIGKILL at a named step', 0):,} | alone, and beside another writer |",
        f"| all kills | {killed:,} | |",
        *(f"| {what} | {count:,} | {damage.ABOUT[what]} |" for what, count in sums.items() if what in damage.ABOUT),
        f"| mutations caught | {sums.get('mutations caught', 0)} of {len(MUTATIONS)} | tests/bulk/mutation_list.py |", "",
        f"Failed: {'; '.join(failed) if failed else 'none'}.",
    ]  # fmt: skip
    return "\n".join(lines)


def record(state: dict[str, Any], page: Path = PAGE) -> None:
    """Put the table between its markers."""
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"{page} has no place for the result: {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n{table(state)}\n{END}{after}")


def of(name: str) -> str:
    """The sources that a piece's result is of."""
    return sources(name.startswith("mutation: "))


def load(fresh: bool) -> dict[str, Any]:
    """What was done for these sources; nothing of what has changed."""
    done = {} if fresh or not STATE.exists() else json.loads(STATE.read_text())["done"]
    return {"done": {name: piece for name, piece in done.items() if piece["sources"] == of(name)}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing new after that")
    parser.add_argument("--fresh", action="store_true", help="forget what was done")
    parser.add_argument("--only", default="", help="pieces whose name begins so")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args()
    state, began = load(options.fresh), time.monotonic()
    state |= {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "commit": commit(), "machine": machine()}
    STATE.parent.mkdir(exist_ok=True)
    todo = [name for name in pieces() if name not in state["done"] and name.startswith(options.only)]
    running: set[Future[Any]] = set()
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
        while todo or running:
            late = time.monotonic() - began > options.seconds
            while todo and len(running) < options.jobs and not late:
                running.add(pool.submit(one, todo.pop(0)))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for name, piece in (future.result() for future in done):
                counts = ", ".join(f"{count} {what}" for what, count in piece["found"].items())
                print(f"{name}: {piece['failed'] or counts}  ({piece['seconds']:.0f} s)", flush=True)
                state["done"][name] = piece
                sound = {k: v for k, v in state["done"].items() if not v["failed"]}
                STATE.write_text(json.dumps({**state, "done": sound}, indent=1))
    if todo:
        print(f"{len(todo)} pieces are left; the same command goes on")
        return 75
    if not options.only:
        record(state)
        print(table(state))
    return 1 if any(piece["failed"] for piece in state["done"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
