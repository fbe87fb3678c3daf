"""``gaitcrafter-rt generate`` and ``dataset`` with the real engine, on a model of random weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, NATIVE, ROOT, Run

from gaitcrafter_rt.bulk import ClipDataset
from gaitcrafter_rt.bulk.arrow import arrow
from gaitcrafter_rt.bulk.machine import TIERS, offered, processors
from gaitcrafter_rt.cli.main import main

if not NATIVE:
    pytest.skip("the native engine is not built in this tree", allow_module_level=True)

COMMON = ("--model", MODEL, "--steps", 2, "--seed", 7, "--views", "all", "--identities", "001,002", "--blend", "0.3*001+0.7*003")


@pytest.fixture
def run(run: Run) -> Run:
    return run


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "job"
    assert main([str(a) for a in ("generate", out, *COMMON, "--n", 40, "--shard-clips", 16, "--workers", 2, "--json")]) == 0
    return out


def test_a_job_is_the_engine_whatever_the_workers(run: Run, job: Path, tmp_path: Path) -> None:
    from gaitcrafter_rt import Engine

    with ClipDataset.open(job) as data:
        clips = data.read(range(40))
    direct = Engine(MODEL, isa=clips.provenance["engine"]["isa"], precision=clips.provenance["engine"]["precision"]).generate(
        clips.conditions, seed=7, steps=2
    )
    np.testing.assert_array_equal(clips.packed, direct.packed)
    assert clips.provenance["sampler"] == direct.provenance["sampler"]
    assert clips.provenance["training_data"] == direct.provenance["training_data"]
    code, one = run.told("generate", tmp_path / "one", *COMMON, "--n", 40, "--shard-clips", 16, "--workers", 1, "--threads", 2)
    assert (code, one["made"], one["complete"]) == (0, 40, True)
    for name in ("shards/shard-00000000.parquet", "shards/shard-00000002.parquet", "plan.json"):
        assert (tmp_path / "one" / name).read_bytes() == (job / name).read_bytes()


def test_the_clips_of_a_job_are_those_of_the_other_formats(run: Run, job: Path, tmp_path: Path) -> None:
    from gaitcrafter_rt import ClipBatch

    with ClipDataset.open(job) as data:
        clips = data.read(range(9))
    precision = clips.provenance["engine"]["precision"]
    assert run("generate", tmp_path / "few", *COMMON, "--n", 9, "--format", "npz", "--precision", precision)[0] == 0
    few = ClipBatch.load_npz(tmp_path / "few" / "clips.npz")
    np.testing.assert_array_equal(few.packed, clips.packed)
    assert few.conditions == clips.conditions


def test_running_again_extending_and_refusing(run: Run, job: Path) -> None:
    code, again = run.told("generate", job, *COMMON, "--n", 40)
    assert (code, again["made"], again["clips"]) == (0, 0, 40)
    code, out, err = run("generate", job, *COMMON, "--n", 41)
    assert (code, out) == (2, "")
    assert "--extend grows it" in err
    code, out, err = run("generate", job, *COMMON[:3], 3, *COMMON[4:], "--n", 40)
    assert code == 2
    assert "sampler.steps: the plan has 2, this command 3" in err
    code, grown = run.told("generate", job, *COMMON, "--n", 42, "--extend")
    assert (code, grown["made"], grown["clips"]) == (0, 2, 42)


def test_verify_and_stats(run: Run, job: Path) -> None:
    code, report = run.told("dataset", "verify", job, "--deep", "--recompute", 3, "--model", MODEL)
    assert (code, report["ok"], report["recomputed"]) == (0, True, 3)
    code, out, _ = run("dataset", "verify", job / "shards" / "shard-00000000.parquet")
    assert (code, "sound" in out) == (0, True)
    code, facts = run.told("dataset", "stats", job)
    assert (code, facts["complete"], facts["labels"]["view"]) == (0, True, {"000": facts["clips"] // 2, "090": facts["clips"] // 2})
    out = run("dataset", "stats", job)[1]
    for text in ("tiny-walker", "001=0.3+003=0.7", "ddim, 2 steps"):
        assert text in out


def test_verify_names_damage_and_sets_it_aside(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "job"
    short = ("generate", out, *COMMON, "--n", 4, "--workers", 1)
    assert run(*short)[0] == 0
    shard = out / "shards" / "shard-00000000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    code, text, _ = run("dataset", "verify", out, "--set-aside")
    assert (code, "shard-00000000.parquet" in text, "not sound" in text) == (4, True, True)
    code, result = run.told(*short)
    assert (code, result["made"]) == (0, 4)
    assert run("dataset", "verify", out)[0] == 0
    code, _, err = run("dataset", "verify", tmp_path)
    assert (code, "plan.json" in err) == (4, True)


def test_dry_run_measures_and_writes_a_sheet_alone(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    code, facts = run.told("generate", tmp_path / "o", *COMMON, "--n", 100000, "--workers", 4, "--dry-run")
    assert code == 0
    assert facts["clips"] == 100000
    assert facts["core_hours"] == pytest.approx(4 * facts["hours"])
    assert facts["bytes"]["cache"] == 100000 * 6 * 32 * 32 // 8
    assert facts["bytes"]["opengait"] > 100000 * 6 * 32 * 32
    assert facts["shards"] == 63
    assert [p.name for p in tmp_path.iterdir()] == ["o-preview.png"]
    assert Image.open(tmp_path / "o-preview.png").size[0] > 100
    out = run("generate", tmp_path / "o", *COMMON, "--n", 100, "--dry-run")[1]
    assert "core-hours" in out
    assert (tmp_path / "o-preview-2.png").exists()
    code, _, err = run("generate", tmp_path / "o", *COMMON, "--n", 10**10, "--dry-run")
    assert (code, "make room" in err) == (5, True)


def test_the_estimate_of_bytes_is_about_right(run: Run, job: Path, tmp_path: Path) -> None:
    """Within a third of what such a job really takes."""
    code, facts = run.told("generate", tmp_path / "o", *COMMON, "--n", 42, "--shard-clips", 16, "--dry-run")
    assert code == 0
    real = sum(p.stat().st_size for p in job.rglob("*") if p.is_file())
    assert 2 / 3 < facts["bytes"]["parquet"] / real < 3 / 2


@pytest.mark.parametrize(
    "options, message",
    [
        (["--n", "0"], "--n must lie in"),
        (["--n", "3", "--clips-per", "2"], "exclude each other"),
        (["--clips-per", "0"], "--clips-per"),
        (["--workers", "many"], "--workers is auto or"),
        (["--workers", "0"], "--workers is auto or"),
        (["--rank", "2", "--world-size", "2"], "--rank must lie in 0..1"),
        (["--identities", "009"], "no identity '009'"),
        (["--seed", "-1"], "--seed"),
        (["--steps", "0"], "steps"),
        (["--threshold", "2"], "threshold"),
        (["--shard-clips", "100000"], "shard-clips"),
        (["--block-clips", "65", "--shard-clips", "64"], "block-clips"),
        (["--conditions", "absent.parquet"], "no such file"),
        (["--conditions", "x", "--views", "all"], "excludes the label options"),
        (["--format", "parquet", "--format", "npz"], "stands alone"),
        (["--format", "npz", "--rank", "1"], "--rank belongs to a bulk job"),
        (["--format", "gif", "--extend"], "--extend belongs to a bulk job"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_options_write_nothing(run: Run, tmp_path: Path, options: list[str], message: str) -> None:
    code, out, err = run("generate", tmp_path / "o", "--model", MODEL, *options)
    assert message in err
    assert (code, out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_conditions_of_a_table(run: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"identity": ["001", "003", None], "view": ["090", "000", "000"]}), tmp_path / "t.parquet")
    code, result = run.told("generate", tmp_path / "o", "--model", MODEL, "--steps", 1, "--conditions", tmp_path / "t.parquet")
    assert (code, result["clips"]) == (0, 3)
    with ClipDataset.open(tmp_path / "o") as data:
        assert data.read([2, 0]).conditions == [{"view": {"000": 1.0}}, {"identity": {"001": 1.0}, "view": {"090": 1.0}}]


def test_a_worker_without_the_plans_tier_refuses_first(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan of another instruction set: made here with the portable one, forced to another, and the other way round."""
    here = offered()
    out = tmp_path / "o"
    command = ("generate", out, "--model", MODEL, "--steps", 1, "--n", 2, "--workers", 1)
    assert run(*command, "--isa", "portable")[0] == 0
    plan = json.loads((out / "plan.json").read_text())
    assert plan["spec"]["engine"]["isa"] == "portable"
    # Any processor has the narrowest one: the same command without --isa takes the plan's.
    assert run.told(*command)[1]["made"] == 0
    if len(here) > 1:
        before = sorted(p.name for p in out.rglob("*"))
        for force in ({"GAITCRAFTER_ISA": here[-1]}, {}):
            for name, value in force.items():
                monkeypatch.setenv(name, value)
            code, _, err = run(*command, *(() if force else ("--isa", here[-1])))
            assert code == 6
            assert "made with the instruction set portable" in err
            assert f"would use {here[-1]}" in err
            assert "--isa portable" in err
            for name in force:
                monkeypatch.delenv(name)
        assert sorted(p.name for p in out.rglob("*")) == before


def test_a_tier_that_the_processor_lacks(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's tier is asked of the native engine, which refuses what it cannot do; the message says what would do."""
    from gaitcrafter_rt.bulk import machine
    from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
    from gaitcrafter_rt.bulk.layout import Folder
    from gaitcrafter_rt.bulk.plan import read_plan
    from gaitcrafter_rt.errors import CapabilityError

    out = tmp_path / "o"
    assert run("generate", out, "--model", MODEL, "--steps", 1, "--n", 2, "--workers", 1)[0] == 0
    plan = read_plan(LocalFileSystem(), Folder(out))
    assert plan is not None
    engine = plan.spec.engine.model_copy(update={"isa": "portable", "precision": "bf16"})
    other = plan.model_copy(update={"spec": plan.spec.model_copy(update={"engine": engine})})
    monkeypatch.setattr(machine, "offered", lambda: ["portable", "avx2"])
    way_out = r"in bf16 on cpu, which this machine cannot do .* offers portable, avx2: .*--isa portable --precision fp32"
    with pytest.raises(CapabilityError, match=way_out):
        machine.open_engine(MODEL, other)
    assert TIERS[0] == "portable"
    assert processors() >= 1


def test_signals_stop_with_75_and_the_same_command_completes(tmp_path: Path) -> None:
    """A real process, its workers and a real signal; nothing is left running."""
    out = tmp_path / "o"
    command = [sys.executable, "-m", "gaitcrafter_rt", "generate", str(out), "--model", str(MODEL), "--steps", "30", "--n", "24",
               "--block-clips", "1", "--workers", "2", "--json", "--grace", "5"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(out.glob("wip/*/block-*"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    told, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, b"")
    result = json.loads(told.splitlines()[-1])
    assert result["interrupted"] == "SIGTERM"
    assert 2 <= result["made"] < 24
    assert len(workers) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    made = len(list(out.glob("wip/*/block-*")))
    assert made == result["made"]
    assert not list(out.rglob(".tmp*"))
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert json.loads(finished.stdout.splitlines()[-1])["made"] == 24 - made
    assert sorted(os.listdir(out)) == ["plan.json", "receipts", "shards"]


def test_without_the_extra(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, before a model is opened; the small formats need no pyarrow."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    arrow.cache_clear()
    for command in ("generate", "dataset verify", "dataset stats"):
        code, _, err = run(*command.split(), tmp_path / "o")
        assert code == 6
        assert "pip install 'gaitcrafter-rt[bulk]'" in err
    code, _, err = run("generate", tmp_path / "few", "--model", MODEL, "--steps", 1, "--format", "npz")
    assert (code, err) == (0, "")
    arrow.cache_clear()


def test_results_are_json(tmp_path: Path) -> None:
    from jobs import run as run_stub
    from stub import StubEngine

    from gaitcrafter_rt.cli.job import as_dict

    result = as_dict(run_stub(tmp_path / "o", StubEngine(poison={100})))
    assert json.loads(json.dumps(result))["quarantined"][0]["clip_index"] == 100
    assert (result["quality"], result["exit_code"]) == ({"failed": 1}, 3)
