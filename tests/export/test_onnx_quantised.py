"""int8 and fp8 graphs: ModelOpt's scales, ONNX's own operators, on ONNX Runtime what the same scales give in torch."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gaitcrafter_rt.backends.exported import read_export
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.config import resnet_convolutions
from gaitcrafter_rt.errors import MissingExtraError
from gaitcrafter_rt.install import native

torch = pytest.importorskip("torch", reason="needs the extra train")
onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.mark.parametrize("kind", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_calibrated_graphs_agree_with_torch_and_become_engines(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("modelopt", reason="needs the extra modelopt")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    out = tmp_path / kind
    command = ["export", "onnx", str(FIXTURES / "tiny-walker"), str(out), "--precision", kind, "--batch", "2", "--json"]
    assert main([*command, "--calibration-clips", "1", "--verify", "--clips", "1"]) == 0
    found = json.loads(capsys.readouterr().out)["verification"]
    assert found["passed"] and found["precision"] == kind
    # It lost something, and as much as the same rounding loses in torch.
    assert 0.002 < found["relative"] < 0.1 and found["relative"] == pytest.approx(found["eager_relative"], rel=0.2)
    exported = read_export(out)
    assert native().Engine(str(out), backend="none").info["model_sha256"] == exported.manifest.model_sha256  # C++ reads it too
    model = onnx.load(exported.graph)
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    layers = resnet_convolutions(exported.config.unet)
    low = {"int8": onnx.TensorProto.INT8, "fp8": onnx.TensorProto.FLOAT8E4M3FN}[kind]
    zeros = [t for t in model.graph.initializer if t.name.endswith("_zero")]
    assert len(zeros) == 2 * len(layers) and {t.data_type for t in zeros} == {low}
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name.endswith("_scale")}
    weights = _weights(FIXTURES / "tiny-walker")
    for layer in layers:
        # Steps of the weights are what the largest weight asks for, of every output channel (int8) or of all (fp8).
        largest = np.abs(weights[f"{layer}.weight"]).max(axis=(1, 2, 3) if kind == "int8" else None)
        limit = 127 if kind == "int8" else 448
        np.testing.assert_allclose(scales[f"{layer}.weight_scale"], np.maximum(largest / limit, 2.0**-14), rtol=2e-3)
        assert scales[f"{layer}.input_scale"].shape == () and scales[f"{layer}.input_scale"] > 0
    pytest.importorskip("tensorrt_rtx", reason="all but the engine; that needs the extra tensorrt-rtx")
    from gaitcrafter_rt.export.tensorrt import build_engines

    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    (built,) = build_engines(out, library="tensorrt_rtx", chips=[89])
    assert built.key["precision"] == kind and len(built.engine) > 100_000


def _weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_without_modelopt_it_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gaitcrafter_rt.export.onnx import export_folder

    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("modelopt"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'gaitcrafter-rt\[modelopt\]'"):
        export_folder(FIXTURES / "tiny-walker", tmp_path / "out", "int8")
    assert not list(tmp_path.iterdir())
