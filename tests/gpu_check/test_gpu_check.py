"""The check itself, as far as a machine without a GPU can tell; what it measures is for one that has one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra train or gpu")
import torch

from gaitcrafter_rt.gpu_check import kernel_cases, kernels, report
from gaitcrafter_rt.gpu_check.__main__ import NO_GPU, SECTIONS, Check, main
from gaitcrafter_rt.kernels.launch import recording

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIXTURES = ROOT / "tests" / "fixtures"


def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; make gpu-check is the test")
    done = subprocess.run(
        [sys.executable, "-m", "gaitcrafter_rt.gpu_check", "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (NO_GPU, "")
    assert done.stdout.count("\n") == 1 and "sees no NVIDIA GPU; nothing was run" in done.stdout
    assert not list(tmp_path.iterdir())


def test_sections_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(callable(getattr(Check, name)) for name in SECTIONS)
    with pytest.raises(SystemExit):
        main(["--only", "kernels,speed"])
    assert "no speed; there are compile, limits, kernels" in capsys.readouterr().err


def test_the_committed_page_is_that_of_the_committed_numbers() -> None:
    found = json.loads((RESULTS / "gpu-h100.json").read_text())
    assert report.page(found) == (RESULTS / "gpu-h100.md").read_text()
    assert not [text for section in found["sections"].values() for text in section["failures"]]
    assert "walker batch 32" in report.summary(found)


def test_every_case_has_launches_in_every_type() -> None:
    pytest.importorskip("triton", reason="needs the extra gpu")
    for dtype in kernels.DTYPES.values():
        for case in kernel_cases.cases(dtype):
            with recording() as recorder:
                case.op(*case.build(kernel_cases.Maker(dtype, "meta")))
            assert recorder.launches, case.name


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An op that is off by one part in a hundred, one that is not finite, one that changes from call to call, one that dies."""
    monkeypatch.setattr(kernels, "Maker", lambda dtype: kernel_cases.Maker(dtype, "cpu"))
    monkeypatch.setattr(kernel_cases, "N", 2)
    from gaitcrafter_rt.kernels import launch

    calls = []

    def op(x: torch.Tensor, how: str) -> torch.Tensor:
        calls.append(x)
        if launch._plain:
            return x * 2
        if how == "dies":
            raise RuntimeError("out of registers")
        factor = {"right": 2.0, "off": 2.02, "nan": float("nan"), "restless": 2.0 + 1e-3 * (len(calls) % 2)}[how]
        return x * factor

    verdicts = {}
    for how in ("right", "off", "nan", "restless", "dies"):
        case = kernel_cases.Case(op, how, lambda m, how=how: (m.image(8, 4), how))
        [row] = kernels.check(case, "fp32")
        verdicts[how] = row["why"]
    assert verdicts["right"] == "" and "error" in verdicts["off"] and "not finite" in verdicts["nan"]
    assert verdicts["restless"] and verdicts["dies"] == "RuntimeError: out of registers"


def test_other_backends_run_or_say_why_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ONNX Runtime on the CPU stands for all of them: one that agrees, one that does not, one that is absent, one that dies."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    from gaitcrafter_rt.gpu_check import backends
    from gaitcrafter_rt.gpu_check.backends import Contestant

    exports = FIXTURES / "exports"
    monkeypatch.setattr(backends, "BATCHES", (2,))
    monkeypatch.setattr(backends, "FIXED", 2)
    monkeypatch.setattr(backends.Models, "onnx", lambda self, kind: exports / kind)
    contestants = [("right", "cpu", "tiny-walker-fp32"), ("absent", "cuda", "tiny-walker-fp32"), ("none", "cpu", "nowhere")]
    monkeypatch.setattr(backends, "CONTESTANTS", [Contestant(name, "onnxruntime", *rest) for name, *rest in contestants])
    wanted = [{"identity": "001"}, {"view": "090"}, {}] * 3
    found = backends.section(FIXTURES / "tiny-walker", wanted)
    (row,) = found["rows"]
    assert row["pixels"] > 0.999 and not any(row["bits"].values()) and set(row["speed"]) == {2}
    assert all(v["clips_per_s"] > 0 for v in row["speed"].values())
    assert [a["what"] for a in found["absent"]] == ["absent, tiny-walker-fp32"] and "onnx-gpu" in found["absent"][0]["why"]
    assert [text.split(":")[0] for text in found["failures"]] == ["none, nowhere"]
    text = "\n".join(report.tables("backends", found))
    assert "| right, tiny-walker-fp32 | onnxruntime" in text and "- absent, tiny-walker-fp32: device 'cuda'" in text
    # A backend whose bits depend on the batch, where it promises otherwise, and one that makes other clips.
    monkeypatch.setattr(backends, "equal_bits", lambda a, b: 3)
    monkeypatch.setattr(backends, "speed", lambda engine, some: {})
    monkeypatch.setattr(backends, "compared", lambda a, b: {"pixels": 0.5, "iou": 0.5})
    monkeypatch.setattr(backends, "CONTESTANTS", [Contestant("wrong", "onnxruntime", "cpu", "tiny-walker-fp32", any_batch=True)])
    found = backends.section(FIXTURES / "tiny-walker", wanted)
    assert len(found["failures"]) == 4 and "0.50000 of the pixels" in found["failures"][-1]


def test_peers_that_are_absent_are_named() -> None:
    from gaitcrafter_rt.gpu_check import peers

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU; make gpu-check is the test")
    found = peers.section([1])
    assert not found["failures"]
    assert [r["peer"] for r in found["rows"]] == ["ONNX Runtime CUDA", "ONNX Runtime TensorRT", "TensorRT"]
    assert all(r["absent"] for r in found["rows"])
    text = "\n".join(report.tables("peers", found))
    assert "- TensorRT: building TensorRT engines needs the extra 'tensorrt'" in text
    rows = [{"peer": "TensorRT", "batch": 1, "dtype": "fp16", "us": 1500.0, "largest_error": 0.01}]
    assert "| TensorRT | 1 | fp16 | 1.500 | 1.00e-02 |" in report.tables("peers", {"rows": rows})
