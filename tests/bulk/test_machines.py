"""The command as a machine runs it: real processes, real signals, a real full disk, a rank that is killed, shared weights."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faulty_fs import MemoryFileSystem
from jobs import ROOT as JOB
from jobs import assert_whole, run, shards
from stub import StubEngine

from gaitcrafter_rt.bulk.filesystem import LocalFileSystem

pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
TREE = Path(__file__).parents[2]
MODEL = TREE / "tests" / "fixtures" / "tiny-walker"


def command(out: Path | str, *more: object) -> list[str]:
    words = (sys.executable, "-m", "gaitcrafter_rt", "generate", out, "--model", MODEL, "--seed", 7, "--views", "all", "--json")
    return [str(w) for w in (*words, *more)]


def start(out: Path, *more: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command(out, *more), cwd=TREE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def result(process: subprocess.Popen[bytes], seconds: float = 120) -> tuple[int, dict]:
    told, errors = process.communicate(timeout=seconds)
    assert errors == b""
    return process.returncode, json.loads(told.splitlines()[-1])


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def blocks(out: Path) -> int:
    return len(list(out.glob("wip/*/block-*")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_every_signal_stops_within_grace(tmp_path: Path, number: signal.Signals) -> None:
    """To the whole process group, as a terminal and some schedulers do: the workers leave it to their supervisor."""
    process = start(tmp_path / "o", "--steps", 60, "--n", 512, "--shard-clips", 512, "--block-clips", 1, "--workers", 2,
                    "--grace", 10)  # fmt: skip
    wait_for(lambda: blocks(tmp_path / "o") >= 2, process)
    os.killpg(process.pid, number)
    code, told = result(process)
    assert (code, told["interrupted"], told["complete"]) == (75, number.name, False)
    assert blocks(tmp_path / "o") == told["made"] >= 2
    assert not list((tmp_path / "o").rglob(".tmp*"))
    assert list((tmp_path / "o" / "leases").iterdir()) == []


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """A block that takes half a minute and a grace time that would let it: the first signal waits for it, the second does not."""
    process = start(tmp_path / "o", "--steps", 100, "--n", 512, "--shard-clips", 512, "--block-clips", 256, "--workers", 2,
                    "--grace", 600)  # fmt: skip
    wait_for(lambda: (tmp_path / "o" / "leases").is_dir() and len(children(process.pid)) == 2, process)
    workers = children(process.pid)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert process.poll() is None
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code, told = result(process)
    assert time.monotonic() - began < 10
    assert (code, told["made"]) == (75, 0)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """A tmpfs of 300 kB in a namespace of its own: exit code 75, nothing torn, and with more room the same command completes."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -rm is not allowed here, so no small disk can be mounted")
    disk = tmp_path / "disk"
    disk.mkdir()
    small = command(disk / "o", "--steps", 1, "--n", 1024, "--identities", "all", "--shard-clips", 64, "--workers", 2)
    script = f"""
    set -u
    mount -t tmpfs -o size=300k none {shlex.quote(str(disk))} || exit 99
    {shlex.join(small)} > {shlex.quote(str(tmp_path / "full.json"))}; echo $? > {shlex.quote(str(tmp_path / "full.code"))}
    find {shlex.quote(str(disk))} -name '.tmp*' > {shlex.quote(str(tmp_path / "left"))}
    mount -o remount,size=100m {shlex.quote(str(disk))}
    {shlex.join(small)} > {shlex.quote(str(tmp_path / "more.json"))}; echo $? > {shlex.quote(str(tmp_path / "more.code"))}
    {shlex.join([sys.executable, "-m", "gaitcrafter_rt", "dataset", "verify", str(disk / "o"), "--deep"])} || exit 98
    """
    words = ["unshare", "-rm", "bash", "-c", script]
    done = subprocess.run(words, cwd=TREE, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode == 99:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr}")
    assert done.returncode == 0, done
    full = json.loads((tmp_path / "full.json").read_text().splitlines()[-1])
    assert (tmp_path / "full.code").read_text().strip() == "75"
    assert (full["error"]["type"], full["error"]["exit_code"]) == ("DiskFullError", 75)
    assert "clips are missing" in full["error"]["message"]
    assert (tmp_path / "left").read_text() == ""
    more = json.loads((tmp_path / "more.json").read_text().splitlines()[-1])
    assert (tmp_path / "more.code").read_text().strip() == "0"
    assert more["complete"]
    assert 0 < more["made"] < 1024


def test_a_killed_rank_leaves_no_hole(tmp_path: Path) -> None:
    """Rank 1 of 2 and its workers die by SIGKILL with shards half made and leases fresh; rank 0 alone completes the job at once."""
    out, options = tmp_path / "o", ("--steps", 30, "--n", 96, "--shard-clips", 16, "--block-clips", 2, "--workers", 2)
    process = start(out, *options, "--rank", 1, "--world-size", 2)
    wait_for(lambda: blocks(out) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list((out / "leases").iterdir())
    code, told = result(start(out, *options, "--rank", 0, "--world-size", 2))
    assert (code, told["complete"], told["clips"]) == (0, True, 96)
    assert told["made"] < 96
    code, _ = result(start(tmp_path / "one", *options[:-1], 1))
    assert code == 0
    for path in (tmp_path / "one" / "shards").iterdir():
        assert (out / "shards" / path.name).read_bytes() == path.read_bytes()
    assert sorted(os.listdir(out)) == ["plan.json", "receipts", "shards"]


def test_stepping_down_in_memory_changes_no_bit(fast: Path) -> None:
    """Calls of two clips in place of eight, in one worker and in two: every file is the same."""
    whole = MemoryFileSystem()
    cut = {"clips": 48, "shard_clips": 16, "block_clips": 8}
    run(JOB, fs=whole, **cut)
    for workers in (0, 2):
        engine = StubEngine(most=2)
        assert run(fast / str(workers), engine, workers=workers, **cut).exit_code == 0
        assert_whole(LocalFileSystem(), fast / str(workers), shards(whole, JOB))
        if not workers:
            # The first block finds out what fits, the others keep to it.
            assert engine.calls[:7] == [8, 4, 2, 2, 4, 2, 2]
            assert set(engine.calls[7:]) == {2}


def _memory() -> dict[str, int]:
    """Bytes of this process by kind, as the kernel counts them."""
    rows = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}


def _in_a_worker(work: Callable[[], object]) -> dict[str, int]:
    """``_memory`` of a forked child after some work."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        work()
        os.write(write, json.dumps(_memory()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as f:
        told = json.loads(f.read())
    assert os.waitpid(child, 0)[1] == 0
    return told


SHARING = """
import sys
sys.path.insert(0, {tests!r})
from test_machines import _in_a_worker
import json
import gaitcrafter_rt
from gaitcrafter_rt import Engine, _native
from gaitcrafter_rt.models import resolve_model

engine = Engine(resolve_model("walker"), threads=1, precision="fp32")
clip = lambda: engine.generate([{{"view": "090"}}], seed=1, steps=1, progress=lambda p: True)
print(json.dumps([_in_a_worker(clip)["Private_Dirty"] for _ in range(2)]))
"""


@pytest.mark.parametrize("cache", ["off", "on"])
def test_forked_workers_share_the_packed_weights(tmp_path: Path, cache: str) -> None:
    """All that a worker wrote to memory of its own until its clip was done, activations included, is less than the weights:
    those are the pages of the process that opened the model, or of one file, the cache of packed weights."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("the kernel tells no smaps_rollup")
    script = SHARING.format(tests=str(Path(__file__).parent))
    env = {**os.environ, "GAITCRAFTER_CACHE": str(tmp_path) if cache == "on" else "off"}
    for _ in range(2):  # the first one fills the cache
        done = subprocess.run([sys.executable, "-c", script], cwd=TREE, env=env, capture_output=True, text=True, check=True)
    workers = json.loads(done.stdout)
    weights = (TREE / "gaitcrafter_rt" / "models" / "walker" / "model.safetensors").stat().st_size
    assert max(workers) < 0.75 * weights, (weights, workers)  # own copies would be the weights and as much again as is there now


def test_machines_without_a_common_folder_make_the_parts_of_one_job(fast: Path) -> None:
    """docs/scaling.md: jobs with --start at multiples of the combinations are the clips of the one large job."""
    from gaitcrafter_rt.bulk import ClipDataset

    run(fast / "whole", clips=24, first_clip=0)
    for part in (0, 12):
        run(fast / str(part), clips=12, first_clip=part)
        with ClipDataset.open(fast / "whole") as whole, ClipDataset.open(fast / str(part)) as data:
            there, here = whole.read(range(part, part + 12)), data.read(range(12))
        np.testing.assert_array_equal(here.packed, there.packed)
        np.testing.assert_array_equal(here.clip_indices, there.clip_indices)
        assert here.conditions == there.conditions
