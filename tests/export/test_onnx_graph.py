"""The exported graph, run by ONNX Runtime, gives what the torch network gives in double."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from gaitcrafter_rt.errors import InvalidRequestError, OutputError
from gaitcrafter_rt.export.onnx import export_onnx
from gaitcrafter_rt.nn.denoiser import load_unet

pytest.importorskip("onnxscript", reason="needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
FIXTURES = Path(__file__).parent.parent / "fixtures"


# One with the cond vector, position bias and all attentions, one with label tables and temporal convolution.
@pytest.mark.parametrize("name", ["tiny-paper", pytest.param("tiny-walker", marks=pytest.mark.slow)])
def test_graph_gives_the_golden_output(name: str, tmp_path: Path) -> None:
    golden = load_file(FIXTURES / name / "golden.safetensors")
    inputs = export_onnx(load_unet(FIXTURES / name), tmp_path / "model.onnx", batch=len(golden["x"]))
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(inputs)
    (out,) = session.run(None, {key: golden[key] for key in inputs})
    assert np.linalg.norm(out - golden["out"]) < 5e-6 * np.linalg.norm(golden["out"])


def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = load_unet(FIXTURES / "tiny-walker")
    for batch in (0, 257):
        with pytest.raises(InvalidRequestError, match=f"batch is {batch}"):
            export_onnx(model, tmp_path / "model.onnx", batch)
    assert not list(tmp_path.iterdir())
    mine = tmp_path / "model.onnx"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        export_onnx(model, mine)
    assert mine.read_text() == "mine"
