"""Backends "tensorrt" and "tensorrt-cpp". No TensorRT runs here: a stand-in for its module runs the same graph by ONNX Runtime on
the memory that the backend gave it, so that names, shapes, addresses and the order of copies are what makes the clips."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import Tensorrt

import gaitcrafter_rt as gc
from gaitcrafter_rt.backends import cudart
from gaitcrafter_rt.backends import tensorrt as backend
from gaitcrafter_rt.backends.exported import read_export
from gaitcrafter_rt.errors import CapabilityError, InternalError, InvalidRequestError, MissingExtraError, OutOfMemoryError
from gaitcrafter_rt.export.tensorrt.build import Flags, Profile
from gaitcrafter_rt.export.tensorrt.cache import key_hash
from gaitcrafter_rt.export.tensorrt.engines import engine_for, engine_key
from gaitcrafter_rt.export.tensorrt.library import Library, open_library

FIXTURES = Path(__file__).parent.parent / "fixtures"
WALKER, PAPER = FIXTURES / "exports" / "tiny-walker-fp32", FIXTURES / "exports" / "tiny-paper-fp16"


class Cudart:
    """libcudart with one GPU, whose memory is the host's. ``fails`` maps a call to the error that it gives."""

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.fails: dict[str, int] = {}
        self.devices, self.streams = 1, 0
        self.calls: list[str] = []
        self.cudaGetErrorString = lambda error: b"made up"
        self.cudaGetLastError = lambda: 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        own = re.sub(r"(?<!^)(?=[A-Z])", "_", name.removeprefix("cuda")).lower()  # cudaMalloc is malloc here
        if not name.startswith("cuda") or own not in type(self).__dict__:
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return self.fails.get(name) or getattr(self, own)(*arguments) or 0

        return call

    def get_device_count(self, count: Any) -> None:
        count._obj.value = self.devices

    def set_device(self, device: int) -> int:
        return 0 if device < self.devices else 101

    def device_get_attribute(self, value: Any, number: int, device: int) -> None:
        value._obj.value = {75: 9, 76: 0, 16: 132, 38: 52428800, 37: 5120}[number]

    def malloc(self, pointer: Any, size: Any) -> None:
        room = ctypes.create_string_buffer(b"\xcd" * size.value, size.value)
        pointer._obj.value = ctypes.addressof(room)
        self.memory[ctypes.addressof(room)] = room

    def free(self, pointer: Any) -> None:
        del self.memory[pointer.value]

    def stream_create_with_flags(self, stream: Any, flags: int) -> None:
        assert flags == 1
        self.streams += 1
        stream._obj.value = 77

    def stream_destroy(self, stream: Any) -> None:
        self.streams -= 1

    def stream_synchronize(self, stream: Any) -> None:
        assert stream.value == 77

    def memcpy_async(self, to: Any, source: Any, size: Any, kind: int, stream: Any) -> None:
        device = to.value if kind == 1 else source.value
        assert device in self.memory and size.value <= len(self.memory[device]) and stream.value == 77
        ctypes.memmove(to, source, size.value)


class Machine:
    """A stand-in for a machine with an H100 and TensorRT 10.14.1."""

    def __init__(self, patch: pytest.MonkeyPatch, fails: str = "") -> None:
        self.cudart, self.trt = Cudart(), Tensorrt(fails)
        self.trt.inputs = {"x": (-1, 1, 6, 32, 32), "t": (-1,), "weights.view": (-1, 3)}
        self.trt.engine = self.engine  # type: ignore[method-assign]
        patch.setattr(backend, "open_cuda", lambda: cudart.Cuda(self.cudart))
        patch.setattr(backend, "gpu_elsewhere", lambda device: cudart.Cuda(self.cudart).gpu(device))
        patch.setitem(sys.modules, "tensorrt", self.trt.module)
        patch.setenv("GAITCRAFTER_CACHE", "off")
        self.folder = WALKER

    @property
    def gpu(self) -> cudart.Gpu:
        return cudart.Cuda(self.cudart).gpu(0)

    def engine(self, serialised: bytes) -> Any:
        """An engine that runs the graph named in it."""
        from gaitcrafter_rt.backends.onnxruntime import open_session

        session = open_session(self.folder / serialised.removeprefix(b"engine of ").decode(), "cpu", 2)
        made = Tensorrt.engine(self.trt, serialised)
        shapes: dict[str, tuple[int, ...]] = {}
        places: dict[str, int] = {}

        def view(name: str, shape: tuple[int, ...], kind: Any) -> np.ndarray:
            room = self.cudart.memory[places[name]]
            return np.frombuffer(room, kind)[: int(np.prod(shape))].reshape(shape)

        def execute(stream: int) -> bool:
            assert stream == 77
            feeds = {n: view(n, s, np.int64 if n == "t" else np.float32) for n, s in shapes.items()}
            view("out", shapes["x"], np.float32)[...] = session.run(["out"], feeds)[0]
            return bool(self.trt.give("execute_async_v3", True, False))

        context = made.create_execution_context()
        if context is not None:
            context.execute_async_v3 = execute
            take_shape, take_place = context.set_input_shape, context.set_tensor_address
            context.set_input_shape = lambda n, s: [shapes.update({n: tuple(s)}), take_shape(n, s)][1]
            context.set_tensor_address = lambda n, a: [places.update({n: a}), take_place(n, a)][1]
        made.create_execution_context = lambda: context
        return made


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    return Machine(monkeypatch)


@pytest.mark.parametrize("folder", [WALKER, PAPER], ids=["labels", "cond, exact first steps"])
def test_it_makes_the_clips_of_the_same_graph(folder: Path, machine: Machine) -> None:
    machine.folder = folder
    if folder == PAPER:
        machine.trt.inputs = {"x": (2, 1, 5, 16, 16), "t": (2,), "cond": (2, 8)}
    conditions = [{"identity": "001"}, {}, {"view": "090", "identity": "002"}]
    want = gc.Engine(folder, backend="onnxruntime", batch=2).generate(conditions, seed=4, steps=3)
    ours = gc.Engine(folder, backend="tensorrt", device="cuda", batch=2)
    got = ours.generate(conditions, seed=4, steps=3)
    np.testing.assert_array_equal(got.packed, want.packed)
    assert ours.info["backend"] == "tensorrt" and ours.info["batch"] == 2 and ours.info["runtime"] == "tensorrt 10.14.1 (Python)"
    assert got.provenance["engine"]["backend_sha256"] == ours.info["backend_sha256"] != read_export(folder).sha256
    # Two sessions at most, each with memory for its tensors, all given back.
    sessions = 1 if folder == WALKER else 2
    assert machine.trt.count("deserialize_cuda_engine") == machine.cudart.streams == sessions
    assert machine.cudart.calls.count("cudaMalloc") == sessions * (6 if folder == WALKER else 4)
    ours.close()
    assert not machine.cudart.memory and not machine.cudart.streams
    with pytest.raises(InvalidRequestError, match="closed"):
        ours.generate({})


def test_without_a_gpu_or_tensorrt_nothing_is_touched(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for devices, error in ((0, 0), (1, 35), (1, 100)):
        machine.cudart.devices, machine.cudart.fails = devices, {"cudaGetDeviceCount": error}
        with pytest.raises(CapabilityError, match="NVIDIA GPU"):
            gc.Engine(WALKER, backend="tensorrt", device="cuda")
    machine.cudart.devices, machine.cudart.fails = 1, {}
    with pytest.raises(CapabilityError, match="device is cuda:1; this machine has 1"):
        gc.Engine(WALKER, backend="tensorrt", device="cuda:1")
    assert not machine.trt.calls
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"gaitcrafter-rt\[tensorrt\]"):
        gc.Engine(WALKER, backend="tensorrt", device="cuda")
    monkeypatch.setitem(sys.modules, "tensorrt", Tensorrt(version="11.4.0").module)
    with pytest.raises(CapabilityError, match=r"takes 10.14 to below 11"):
        gc.Engine(WALKER, backend="tensorrt", device="cuda")


def test_this_machine_s_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real libcudart, where there is one: no GPU, in one sentence."""
    fake = Tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    try:
        cudart.open_cuda().gpu(0)
    except (CapabilityError, MissingExtraError):
        pass
    else:
        pytest.skip("there is a GPU here")
    for name in ("tensorrt", "tensorrt-cpp"):
        with pytest.raises((CapabilityError, MissingExtraError), match=r"NVIDIA GPU|not in this build|nvidia-cuda-runtime"):
            gc.Engine(WALKER, backend=name, device="cuda")
    assert not fake.calls


@pytest.mark.parametrize(
    ("call", "error"),
    [("Runtime", CapabilityError), ("deserialize_cuda_engine", CapabilityError), ("create_execution_context", CapabilityError),
     ("set_input_shape", InternalError), ("set_tensor_address", InternalError), ("execute_async_v3", InternalError)],
)  # fmt: skip
def test_every_call_that_gives_nothing_is_an_error(call: str, error: type[Exception], machine: Machine) -> None:
    machine.trt.fails = call
    engine = gc.Engine(WALKER, backend="tensorrt", device="cuda", batch=2)
    with pytest.raises(error, match=f"failed: {call} said no"):
        engine.generate({}, steps=2)
    engine.close()


def test_cuda_s_errors_are_typed(machine: Machine) -> None:
    engine = gc.Engine(WALKER, backend="tensorrt", device="cuda", batch=2)
    for call, number, error in (
        ("cudaMalloc", 2, OutOfMemoryError), ("cudaMemcpyAsync", 700, InternalError), ("cudaStreamSynchronize", 700, InternalError),
    ):  # fmt: skip
        machine.cudart.fails = {call: number}
        with pytest.raises(error, match=r"made up \(CUDA error"):
            engine.generate({}, steps=2)
    machine.cudart.fails = {}
    engine.generate({}, steps=2)


def test_requests_that_make_no_sense_are_refused(machine: Machine) -> None:
    for name in ("tensorrt", "tensorrt-cpp"):
        with pytest.raises(InvalidRequestError, match=r'takes "cuda" or "cuda:0"'):
            gc.Engine(WALKER, backend=name)
    for options, text in (
        ({"library": "libnvinfer.so"}, "installed package"), ({"isa": "avx2"}, "installed package"),
        ({"precision": "fp16"}, "exported in fp32"), ({"device": "cuda:x"}, "takes"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequestError, match=text):
            gc.Engine(WALKER, backend="tensorrt", **{"device": "cuda", **options})  # type: ignore[arg-type]
    assert not machine.trt.calls


def test_a_process_that_built_must_not_fork_and_one_that_found_may(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engine = gc.Engine(WALKER, backend="tensorrt", device="cuda", batch=2)  # no cache: built by this process
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(InvalidRequestError, match="before the process forked"):
        engine.generate({})
    monkeypatch.undo()
    again = Machine(monkeypatch)
    monkeypatch.setenv("GAITCRAFTER_CACHE", str(tmp_path))
    asked: list[tuple[object, ...]] = []

    def build(folder: Path, device: int, batch: int) -> None:
        asked.append((folder, device, batch))
        exported = read_export(folder)
        engine_for(open_library(), exported, exported.graph, again.gpu, [Profile(batch, batch, batch)])

    monkeypatch.setattr(backend, "build_elsewhere", build)
    for _ in range(2):
        engine = gc.Engine(WALKER, backend="tensorrt", device="cuda", batch=2)
    assert asked == [(WALKER, 0, 2)] and "cudaMalloc" not in again.cudart.calls and not again.cudart.streams
    monkeypatch.setattr("os.getpid", lambda: 1)
    engine.generate({}, steps=2)  # the first use of the GPU is after the fork


def test_what_another_process_was_asked_comes_back_as_a_typed_error(tmp_path: Path) -> None:
    try:
        cudart.open_cuda().gpu(0)
    except (CapabilityError, MissingExtraError) as e:
        with pytest.raises(type(e), match=re.escape(str(e))):
            cudart.gpu_elsewhere(0)
        with pytest.raises(type(e), match=re.escape(" ".join(str(e).split()))):
            backend.build_elsewhere(WALKER, 0, 2)
    else:
        assert cudart.gpu_elsewhere(0) == cudart.open_cuda().gpu(0)
    with pytest.raises(InvalidRequestError, match=r"not within 1..256"):
        backend.build_elsewhere(WALKER, 0, 999)


def test_the_key_is_that_of_the_cpp_side() -> None:
    """csrc/backends/tensorrt/tensorrt_test.cc looks for a file of this name."""
    exported = read_export(WALKER)
    gpu = str(cudart.Gpu(0, 90, 232448, 232448, 232448))
    key = engine_key(Library("tensorrt", "10.14.1.48", None), exported, exported.graph, gpu, [Profile(2, 2, 2)], Flags())
    assert key_hash(key) == "d5e6888ebbdaac60fd25f03297be9afaa63521fae01d416dcb68809c880249e7"
