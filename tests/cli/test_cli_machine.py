"""What is said of this machine: bench latency and doctor."""

from __future__ import annotations

import json

import pytest
from command_line import MODEL, NATIVE, Run, needs_engine

from gaitcrafter_rt.cli import doctor
from gaitcrafter_rt.cli.bench import percentile


@needs_engine
def test_bench_latency(run: Run) -> None:
    result = run.json(
        "bench", "latency", "--model", MODEL, "--steps", "1,4", "--threads", "1", "--precision", "fp32", "--repeats", 3
    )
    assert [r["steps"] for r in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert 0 < row["p50_s"] <= row["p90_s"] <= row["p99_s"]
        assert row["open_s"] > 0 < row["cold_s"]
        assert row["precision"] == "fp32"
    assert [r["weights_from"] for r in result["rows"]][1] == "cache"
    assert result["model"]["name"] == "tiny-walker"
    assert "p99" in run("bench", "latency", "--model", MODEL, "--steps", "1", "--repeats", 1)[1]


@needs_engine
def test_bench_latency_profiles(run: Run) -> None:
    args = ["bench", "latency", "--model", MODEL, "--steps", "2", "--threads", "2", "--repeats", 2, "--profile"]
    result = run.json(*args, "--mode", "throughput,latency")
    assert [(r["mode"], r["profile"]["cores"]) for r in result["rows"]] == [("throughput", 1), ("latency", 2)]
    for row in result["rows"]:
        found = row["profile"]
        assert sum(r["share"] for r in found["rows"]) == pytest.approx(1, abs=0.01)
        assert [r["seconds"] for r in found["rows"]] == sorted((r["seconds"] for r in found["rows"]), reverse=True)
        operations = sum(r["operations"] for r in found["rows"] if r["stage"] == "network")
        assert operations == pytest.approx(2 * result["model"]["flops_per_call"])
        for r in found["rows"]:
            assert (r["of_limit"] is None) == (r["arithmetic"] == "")
    text = run(*args)[1]
    assert "convolution 3x3" in text and "sampler step" in text and "of limit" in text and "unaccounted" in text


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([3.0], 50) == 3.0


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor")
    assert code == (0 if NATIVE else 6)
    assert ("instruction sets" in out and "packed weights" in out) or not NATIVE
    real = doctor._installed
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1", "imageio-ffmpeg": None, "torch": None}
    monkeypatch.setattr(doctor, "_installed", lambda name: both.get(name, real(name)))
    _, text, _ = run("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(text)["checks"]}
    assert checks["onnxruntime"]["status"] == "warn"
    assert "pip uninstall" in checks["onnxruntime"]["text"]
    assert "pip install 'gaitcrafter-rt[video]'" in checks["extra video"]["text"]
    assert checks["GPU"]["status"] == "absent"
    assert {"Python", "numpy", "disk", "native engine", "extra train"} <= checks.keys()
