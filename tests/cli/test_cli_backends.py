"""``generate --backend``: the clips of the Python API, few of them and as a bulk job whose plan says who made them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, ROOT, Run, needs_engine

import gaitcrafter_rt as gc
from gaitcrafter_rt.clips import ClipBatch

EXPORT = ROOT / "tests" / "fixtures" / "exports" / "tiny-walker-fp32"
VIEWS = ["--identities", "002", "--views", "all", "--steps", 2]
CONDITIONS = [{"identity": "002", "view": v} for v in ("000", "090")]
pytestmark = needs_engine


def needs(backend: str) -> list[object]:
    """Options that open the small model on the backend."""
    pytest.importorskip("torch" if backend == "torch" else "onnxruntime", reason="needs an extra")
    return ["--model", MODEL if backend == "torch" else EXPORT, "--backend", backend]


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_few_clips_are_those_of_the_python_api(run: Run, tmp_path: Path, backend: str) -> None:
    model = needs(backend)
    run.json("generate", tmp_path / "o", *model, *VIEWS, "--batch", 2, "--format", "npz")
    clips = ClipBatch.load_npz(tmp_path / "o/clips.npz")
    direct = gc.Engine.from_pretrained(str(model[1]), backend=backend, batch=2).generate(CONDITIONS, steps=2)
    np.testing.assert_array_equal(clips.packed, direct.packed)
    assert clips.provenance == direct.provenance
    assert (clips.provenance["engine"]["backend"], clips.provenance["engine"]["batch"]) == (backend, 2)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_bulk_job_is_made_by_the_backend_and_its_plan_says_so(run: Run, tmp_path: Path, backend: str) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra bulk")
    from gaitcrafter_rt.bulk.reader import ShardFile

    model = needs(backend)
    job = ["generate", tmp_path / "job", *model, *VIEWS, "--workers", 2, "--batch", 2]
    # A process of its own: this one may have run torch, whose threads would be missing in the job's forked workers.
    command = [sys.executable, "-m", "gaitcrafter_rt", *map(str, job), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1])["made"] == 2, done.stderr
    direct = gc.Engine.from_pretrained(str(model[1]), backend=backend, batch=2).generate(CONDITIONS, steps=2)
    network = json.loads((tmp_path / "job/plan.json").read_text())["spec"]["engine"]["network"]
    made_by = direct.provenance["engine"]
    assert network == {
        "backend": backend, "batch": 2, "sha256": made_by["backend_sha256"], "runtime": made_by["runtime"],
    }  # fmt: skip
    with ShardFile(next((tmp_path / "job").rglob("*.parquet"))) as shard:
        clips, _ = shard.clip_batch(0)
    np.testing.assert_array_equal(clips.packed, direct.packed)
    assert clips.provenance == direct.provenance
    # The plan knows backend and batch: resuming and verifying need neither.
    del job[job.index("--backend") : job.index("--backend") + 2], job[-2:]
    assert run.json(*job)["made"] == 0
    assert f"made with  tiny-walker, {backend}" in re.sub("  +", "  ", run("jobs", tmp_path / "job")[1])
    verified = run.json("dataset", "verify", tmp_path / "job", "--recompute", 2, "--model", model[1])
    assert verified["recomputed"] == 2


def test_other_backends_than_the_plans_are_refused(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra bulk")
    model = needs("onnxruntime")
    job = ["generate", tmp_path / "job", *VIEWS]
    assert run(*job, *model)[0] == 0
    code, _, err = run(*job, *model, "--batch", 3)
    assert code == 2 and "engine.network.batch: the plan has 8, this command 3" in err
    code, _, err = run(*job, "--model", MODEL, "--backend", "native")
    assert code == 2 and re.search(r"engine\.network: the plan has \{'backend': 'onnxruntime'.*this command None", err)
    code, _, err = run(*job, "--model", MODEL)  # no export there
    assert code == 4 and "make an export with: gaitcrafter-rt export onnx" in err
    code, _, err = run("dataset", "verify", tmp_path / "job", "--recompute", 1, "--model", other_graph(tmp_path))
    assert code == 2 and "the plan's clips are made by backend onnxruntime" in err and "here is backend onnxruntime" in err


def other_graph(place: Path) -> Path:
    """The same export with another manifest, as another release would write it."""
    folder = place / "again"
    shutil.copytree(EXPORT, folder)
    manifest = json.loads((folder / "export.json").read_text())
    manifest["made_by"]["torch"] = "0.0"
    (folder / "export.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--backend", "onnx"], 2, "onnxruntime"),
        (["--backend", "cubin"], 2, 'backend "cubin" takes "cuda"'),
        (["--backend", "cubin", "--device", "cuda"], 4, "gaitcrafter-rt export kernels"),
        (["--backend", "onnxruntime"], 4, "gaitcrafter-rt export onnx MODEL OUT"),
        (["--backend", "native", "--batch", "4"], 2, "batch, library and plan are for other backends"),
        (["--backend", "torch", "--batch", "0"], 2, "batch is 0; allowed are 1 to 256"),
        (["--batch", "4"], 2, "batch, library and plan are for other backends"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
@pytest.mark.parametrize("form", [["--format", "npz"], []], ids=["few", "job"])
def test_refusals_write_nothing(run: Run, tmp_path: Path, form: list, options: list, code: int, message: str) -> None:
    if not form:
        pytest.importorskip("pyarrow", reason="needs the extra bulk")
    got, out, err = run("generate", tmp_path / "o", "--model", MODEL, *form, *options)
    assert message in err
    assert (got, out) == (code, "")
    assert list(tmp_path.iterdir()) == []
