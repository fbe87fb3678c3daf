"""SIGKILL to real processes: after running again every clip is there once, every hash is that of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import kills
import pytest
from faulty_fs import CHANGING, FailAt, Hooked, MemoryFileSystem
from jobs import ROOT, assert_whole, run
from scenarios import BY_NAME

from gaitcrafter_rt.bulk import injection
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem

# In which scenario a step comes.
_WHERE = {"table": "a table that grows", "extent": "a table that grows", "aside": "damage to repair"}


def test_at_every_call(fast: Path) -> None:
    def killing(k: int) -> Hooked:
        count = 0

        def hook(name: str) -> None:
            nonlocal count
            count += name in CHANGING
            if count == k:
                os.kill(os.getpid(), signal.SIGKILL)

        return Hooked(LocalFileSystem(), hook)

    wanted = kills.whole()
    hook = FailAt(0, 0)
    run(ROOT, fs=Hooked(MemoryFileSystem(), hook))
    for k in range(1, hook.count + 1, 5):
        root = fast / str(k)
        child = os.fork()
        if child == 0:
            run(root, fs=killing(k))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        run(root)
        assert_whole(LocalFileSystem(), root, wanted)


@pytest.mark.parametrize("writers", [1, 2, 4])
def test_at_random_moments(fast: Path, writers: int) -> None:
    assert kills.at_random(fast / "job", writers, seed=writers, rounds=8)


@pytest.mark.parametrize("point", injection.POINTS)
def test_at_every_named_step(fast: Path, point: str) -> None:
    here = BY_NAME[_WHERE.get(point.partition(".")[0], "a new job")]
    assert kills.at_point(here, fast / "alone", point, 1)
    kills.at_point(here, fast / "beside", point, 2 if point.startswith(("block", "receipt", "shard")) else 1, beside=True)


def test_a_point_is_reached_in_a_process_of_its_own(fast: Path) -> None:
    """The variable does what the docs say."""
    script = f"import sys; sys.path[:0] = {sys.path!r}; from jobs import run; from pathlib import Path; run(Path(sys.argv[1]))"
    there = {**os.environ, injection.VARIABLE: "receipt.linked:2"}
    job = fast / "job"
    done = subprocess.run([sys.executable, "-c", script, str(job)], env=there, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((job / "receipts").glob("shard-*"))) == 2
    run(job)
    assert_whole(LocalFileSystem(), job, kills.whole())
