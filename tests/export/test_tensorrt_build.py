"""Engines: TensorRT-RTX really builds them here, without a GPU; what TensorRT refuses is tested on a stand-in of its interface."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fake_tensorrt import Tensorrt

from gaitcrafter_rt.backends import cudart
from gaitcrafter_rt.backends.exported import read_export
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.errors import CapabilityError, InvalidRequestError, MissingExtraError, ModelFormatError
from gaitcrafter_rt.export.tensorrt import build_engines, engine_for, open_library
from gaitcrafter_rt.export.tensorrt.build import Flags, Profile, build
from gaitcrafter_rt.export.tensorrt.library import check_version

EXPORTS = Path(__file__).parent.parent / "fixtures" / "exports"
H100 = cudart.Gpu(0, 90, 132, 52428800, 5120)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAITCRAFTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


def needs_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    pytest.importorskip("onnx", reason="needs the extra onnx")


def stand_in(monkeypatch: pytest.MonkeyPatch, fails: str = "", version: str = "10.14.1") -> Tensorrt:
    fake = Tensorrt(fails, version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    return fake


def test_the_shipped_model_builds_once_and_is_found_again(walker: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs_rtx()
    command = ["export", "tensorrt", str(walker), "--library", "tensorrt_rtx", "--arch", "89", "--batch", "1:8:32", "--json"]
    rows = []
    for _ in range(2):
        assert main(command) == 0
        (row,) = json.loads(capsys.readouterr().out)["engines"]
        rows.append(row)
    first, second = rows
    assert not first["found"] and second["found"] and first["path"] == second["path"] and first["bytes"] > 1_000_000
    assert first["key"]["gpu"] == "sm_89" and first["key"]["profiles"] == "1:8:32"
    assert first["key"]["library"].startswith("tensorrt_rtx 1.")
    assert first["key"]["graph"] == read_export(walker).manifest.files["model.onnx"]
    assert cache.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in cache.iterdir()} == {0o600}
    assert {path.suffix for path in cache.iterdir()} == {".engine"}


# A label model at any batch, and a cond model in bf16 whose transposed convolutions the library lacks in that type.
@pytest.mark.parametrize(
    ("name", "batches", "chips"),
    [("tiny-walker-fp32", ["1", "2:4:8"], (89, 120)), ("tiny-paper-bf16", [], (120,)), ("tiny-paper-fp16", [], (89,))],
)
def test_rtx_builds_every_precision_without_a_gpu(
    name: str, batches: list[str], chips: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_rtx()
    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    library, exported = open_library("tensorrt_rtx"), read_export(EXPORTS / name)
    profiles = [Profile.of(text) for text in batches] or [Profile(2, 2, 2)]
    made = [engine_for(library, exported, exported.graph, chip, profiles) for chip in chips]
    assert all(len(b.engine) > 100_000 and b.path is None and b.key["precision"] == name[-4:] for b in made)
    assert len({b.engine for b in made}) == len({str(b.key) for b in made}) == len(chips)


def test_rtx_has_no_hopper_and_says_what_it_has() -> None:
    needs_rtx()
    with pytest.raises(CapabilityError, match=r"has no sm_90; it builds for sm_75, .*sm_120.*gaitcrafter-rt export kernels"):
        build_engines(EXPORTS / "tiny-walker-fp32", library="tensorrt_rtx", chips=[90])


def test_a_graph_that_is_none_and_a_batch_that_is_not_its_own_are_refused(tmp_path: Path) -> None:
    needs_rtx()
    library = open_library("tensorrt_rtx")
    broken = tmp_path / "model.onnx"
    text = (EXPORTS / "tiny-walker-fp32" / "model.onnx").read_bytes().replace(b"GroupNormalization", b"GroupNormalisation")
    broken.write_bytes(text)
    with pytest.raises(ModelFormatError, match=r"does not take .*GroupNormalisation"):
        build(library, broken, [Profile(2, 2, 2)], 89, Flags())
    with pytest.raises(InvalidRequestError, match="was exported for batch 2"):
        build(library, EXPORTS / "tiny-paper-fp16" / "model.onnx", [Profile(1, 2, 4)], 89, Flags())


@pytest.mark.parametrize(
    "call", ["Builder", "create_network", "OnnxParser", "create_builder_config", "get_input", "create_optimization_profile",
             "add_optimization_profile", "create_timing_cache", "set_timing_cache", "build_serialized_network"],
)  # fmt: skip
def test_every_call_that_gives_nothing_is_an_error(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, call)
    with pytest.raises(CapabilityError, match=f"failed: {call} said no"):
        build(open_library(), EXPORTS / "tiny-walker-fp32" / "model.onnx", [Profile(1, 1, 1)], None, Flags())


def test_the_network_is_strongly_typed_with_the_profiles_and_without_tf32(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in(monkeypatch)
    exported = read_export(EXPORTS / "tiny-walker-fp32")
    profiles = [Profile(1, 1, 1), Profile(1, 4, 8)]
    first = engine_for(open_library(), exported, exported.graph, H100, profiles)
    assert {("create_network", 2), ("clear_flag", "tf32"), ("set_timing_cache", False)} <= set(fake.calls)
    assert ("set_shape", "x", (1, 1, 2, 8, 8), (4, 1, 2, 8, 8), (8, 1, 2, 8, 8)) in fake.calls
    assert ("set_shape", "t", (1,), (1,), (1,)) in fake.calls and fake.count("add_optimization_profile") == 2
    again = engine_for(open_library(), exported, exported.graph, H100, profiles)
    assert again.found and again.engine == first.engine == b"engine of model.onnx" and fake.count("Builder") == 1
    # Another GPU of the same chip, another batch, another flag and another version are other engines.
    smaller = cudart.Gpu(0, 90, 114, 52428800, 5120)
    for target, batches, flags in ((smaller, profiles, Flags()), (H100, profiles[:1], Flags()), (H100, profiles, Flags(tf32=True))):
        assert not engine_for(open_library(), exported, exported.graph, target, batches, flags).found
    assert ("set_flag", "tf32") in fake.calls
    assert fake.calls[-1] == ("serialize",) and ("create_timing_cache", b"timings") in fake.calls
    stand_in(monkeypatch, version="10.15.0")
    assert not engine_for(open_library(), exported, exported.graph, H100, profiles).found
    assert len(list(cache.glob("*.engine"))) == 5


def test_absent_and_wrong_libraries_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequestError, match="tensorrt and tensorrt_rtx"):
        open_library("tensorflow")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gaitcrafter-rt\[tensorrt\]'"):
        open_library()
    for version in ("10.13.3", "11.4.0.106", "8.6.1", "?"):
        stand_in(monkeypatch, version=version)
        with pytest.raises(CapabilityError, match=r"this release takes 10.14 to below 11.0"):
            open_library()
    check_version("tensorrt", "10.15.1.29")


def test_a_library_that_does_not_load_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingExtraError, match=r"libnvinfer.so.10: cannot open .*gaitcrafter-rt\[tensorrt\]"):
        open_library()


def test_without_a_gpu_nothing_of_tensorrt_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = stand_in(monkeypatch)

    def no_gpu(self: cudart.Cuda, device: int) -> cudart.Gpu:
        raise CapabilityError("no GPU")

    monkeypatch.setattr(cudart.Cuda, "gpu", no_gpu)
    monkeypatch.setattr(cudart, "open_cuda", lambda: object.__new__(cudart.Cuda))
    with pytest.raises(CapabilityError, match="no GPU"):
        build_engines(EXPORTS / "tiny-walker-fp32")
    assert not fake.calls


def test_requests_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(EXPORTS / "tiny-walker-fp32")
    for options, text in (
        (["--arch", "89"], "TensorRT builds for the GPU that it runs on"),
        (["--library", "tensorrt_rtx"], "none was"),
        (["--library", "tensorrt_rtx", "--arch", "sm_89"], "89,120"),
        (["--batch", "8:1:2"], "not ordered"),
        (["--batch", "1:2"], "smallest:tuned:largest"),
        (["--batch", "0"], "not within 1..256"),
    ):
        assert main(["export", "tensorrt", folder, *options]) == 2, options
        assert text in " ".join(capsys.readouterr().err.split())
