"""A graph whose weights lie beside it, in model.onnx.data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import gaitcrafter_rt as gc
from gaitcrafter_rt.backends.exported import read_export
from gaitcrafter_rt.errors import CapabilityError, InvalidRequestError, ModelFormatError, OutputError

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture(scope="module")
def external(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-walker by the limit that keeps the weights of large models out of the graph."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    pytest.importorskip("torch", reason="needs the extra train")
    from gaitcrafter_rt.export.onnx import folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "LARGEST_BYTES", 1000)
        return folder.export_folder(FIXTURES / "tiny-walker", tmp_path_factory.mktemp("external") / "export")


def test_large_models_go_to_external_data_and_make_the_same_clips(external: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    files = read_export(external).manifest.files
    data = external / "model.onnx.data"
    assert set(files) == {"README.md", "config.json", "model.onnx", "model.onnx.data"}
    assert data.stat().st_size > 100_000
    kept = [t for t in onnx.load(external / "model.onnx", load_external_data=False).graph.initializer if t.external_data]
    assert {e.value for t in kept for e in t.external_data if e.key == "location"} == {"model.onnx.data"}
    onnx.checker.check_model(str(external / "model.onnx"), full_check=True)
    inside = gc.Engine(FIXTURES / "exports" / "tiny-walker-fp32", backend="onnxruntime", batch=2)
    beside = gc.Engine(external, backend="onnxruntime", batch=2)
    conditions = [{"identity": "001", "view": "000"}, {"covariate": "bg"}]
    np.testing.assert_array_equal(beside.generate(conditions, seed=3).packed, inside.generate(conditions, seed=3).packed)
    try:
        cpp = gc.Engine(external, backend="onnxruntime-cpp", batch=2)
    except CapabilityError as e:
        pytest.skip(f"the rest: {e}")
    np.testing.assert_array_equal(cpp.generate(conditions, seed=3).packed, inside.generate(conditions, seed=3).packed)


def test_changed_and_missing_data_are_refused(external: Path, tmp_path: Path) -> None:
    copy = tmp_path / "export"
    shutil.copytree(external, copy)
    data = copy / "model.onnx.data"
    text = bytearray(data.read_bytes())
    text[len(text) // 2] ^= 1
    data.write_bytes(bytes(text))
    with pytest.raises(ModelFormatError, match=r"model.onnx.data: sha256 is .*the file was changed"):
        gc.Engine(copy, backend="onnxruntime")
    data.unlink()
    with pytest.raises(ModelFormatError, match=r"model.onnx.data: cannot be read"):
        gc.Engine(copy, backend="onnxruntime")


def test_one_file_refuses_too_many_weights_and_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    pytest.importorskip("torch", reason="needs the extra train")
    from gaitcrafter_rt.export.onnx import graph
    from gaitcrafter_rt.nn.denoiser import load_unet

    model = load_unet(FIXTURES / "tiny-walker")
    monkeypatch.setattr(graph, "LARGEST_BYTES", 1000)
    with pytest.raises(InvalidRequestError, match="export with external data"):
        graph.export_onnx(model, tmp_path / "model.onnx")
    (tmp_path / "model.onnx.data").write_text("mine")
    with pytest.raises(OutputError, match=r"model.onnx.data exists"):
        graph.export_onnx(model, tmp_path / "model.onnx", external_data=True)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx.data"]


def test_tensorrt_reads_the_weights_beside_the_graph(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    from gaitcrafter_rt.export.tensorrt import build_engines

    (built,) = build_engines(external, library="tensorrt_rtx", chips=[89], batches=["2"])
    assert len(built.engine) > 100_000 and built.key["data"] == read_export(external).manifest.files["model.onnx.data"]
