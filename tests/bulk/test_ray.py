"""The Ray backend: its two sides without Ray, and a real local cluster whose actors are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_fs import MemoryFileSystem
from jobs import ROOT, assert_whole, open_small, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk import DiskFullError, TooManyFailedError, run_job
from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
from gaitcrafter_rt.bulk.interrupts import Interrupt
from gaitcrafter_rt.bulk.layout import Folder
from gaitcrafter_rt.bulk.ray_backend import RayBackend, _Run
from gaitcrafter_rt.bulk.ray_worker import OpenModel, ShardWorker, typed
from gaitcrafter_rt.bulk.tally import Tally
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.errors import CapabilityError, InternalError, OutOfMemoryError

LOCAL = LocalFileSystem()
TREE = Path(__file__).parents[2]
MODEL = TREE / "tests" / "fixtures" / "tiny-walker"


def call(worker: ShardWorker, *numbers: int) -> list[dict[str, Any]]:
    """As Ray Data does: columns in, columns out, rows for us."""
    columns = worker({"shard": np.array(numbers)})
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_an_actor_says_how_every_shard_went(fast: Path) -> None:
    """Done, done again, poisoned (which is the clip's business), and errors that are not; never an exception."""
    job = open_small(LOCAL, fast, clips=24)
    for name in ("shards", "receipts", "wip", "leases"):
        (fast / name).mkdir()
    worker = ShardWorker(str(fast), lambda plan: StubEngine(poison={109}), None)
    first, again, poisoned = call(worker, 0, 0, 1)
    assert (first["status"], first["clips"], first["failures"]) == ("done", 8, 0)
    assert (again["status"], again["clips"]) == ("done", 0)
    assert (poisoned["status"], poisoned["clips"], poisoned["failures"]) == ("done", 8, 1)
    assert LOCAL.names(job.folder.leases) == []

    starved = ShardWorker(str(fast), lambda plan: StubEngine(most=0), None)
    (row,) = call(starved, 2)
    assert (row["status"], row["kind"]) == ("error", "OutOfMemoryError")
    assert isinstance(typed(row["kind"], row["error"]), OutOfMemoryError)

    def refuses(plan: object) -> StubEngine:
        raise CapabilityError("no avx512 here")

    (row,) = call(ShardWorker(str(fast), refuses, None), 2)
    assert (row["status"], row["kind"], row["error"]) == ("error", "CapabilityError", "no avx512 here")
    (row,) = call(ShardWorker(str(fast / "absent"), lambda plan: StubEngine(), None), 2)
    assert (row["status"], row["kind"]) == ("error", "DataFormatError")
    assert isinstance(typed("DiskFullError", "x"), DiskFullError)
    assert isinstance(typed("ZeroDivisionError", "x"), InternalError)


def test_an_actor_refuses_another_model_or_build(tmp_path: Path) -> None:
    pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
    from gaitcrafter_rt.bulk.opening import open_job

    assert main(["generate", str(tmp_path / "o"), "--model", str(MODEL), "--steps", "1", "--n", "2", "--workers", "1"]) == 0
    plan = open_job(tmp_path / "o", LOCAL).plan
    assert OpenModel(str(MODEL))(plan).info["model_sha256"] == plan.spec.model.sha256
    spec = plan.spec.model_copy(update={"model": plan.spec.model.model_copy(update={"sha256": "0" * 64})})
    with pytest.raises(Exception, match="take the model and the wheel that made the job"):
        OpenModel(str(MODEL))(plan.model_copy(update={"spec": spec}))


class _FakeRay:
    """Takes ``ray.remote(num_cpus=0)(Flag).remote()`` and ``flag.stop.remote(seconds)``; keeps the seconds."""

    def __init__(self) -> None:
        self.stops: list[float] = []
        self.stop = self

    def remote(self, *args: Any, **options: Any) -> Any:
        if args:
            self.stops += args
        return (lambda cls: self) if options else self


class _Rounds(RayBackend):
    """The driver without a cluster: rows come from a worker in this process, some of them changed on the way."""

    def go(self, fs, job, done, tally, interrupt, change):  # type: ignore[no-untyped-def]
        ray = _FakeRay()
        driver = _Run(ray, self, fs, job, done, tally, interrupt)
        worker = ShardWorker(str(job.folder.root), self.open_engine, None)

        class Data:
            def iter_batches(self, **options):  # type: ignore[no-untyped-def]
                for number in self.shards:  # type: ignore[attr-defined]
                    columns = worker({"shard": np.array([number])})
                    change(number, columns)
                    yield columns

        def dataset(numbers: list[int]) -> Data:
            data = Data()
            data.shards = numbers  # type: ignore[attr-defined]
            return data

        driver._dataset = dataset  # type: ignore[method-assign]
        return driver, ray


def drive(fast: Path, change: Any = lambda number, columns: None, engine: StubEngine | None = None, **options: Any):  # type: ignore[no-untyped-def]
    job = open_small(LOCAL, fast, clips=24)
    for name in ("shards", "receipts", "wip", "leases"):
        (fast / name).mkdir(exist_ok=True)
    done: set[int] = set()
    tally = Tally(24, 3, options.get("max_failed", 100))
    interrupt = options.get("interrupt", Interrupt())
    driver, ray = _Rounds(lambda plan: engine or StubEngine(), 2).go(LOCAL, job, done, tally, interrupt, change)
    return driver, ray, done, tally


def test_the_driver_counts_receipts_not_words(fast: Path) -> None:
    """An actor that says done without a receipt is not believed, and the error is loud."""
    driver, _, done, tally = drive(fast)
    driver.round([0, 1])
    assert (done, tally.made, tally.shards) == ({0, 1}, 16, 2)
    Folder(fast).receipt(0).unlink()

    def lie(number: int, columns: dict[str, Any]) -> None:
        Folder(fast).receipt(number).unlink(missing_ok=True)

    driver, _, done, _ = drive(fast, lie)
    with pytest.raises(OSError):
        driver.round([2])
    assert done == set()


def test_an_error_that_no_retry_helps_ends_the_round(fast: Path) -> None:
    def full(number: int, columns: dict[str, Any]) -> None:
        if number == 1:
            columns["status"], columns["kind"] = np.array(["error"]), np.array(["DiskFullError"])

    driver, ray, _, _ = drive(fast, full)
    with pytest.raises(DiskFullError, match=r"\(on "):
        driver.round([0, 1, 2])
    assert driver.stopping
    assert ray.stops == [30.0]


def test_others_are_kept_for_the_next_round(fast: Path) -> None:
    times = {1: 0}

    def once(number: int, columns: dict[str, Any]) -> None:
        if number in times and not times[number]:
            times[number] += 1
            columns["status"], columns["kind"] = np.array(["error"]), np.array(["OutputError"])

    driver, _, done, _ = drive(fast, once)
    driver.round([0, 1, 2])
    assert done == {0, 2}
    assert "OutputError" in type(driver.given_up()).__name__
    driver.round([1])
    assert done == {0, 1, 2}


def test_actors_that_die_over_a_shard_end_the_job_in_time(fast: Path) -> None:
    """Ray gives up a dataset whose actor died too often: what is missing is handed out again, then the job says what would help."""

    def deadly(number: int, columns: dict[str, Any]) -> None:
        if number == 1:
            raise RuntimeError("The actor died\nand a long story follows")

    driver, _, done, _ = drive(fast, deadly)
    driver.round([0, 1, 2])
    assert done == {0}
    driver.round([2])
    assert done == {0, 2}
    error = driver.given_up()
    assert isinstance(error, InternalError)
    assert re.search(r"1 shards are missing .* shard 1: .*The actor died\).* without --executor ray", str(error))


def test_too_many_failures_and_signals_stop_the_actors(fast: Path) -> None:
    driver, ray, _, _ = drive(fast, engine=StubEngine(poison=set(range(100, 124))), max_failed=3)
    with pytest.raises(TooManyFailedError, match="--max-failed 3"):
        driver.round([0, 1, 2])
    assert ray.stops
    interrupt = Interrupt()
    driver, ray, _, _ = drive(fast / "b", interrupt=interrupt)
    interrupt.request()
    driver.round([0, 1, 2])
    assert driver.stopping
    assert ray.stops == [30.0]


def test_the_backend_of_a_job_is_a_seam() -> None:
    """run_job hands what is missing to any backend, and judges by receipts alone."""
    fs = MemoryFileSystem()
    job = open_small(fs, ROOT, clips=24)
    seen = []

    def backend(fs, job, done, tally, interrupt):  # type: ignore[no-untyped-def]
        from gaitcrafter_rt.bulk.worker import Worker

        seen.append(sorted(set(range(len(job.table))) - done))
        for number in seen[-1][:2]:
            result = Worker(fs, job, StubEngine()).run_shard(number)
            done.add(number)
            tally.add(result)

    assert run_job(job, StubEngine(), fs=fs, backend=backend).exit_code == 75
    assert run_job(job, StubEngine(), fs=fs, backend=backend).exit_code == 0
    assert seen == [[0, 1, 2], [2]]
    whole = MemoryFileSystem()
    run(ROOT, fs=whole, clips=24)
    assert_whole(fs, ROOT, shards(whole, ROOT))


@pytest.mark.parametrize("option", ["--executor", "--backend"])
def test_options_of_the_command(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
    command = ["generate", str(tmp_path / "o"), "--model", str(MODEL), "--steps", "1", "--n", "2", option, "ray"]
    assert main([*command, "--rank", "0", "--world-size", "2"]) == 2
    assert "hands out shards itself" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(command) == 6
    assert "pip install 'gaitcrafter-rt[ray]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_short_form_contradicts_another_executor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path / "o"), "--backend", "ray", "--executor", "processes"]) == 2
    assert "short for --executor ray, but --executor is processes" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "o"), "--backend", "ray", "--format", "npz"]) == 2
    assert "--executor belongs to a bulk job" in capsys.readouterr().err


def _descendants(pid: int) -> list[int]:
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                children = [int(p) for p in task.read_text().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found


def _actors(pid: int) -> list[int]:
    """Processes below ``pid`` that are our actors, by the title that Ray gives them."""
    found = []
    for one in _descendants(pid):
        try:
            title = Path(f"/proc/{one}/cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        if title.startswith(b"ray::") and b"ShardWorker" in title:
            found.append(one)
    return found


def _start(out: Path, *more: str) -> subprocess.Popen[bytes]:
    pytest.importorskip("ray.data", reason="the extra 'ray' is not installed")
    pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
    command = [sys.executable, "-m", "gaitcrafter_rt", "generate", str(out), "--model", str(MODEL), "--steps", "60", "--seed", "7",
               "--views", "all", "--identities", "all", "--n", "192", "--shard-clips", "32", "--block-clips", "2", "--json",
               *more]  # fmt: skip
    # Ray's workers import from the driver's folder first: not from the sources, which hold no native engine in a clean checkout.
    return subprocess.Popen(command, cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _wait_for(condition: Any, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cluster_of_two_with_one_killed_in_mid_shard(tmp_path: Path) -> None:
    """A real local Ray cluster, two actors, SIGKILL for one of them while both have shards half made: every file is the same as
    that of one process without Ray, and no process of Ray is left."""
    single = _start(tmp_path / "one", "--workers", "1")
    assert json.loads(single.communicate(timeout=300)[0].splitlines()[-1])["exit_code"] == 0
    out = tmp_path / "ray"
    process = _start(out, "--executor", "ray", "--workers", "2")
    half = lambda: [len(list(p.glob("block-*"))) for p in (out / "wip").glob("shard-*")]  # noqa: E731
    _wait_for(lambda: len(_actors(process.pid)) == 2 and sum(0 < n < 16 for n in half()) == 2, process)
    everybody, victims = _descendants(process.pid), _actors(process.pid)
    os.kill(victims[0], signal.SIGKILL)
    told, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()
    result = json.loads(told.splitlines()[-1])
    assert (result["complete"], result["clips"], result["quarantined"]) == (True, 192, [])
    for folder in ("shards", "receipts"):
        assert sorted(os.listdir(out / folder)) == sorted(os.listdir(tmp_path / "one" / folder))
    for path in (tmp_path / "one" / "shards").iterdir():
        assert (out / "shards" / path.name).read_bytes() == path.read_bytes()
    assert sorted(os.listdir(out)) == ["plan.json", "receipts", "shards"]
    assert main(["dataset", "verify", str(out), "--deep"]) == 0
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{p}").exists() and _state(p) != "Z" for p in everybody):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.slow
def test_a_signal_stops_a_cluster_with_75(tmp_path: Path) -> None:
    """SIGTERM to the driver: actors finish or drop their blocks, exit code 75, and the same command without Ray completes."""
    out = tmp_path / "o"
    process = _start(out, "--executor", "ray", "--workers", "2", "--grace", "20")
    _wait_for(lambda: len(list(out.glob("wip/*/block-*"))) >= 3, process)
    process.send_signal(signal.SIGTERM)
    told, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors.decode()
    result = json.loads(told.splitlines()[-1])
    assert (result["interrupted"], result["complete"]) == ("SIGTERM", False)
    assert not list(out.rglob(".tmp*"))
    assert not list((out / "leases").iterdir())
    again = _start(out, "--workers", "2")
    assert json.loads(again.communicate(timeout=300)[0].splitlines()[-1])["exit_code"] == 0
    assert main(["dataset", "verify", str(out), "--deep"]) == 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """A ``ray start --block`` and everything below it, by their ids."""
    below = _descendants(process.pid)
    for pid in (process.pid, *below):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


@pytest.mark.slow
def test_a_cluster_with_authentication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/scaling.md: a head and a second node with a token; who has it makes the job on both, who has another one
    is refused with one sentence."""
    import secrets
    import socket

    pytest.importorskip("ray.data", reason="the extra 'ray' is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(24))
    token.chmod(0o600)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--num-cpus=1",
           "--object-store-memory=100000000", "--block"]  # fmt: skip
    nodes = []
    try:
        head, node = ["--head", f"--port={port}", "--include-dashboard=false"], [f"--address=127.0.0.1:{port}"]
        for name, more in (("head", head), ("node", node)):
            with open(tmp_path / name, "wb") as log:
                nodes.append(subprocess.Popen([*ray, *more], stdout=log, stderr=log))
            _wait_for(lambda name=name: b"runtime started" in (tmp_path / name).read_bytes(), nodes[-1])
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        told, errors = _start(tmp_path / "o", "--executor", "ray").communicate(timeout=300)
        result = json.loads(told.splitlines()[-1])
        assert (result.get("complete"), result.get("clips")) == (True, 192), (told, errors)
        progress = [json.loads(line) for line in told.splitlines()[:-1]]
        assert max(line["workers"] for line in progress) == 2
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 48)
        process = _start(tmp_path / "p", "--executor", "ray")
        told, _ = process.communicate(timeout=300)
        assert process.returncode == 6, told
        assert "token" in json.loads(told.splitlines()[-1])["error"]["message"]
    finally:
        for node in reversed(nodes):
            _end(node)
