"""Exports of whole models: what the folder holds, that ONNX Runtime makes the native engine's clips from it, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gaitcrafter_rt as gc
from gaitcrafter_rt.backends.exported import MANIFEST, read_export
from gaitcrafter_rt.errors import CapabilityError, InvalidRequestError, MissingExtraError, ModelFormatError, UnsupportedVersionError
from gaitcrafter_rt.install import native
from gaitcrafter_rt.models import resolve_model

FIXTURES = Path(__file__).parent.parent / "fixtures"
EXPORTS = FIXTURES / "exports"
CONDITIONS = [
    {"identity": "001", "view": "000"}, {"identity": {"001": 0.5, "003": 0.5}, "covariate": "bg"}, {}, {"view": "090"},
    {"identity": "002", "view": "000", "covariate": "cl"},
]  # fmt: skip


def needs_onnxruntime() -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")


def needs_cpp_backend() -> None:
    needs_onnxruntime()
    try:
        gc.Engine(EXPORTS / "tiny-walker-fp32", backend="onnxruntime-cpp")
    except CapabilityError as e:
        if "not in this build" not in str(e):
            raise
        pytest.skip(str(e))


def agreement(a: gc.ClipBatch, b: gc.ClipBatch) -> float:
    """Share of equal pixels."""
    return 1 - float(np.unpackbits(a.packed ^ b.packed).mean())


def test_the_shipped_model_makes_the_same_clips_everywhere(walker: Path) -> None:
    exported = read_export(walker)
    assert exported.manifest.opset >= 22 and exported.manifest.batch == 0
    ours = gc.Engine.from_pretrained("walker", precision="fp32")
    labels = ours.vocabulary.labels
    conditions = [{axis: (7 * i) % len(names) for axis, names in labels.items() if names} for i in range(2)]
    want = ours.generate(conditions, seed=5)
    python = gc.Engine.from_pretrained(walker, backend="onnxruntime", batch=2).generate(conditions, seed=5)
    assert agreement(want, python) >= 0.999
    needs_cpp_backend()
    cpp = gc.Engine.from_pretrained(walker, backend="onnxruntime-cpp", batch=2).generate(conditions, seed=5)
    assert agreement(want, cpp) >= 0.999
    np.testing.assert_array_equal(cpp.packed, python.packed)  # one library, one graph, one batch, the same sums


def test_the_graph_is_clean(walker: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    onnx.checker.check_model(str(walker / "model.onnx"), full_check=True)
    graph = onnx.load(walker / "model.onnx")
    kinds = {node.op_type for node in graph.graph.node}
    assert {"GroupNormalization", "LayerNormalization", "Softmax", "MatMul", "Conv", "ConvTranspose"} <= kinds
    assert {node.domain for node in graph.graph.node} == {""}
    assert b"/site-packages/" not in (walker / "model.onnx").read_bytes()  # no stack traces of the exporting machine


def test_polygraphy_finds_nothing(tmp_path: Path) -> None:
    pytest.importorskip("polygraphy", reason="needs pip install polygraphy onnx-graphsurgeon")
    pytest.importorskip("onnx_graphsurgeon", reason="needs pip install polygraphy onnx-graphsurgeon")
    needs_onnxruntime()
    report = tmp_path / "lint.json"
    command = ["check", "lint", str(EXPORTS / "tiny-walker-fp32" / "model.onnx"), "-o", str(report)]
    program = f"import sys; sys.argv = ['polygraphy', *{command!r}]; from polygraphy.tools import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    assert not found["summary"]["failing"] and not found["lint_entries"]


def test_the_sampler_table_beside_the_graph_is_the_engine_s(walker: Path) -> None:
    table = read_export(walker).manifest.sampler
    engine = native().Engine(str(resolve_model("walker")), backend="none")
    rows = engine.sampler_table(engine.resolve_sampler({}))
    assert table.columns[0] == "timestep" and len(table.rows) == len(rows)
    for name, column in zip(table.columns, np.array(table.rows).T, strict=True):
        np.testing.assert_array_equal(column.astype(np.float32), rows[name].astype(np.float32), name)


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-cpp"])
def test_batch_and_other_clips_do_not_matter_and_all_samplers_run(backend: str) -> None:
    needs_cpp_backend() if backend.endswith("cpp") else needs_onnxruntime()
    ours = gc.Engine(FIXTURES / "tiny-walker", precision="fp32")
    theirs = gc.Engine(EXPORTS / "tiny-walker-fp32", backend=backend, batch=4)
    assert theirs.info["batch"] == 4 and theirs.info["backend_sha256"] == read_export(EXPORTS / "tiny-walker-fp32").sha256
    for settings in ({}, {"guidance": 2.0, "null_axes": ["identity"]}, {"sampler": "ddpm", "steps": 5, "thresholding": "dynamic"},
                     {"sampler": "dpmpp_3m", "steps": 6, "guidance": 0.0}):  # fmt: skip
        want, got = ours.generate(CONDITIONS, seed=9, **settings), theirs.generate(CONDITIONS, seed=9, **settings)
        assert agreement(want, got) >= 0.999, settings
    last = theirs.generate(CONDITIONS[4], seed=9, start=4)
    np.testing.assert_array_equal(last.packed[0], theirs.generate(CONDITIONS, seed=9).packed[4])
    origin = last.provenance["engine"]
    assert origin["batch"] == 4 and origin["backend_sha256"] == theirs.info["backend_sha256"] and "onnxruntime" in origin["runtime"]


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-cpp"])
def test_conditions_as_vectors_and_exact_first_steps(backend: str) -> None:
    needs_cpp_backend() if backend.endswith("cpp") else needs_onnxruntime()
    ours = gc.Engine(FIXTURES / "tiny-paper", precision="fp32")
    theirs = gc.Engine(EXPORTS / "tiny-paper-fp16", backend=backend)
    raw = np.linspace(-1, 1, 8).tolist()
    conditions = [{"cond": raw}, {"identity": "002", "view": "090"}, {}]
    # One step from t = T multiplies the output by 64,166: without the fp32 graph half of the pixels would be wrong.
    assert agreement(ours.generate(conditions, steps=1), theirs.generate(conditions, steps=1)) > 0.98
    with pytest.raises(InvalidRequestError, match="cannot be split by axis"):
        theirs.generate(conditions, guidance=2.0, null_axes=["identity"])


@pytest.mark.parametrize("backend", ["onnxruntime", "onnxruntime-cpp"])
def test_what_cannot_be_is_refused_with_the_remedy(backend: str, tmp_path: Path) -> None:
    needs_cpp_backend() if backend.endswith("cpp") else needs_onnxruntime()
    good = EXPORTS / "tiny-walker-fp32"

    def refuses(error: type[Exception], text: str, path: Path = good, **options: object) -> None:
        with pytest.raises(error, match=text):
            gc.Engine(path, backend=backend, **options)  # type: ignore[arg-type]

    refuses(CapabilityError, "onnx-gpu|onnxruntime-gpu", device="cuda")
    refuses(CapabilityError, "libnvinfer.so.10", device="tensorrt")
    refuses(InvalidRequestError, "takes .*cpu", device="tpu")
    refuses(InvalidRequestError, "exported in fp32", precision="fp16")
    refuses(InvalidRequestError, "exported for batch 2", EXPORTS / "tiny-paper-fp16", batch=3)
    refuses(InvalidRequestError, "isa", isa="avx2")
    refuses(ModelFormatError, "gaitcrafter-rt export onnx", FIXTURES / "tiny-walker")
    for change, error, text in (
        (lambda m: m.update(format_version=2), UnsupportedVersionError, "newer than 1"),
        (lambda m: m.update(graph="../model.onnx"), ModelFormatError, "graph|checksum"),
        (lambda m: m.update(precision="int4"), ModelFormatError, "precision"),
        (lambda m: m["files"].update({"model.onnx": "0" * 64}), ModelFormatError, "the file was changed"),
        (lambda m: m["files"].pop("config.json"), ModelFormatError, "no checksum of"),
        (lambda m: m.update(null_cond=[1.0]), ModelFormatError, "cond_dim is 0"),
        (lambda m: m.update(surprise=1), ModelFormatError, "surprise"),
    ):
        copy = tmp_path / "export"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(good, copy)
        manifest = json.loads((copy / MANIFEST).read_text())
        change(manifest)
        (copy / MANIFEST).write_text(json.dumps(manifest))
        refuses(error, text, copy)
    engine = gc.Engine(good, backend=backend)
    with pytest.raises(CapabilityError, match="profiling is for backend"), engine.profile():
        pass
    engine.close()
    with pytest.raises(InvalidRequestError, match="closed"):
        engine.generate({})


def test_a_bf16_graph_on_openvino() -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino; ONNX Runtime's CPU provider has no bf16 products")
    pytest.importorskip("torch", reason="needs the extra train")
    from gaitcrafter_rt.export.onnx.verify import verify_export

    found = verify_export(EXPORTS / "tiny-paper-bf16", FIXTURES / "tiny-paper", clips=2)
    assert found.runtime.startswith("openvino") and found.precision == "bf16"
    assert found.relative < 0.03  # torch in bf16 itself is off by 0.01


def test_missing_runtimes_are_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'gaitcrafter-rt\[onnx\]'"):
        gc.Engine(EXPORTS / "tiny-walker-fp32", backend="onnxruntime")
    monkeypatch.setitem(sys.modules, "openvino", None)
    pytest.importorskip("torch", reason="needs the extra train")
    from gaitcrafter_rt.export.onnx.verify import verify_export

    with pytest.raises(MissingExtraError, match=r"gaitcrafter-rt\[openvino\]"):
        verify_export(EXPORTS / "tiny-paper-bf16", FIXTURES / "tiny-paper")


def test_verification_is_of_the_model_that_was_exported() -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from gaitcrafter_rt.export.onnx.verify import verify_export

    with pytest.raises(ModelFormatError, match="other weights"):
        verify_export(EXPORTS / "tiny-walker-fp32", FIXTURES / "tiny-paper")
    with pytest.raises(InvalidRequestError, match="clips is 0"):
        verify_export(EXPORTS / "tiny-walker-fp32", FIXTURES / "tiny-walker", clips=0)
