"""What the torch engine says of itself, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra train or gpu")
pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")

from gaitcrafter_rt import Engine
from gaitcrafter_rt.errors import CancelledError, CapabilityError, GaitcrafterError, InternalError, InvalidRequestError
from gaitcrafter_rt.package import read_config, read_weights, write_package
from gaitcrafter_rt.torch_engine import backend, devices
from gaitcrafter_rt.torch_engine.calls import START_COST, cut
from gaitcrafter_rt.torch_engine.devices import Gpu

FIXTURES = Path(__file__).parents[1] / "fixtures"
WALKER = FIXTURES / "tiny-walker"
H100 = Gpu("NVIDIA H100", (9, 0), 80 << 30)


@pytest.fixture(scope="module")
def pair() -> tuple[Engine, Engine]:
    return Engine(WALKER, precision="fp32"), Engine(WALKER, backend="torch", batch=2)


def test_info_is_the_native_engines(pair: tuple[Engine, Engine]) -> None:
    native, engine = (e.info for e in pair)
    own = {"device", "precision", "isa", "threads", "weights_from", "flops_per_call"}
    own |= {"backend", "backend_sha256", "batch", "runtime"}
    assert {k: v for k, v in native.items() if k not in own} == {k: engine[k] for k in native if k not in own}
    assert (engine["device"], engine["precision"], engine["isa"], engine["batch"]) == ("cpu", "fp32", "torch-cpu-b2", 2)
    assert pair[0].vocabulary.labels == pair[1].vocabulary.labels and pair[0].vocabulary.usable == pair[1].vocabulary.usable
    assert pair[1].build != pair[0].build and len(pair[1].build) == 64


@pytest.mark.parametrize(
    "given",
    [
        dict(), dict(sampler="ddpm"), dict(sampler="ddim", eta=0.3, guidance=2), dict(steps=1), dict(steps=0), dict(steps=-1),
        dict(steps=10**6), dict(steps=2.5), dict(steps=True), dict(sampler="euler"), dict(sampler="ddpm", eta=0.5), dict(eta=2),
        dict(eta=-1), dict(eta="much"), dict(guidance=-1), dict(guidance=101), dict(guidance=float("nan")), dict(spacing="odd"),
        dict(thresholding="dynamic", dynamic_percentile=1.0), dict(dynamic_percentile=0.3), dict(rederive_eps=1),
        dict(rederive_eps=False), dict(null_axes=["view"]), dict(null_axes=[]), dict(null_axes="view"), dict(null_axes=["size"]),
        dict(sampler="ddim", spacing="linspace", steps=700),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["tiny-walker", "trained-eps"])
def test_samplers_are_resolved_as_the_native_engine_does(name: str, given: dict[str, Any]) -> None:
    told = []
    for engine in (Engine(FIXTURES / name), Engine(FIXTURES / name, backend="torch")):
        try:
            told.append(engine.resolve_sampler(**given))
        except GaitcrafterError as e:
            told.append(type(e))
    assert told[0] == told[1]


def test_guidance_needs_a_model_trained_for_it() -> None:
    name = next(
        n for n in ("tiny-paper", "tiny-paper-rms", "tiny-maps") if not read_config(FIXTURES / n).conditioning.guidance_trained
    )
    with Engine(FIXTURES / name, backend="torch") as engine, pytest.raises(InvalidRequestError, match="not trained for guidance"):
        engine.generate([{}], guidance=2)


@pytest.mark.parametrize(
    "wanted, message",
    [
        (dict(device="tpu"), r"device is 'tpu'; the torch engine runs on cpu, cuda or cuda:N"),
        (dict(device="cuda:-1"), "device is"), (dict(device="cpu:1"), "device is"),
        (dict(precision="int8"), "precision is 'int8'; the torch engine has auto, bf16, fp16, fp32"),
        (dict(conv="winograd"), "conv is 'winograd'; allowed are auto, triton, torch"), (dict(batch=0), "batch is 0"),
        (dict(batch=True), "batch is True"), (dict(isa="avx2"), "torch-ARCHITECTURE-bBATCH"),
        (dict(plan="x.plan"), "takes no plan"),
        (dict(library="lib.so"), "takes no library"),
    ],
    ids=str,
)  # fmt: skip
def test_what_it_is_not_opened_with(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        Engine(WALKER, backend="torch", **wanted)


def test_an_earlier_engines_identity() -> None:
    with Engine(WALKER, isa="torch-cpu-b3") as engine:
        assert (engine.info["backend"], engine.info["batch"], engine.info["isa"]) == ("torch", 3, "torch-cpu-b3")
    with pytest.raises(CapabilityError, match="asks for sm_90, this device is cpu"):
        Engine(WALKER, isa="torch-sm_90-b32")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "LIBRARY", "libno-such-driver.so.1")
    with pytest.raises(CapabilityError, match=r"no NVIDIA driver here .*use device cpu"):
        Engine(WALKER, device="cuda")


@pytest.mark.parametrize(
    "gpus, device, message",
    [
        ([], "cuda", "cuda:0 is not there; none is visible"), ([H100], "cuda:1", "cuda:1 is not there; 1 visible: NVIDIA H100"),
        ([Gpu("Tesla T4", (7, 5), 16 << 30)], "cuda", r"compute capability 7.5; the kernels need 8.0.*fp16 with ONNX Runtime"),
    ],
    ids=["none", "too few", "too old"],
)  # fmt: skip
def test_gpus_that_do_not_serve(gpus: list[Gpu], device: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: gpus)
    with pytest.raises(CapabilityError, match=message):
        Engine(WALKER, device=device)


def test_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Gpu("other", (8, 9), 24 << 30)
    monkeypatch.setattr(devices, "list_gpus", lambda: [H100, other])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices.find_gpu(0) is other
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,7,1")
    with pytest.raises(CapabilityError, match="1 visible"):
        devices.find_gpu(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8a2f")
    assert devices.find_gpu(0) is H100


def test_a_gpu_is_described_before_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches by its whole memory, an identity of architecture and batch, a build of its name; CUDA stays untouched."""
    monkeypatch.setattr(devices, "list_gpus", lambda: [H100])
    told = {}
    for conv in ("triton", "torch"):
        engine = backend.TorchBackend(WALKER, device="cuda:0", conv=conv)
        told[conv] = engine
        assert engine.info["precision"] == "bf16" and engine.info["isa"] == "torch-sm_90-b128"
    assert told["triton"].info["batches"] == [1, 8, 32, 128] and told["torch"].info["batches"] == [128]
    assert told["triton"].build != told["torch"].build
    assert backend.TorchBackend(WALKER, device="cuda", batch=5).info["batches"] == [5]
    import torch

    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("memory, batch", [(80 << 30, 32), (24 << 30, 8), (6 << 30, 1), (1 << 20, 1)])
def test_the_default_batch_of_the_papers_network(memory: int, batch: int) -> None:
    from gaitcrafter_rt.config import ModelConfig, paper_preset

    assert backend.largest_batch(ModelConfig(unet=paper_preset()), memory, "bf16") == batch


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 20, 64, 127, 128, 129, 300])
def test_a_call_is_cut_into_batches(count: int) -> None:
    batches = (1, 8, 32, 128)
    parts = list(cut(count, batches))
    assert [first for first, _, _ in parts] == list(np.cumsum([0, *(size for _, size, _ in parts)])[:-1])
    assert sum(size for _, size, _ in parts) == count and all(1 <= size <= batch for _, size, batch in parts)
    cost = sum(batch + START_COST for _, _, batch in parts)
    assert cost <= min(-(-count // b) * (b + START_COST) for b in batches)
    assert list(cut(7, (3,))) == [(0, 3, 3), (3, 3, 3), (6, 1, 3)]


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(threshold=0), "threshold is 0"), (dict(threshold=1), "threshold is 1"),
        (dict(initial_noise=np.full((1, 1, 30, 64, 64), np.nan, np.float32)), "not finite"),
    ],
    ids=["threshold 0", "threshold 1", "noise"],
)  # fmt: skip
def test_requests_that_are_refused(pair: tuple[Engine, Engine], more: dict[str, Any], message: str) -> None:
    if "initial_noise" in more:
        more = dict(initial_noise=np.full((1, 1, *pair[1].clip_shape), np.nan, np.float32))
    with pytest.raises(InvalidRequestError, match=message):
        pair[1].generate([{}], **more)


def test_raw_vectors_that_are_refused() -> None:
    with Engine(FIXTURES / "tiny-paper", backend="torch") as engine:
        vector = np.full(engine.info["cond_dim"], np.inf, np.float32)
        with pytest.raises(InvalidRequestError, match="clip 1: cond holds a value that is not finite"):
            engine.generate([{}, dict(cond=vector)])


def test_progress_and_cancelling(pair: tuple[Engine, Engine]) -> None:
    _, engine = pair
    told: list[tuple[int, ...]] = []
    engine.generate([{}] * 3, steps=2, progress=lambda p: told.append(tuple(p)))
    assert told[0] == (0, 6, 0, 3) and told[-1] == (6, 6, 3, 3)
    with pytest.raises(CancelledError, match="after 0 of 6 steps"):
        engine.generate([{}] * 3, steps=2, progress=lambda p: False)
    with pytest.raises(InvalidRequestError, match="from its own progress callback"):
        engine.generate([{}], steps=2, progress=lambda p: engine.generate([{}], steps=2))
    assert len(engine.generate([{}], steps=2)) == 1


def test_values_that_are_not_finite_name_their_clip(tmp_path: Path) -> None:
    config = read_config(WALKER)
    weights = {k: v for k, v in read_weights(WALKER).items() if not k.endswith((".input_low", ".input_high"))}
    weights["final_conv.bias"] = np.full_like(weights["final_conv.bias"], np.inf)
    write_package(tmp_path / "bad", config.model_copy(update={"quantisation": None}), weights, "infinite")
    with Engine(tmp_path / "bad", backend="torch", batch=2) as engine, pytest.raises(InternalError, match=r"clip 9: .* not finite"):
        engine.generate([{}] * 3, start=9, steps=2)


def test_closed_and_forked(pair: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(WALKER, backend="torch")
    engine.generate([{}], steps=1)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(InvalidRequestError, match="ran before the process forked"):
        engine.generate([{}], steps=1)
    monkeypatch.undo()
    with pytest.raises(CapabilityError, match="profile"), engine.profile():
        pass
    engine.close()
    with pytest.raises(InvalidRequestError, match="this engine is closed"):
        engine.generate([{}], steps=1)


def test_doctor_names_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    from gaitcrafter_rt.cli import doctor

    monkeypatch.setattr(devices, "list_gpus", lambda: [H100, Gpu("Tesla T4", (7, 5), 16 << 30)])
    first, second, engine = doctor._gpus()
    assert first.status == "ok" and "cuda:0 is NVIDIA H100, compute capability 9.0" in first.text
    assert second.status == "warn" and "too old for the GPU kernels" in second.text
    assert engine.name == "GPU engine" and (engine.status == "ok" or "sees no GPU" in engine.text)
    monkeypatch.undo()
    monkeypatch.setattr(devices, "LIBRARY", "libno-such-driver.so.1")
    assert [c.status for c in doctor._gpus()] == ["absent"]


def test_a_job_goes_on_with_the_engine_that_it_began_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The plan names backend, architecture and batch; whoever opens the job gets that engine, or a refusal."""
    pytest.importorskip("pyarrow", reason="needs the extra bulk")
    from gaitcrafter_rt.bulk import Grid, Request, open_or_create, run_job
    from gaitcrafter_rt.bulk.filesystem import LocalFileSystem
    from gaitcrafter_rt.bulk.machine import open_engine

    fs = LocalFileSystem()
    engine = open_engine(WALKER, None, isa="torch-cpu-b3")
    request = Request(Grid(), 4, seed=3, sampler={"steps": 2})
    job = open_or_create(fs, tmp_path / "job", request, engine)
    assert job.plan.spec.engine.isa == "torch-cpu-b3" and job.plan.spec.engine.build == engine.build
    monkeypatch.setenv("GAITCRAFTER_ISA", "avx2")  # says nothing to an engine of another kind
    with open_engine(WALKER, job.plan) as again:
        assert again.info["backend"] == "torch" and again.info["batch"] == 3
        assert run_job(job, again, fs=fs, workers=0).exit_code == 0
    monkeypatch.setattr(devices, "list_gpus", list)
    elsewhere = job.plan.model_copy(
        update={"spec": job.plan.spec.model_copy(
            update={"engine": job.plan.spec.engine.model_copy(update={"device": "cuda", "isa": "torch-sm_90-b32"})}
        )}
    )  # fmt: skip
    with pytest.raises(CapabilityError, match=r"torch-sm_90-b32 in fp32 on cuda.*Use a worker that has such a device"):
        open_engine(WALKER, elsewhere)


def test_without_torch() -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from gaitcrafter_rt import Engine
from gaitcrafter_rt.errors import MissingExtraError
try:
    Engine({str(WALKER)!r}, backend="torch")
except MissingExtraError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the torch engine needs the extra 'gpu'" in done.stdout and "pip install 'gaitcrafter-rt[gpu]'" in done.stdout
