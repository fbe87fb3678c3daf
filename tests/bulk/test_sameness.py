"""The native engine under a job: the same bytes for any processes, ranks, order and resume point; one instruction set per plan."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from gaitcrafter_rt.bulk import Grid, Request, open_or_create, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.interrupts import Interrupt
from gaitcrafter_rt.bulk.machine import offered, open_engine
from gaitcrafter_rt.bulk.opening import OpenJob
from gaitcrafter_rt.bulk.verify import verify
from gaitcrafter_rt.bulk.worker import Worker

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny-walker"
FS = LocalFileSystem()

try:
    import gaitcrafter_rt._native  # noqa: F401
except ImportError:
    pytest.skip("the native engine is not built in this tree", allow_module_level=True)


def opened(root: Path, threads: int = 1) -> tuple[OpenJob, object]:
    engine = open_engine(MODEL, None, threads=threads)
    return open_or_create(
        FS, root, Request(Grid(view=["000", "090"]), 40, 7, sampler={"steps": 2}, shard_clips=8, block_clips=4), engine
    ), engine


def shards(root: Path) -> dict[str, bytes]:
    assert verify(root, deep=True).ok
    return {p.name: p.read_bytes() for p in sorted((root / "shards").iterdir())}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("same") / "job"
    job, engine = opened(root)
    assert run_job(job, engine).complete  # type: ignore[arg-type]
    assert len(shards(root)) == 5
    return shards(root)


@pytest.mark.parametrize(("workers", "threads"), [(1, 2), (2, 1), (3, 1)])
def test_any_number_of_processes(tmp_path: Path, wanted: dict[str, bytes], workers: int, threads: int) -> None:
    job, engine = opened(tmp_path / "job", threads)
    assert run_job(job, engine, workers=workers).complete  # type: ignore[arg-type]
    assert shards(tmp_path / "job") == wanted


def test_two_ranks_at_once(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    children = []
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            job, engine = opened(tmp_path / "job")
            os._exit(run_job(job, engine, rank=rank, world_size=2).exit_code)  # type: ignore[arg-type]
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert shards(tmp_path / "job") == wanted


def test_any_order_of_shards(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    for seed in range(3):
        root = tmp_path / str(seed)
        job, engine = opened(root)
        for number in random.Random(seed).sample(range(5), 5):
            assert Worker(FS, job, engine).run_shard(number).done is not None  # type: ignore[arg-type]
        assert shards(root) == wanted


def test_any_resume_point(tmp_path: Path, wanted: dict[str, bytes]) -> None:
    """Stopped after every block and begun again, until nothing is left."""
    root, runs = tmp_path / "job", 0
    while True:
        job, engine = opened(root)
        interrupt = Interrupt()
        result = run_job(job, engine, interrupt=interrupt, report=lambda s, i=interrupt: s.clips % 8 and i.request())  # type: ignore
        interrupt.close()
        runs += 1
        if result.complete:
            break
        assert result.exit_code == 75
    assert runs > 4
    assert shards(root) == wanted


@pytest.mark.parametrize(("plans", "other"), [("avx2", "avx512"), ("avx512", "avx2")])
def test_workers_of_two_instruction_sets_on_one_plan(tmp_path: Path, plans: str, other: str) -> None:
    """Two machines of a mixed fleet begin together: one of them plans, and the other kind is refused before it makes a clip."""
    if not {"avx2", "avx512"} <= set(offered()):
        pytest.skip(f"this processor offers {offered()}; both avx2 and avx512 are needed")
    out = tmp_path / "job"
    command = [sys.executable, "-m", "gaitcrafter_rt", "generate", str(out), "--model", str(MODEL), "--steps", "2", "--n", "24",
               "--block-clips", "4", "--workers", "1", "--precision", "fp32"]  # fmt: skip

    def begin(tier: str, **environment: str) -> subprocess.Popen[str]:
        given = [] if environment else ["--isa", tier]
        return subprocess.Popen([*command, *given], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)

    first = begin(plans)
    while not (out / "plan.json").exists():
        assert first.poll() is None
    refused = [begin(other), begin(other, GAITCRAFTER_ISA=other)]
    for process in refused:
        _, error = process.communicate()
        assert process.returncode == 6, error
        assert f"made with the instruction set {plans} in fp32" in error
        assert f"would use {other}" in error
    _, error = first.communicate()
    assert first.returncode == 0, error
    assert begin(plans).wait() == 0
    report = verify(out, deep=True, recompute=6, engine=open_engine(MODEL, None, isa=plans, precision="fp32"))
    assert (report.ok, report.recomputed) == (True, 6)
