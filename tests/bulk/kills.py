"""Real processes on a real file system, killed with SIGKILL: at random moments, and at the named steps of the protocol."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from faulty_fs import MemoryFileSystem
from jobs import ROOT, assert_whole, run, shards
from scenarios import Scenario
from stub import StubEngine

from gaitcrafter_rt.bulk import injection
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem

MANY = {"clips": 60, "shard_clips": 16, "block_clips": 4}


def whole(**changes: Any) -> dict[str, bytes]:
    """The shards of an uninterrupted run."""
    fs = MemoryFileSystem()
    run(ROOT, fs=fs, **changes)
    return shards(fs, ROOT)


def at_random(root: Path, writers: int, seed: int, rounds: int = 12) -> int:
    """Whole runs, workers and all, killed again and again; then one that gets through. Returns how many were killed.

    Every second writer has worker processes. Raises AssertionError if anything is lost, doubled, other than it must be, or strange.
    """
    engine = StubEngine(before=lambda indices: time.sleep(0.04))  # a run takes longer than the first kill waits
    rng, killed = random.Random(seed), 0
    for _ in range(rounds):
        children = []
        for rank in range(writers):
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                with suppress(BaseException):
                    run(root, engine, workers=rank % 2, options={"rank": rank, "world_size": writers}, **MANY)
                os._exit(0)
            with suppress(OSError):
                os.setpgid(child, child)
            children.append(child)
        time.sleep(rng.uniform(0.01, 0.12))
        for child in children:
            # The supervisor alone dies in every other round; its workers must notice by themselves.
            with suppress(ProcessLookupError):
                (os.killpg if rng.random() < 0.5 else os.kill)(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    deadline = time.monotonic() + 60
    while run(root, **MANY).made or any(p.name.startswith(".tmp") or p.name in ("wip", "leases") for p in root.rglob("*")):
        # Workers whose supervisor was killed may still end their block.
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert_whole(LocalFileSystem(), root, whole(**MANY))
    return killed


def at_point(here: Scenario, root: Path, point: str, count: int, *, beside: bool = False) -> bool:
    """A run that dies when it reaches a named step for the ``count``-th time, then one that completes the job.

    ``beside``: another writer works on the same folder at the same time and lives on. Returns False if the step was not reached.
    """
    fs, local = LocalFileSystem(), dataclasses.replace(here, root=root)
    local.prepare(fs, local)  # type: ignore[arg-type]
    children = []
    for dies in (True, False) if beside else (True,):
        child = os.fork()
        if child == 0:
            if dies:
                os.environ[injection.VARIABLE] = f"{point}:{count}"
            code = 1
            with suppress(BaseException):
                local.act(fs)
                code = 0
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    local.finish(fs)
    local.assert_whole(fs)  # type: ignore[arg-type]
    assert codes[0] in (0, -signal.SIGKILL), codes
    assert codes[1:] in ([], [0]), codes
    return codes[0] == -signal.SIGKILL
