"""Triton kernels as TensorRT plugins, as far as they go without TensorRT: the rewritten graph, the PTX, and what is registered."""

from __future__ import annotations

import math
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
ort = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("triton", reason="needs the extra gpu")

from fake_tensorrt import Tensorrt  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from gaitcrafter_rt.errors import CapabilityError, InternalError  # noqa: E402
from gaitcrafter_rt.export.tensorrt import plugins  # noqa: E402
from gaitcrafter_rt.export.tensorrt.library import Library, open_library  # noqa: E402
from gaitcrafter_rt.export.tensorrt.rewrite import graph_for  # noqa: E402
from gaitcrafter_rt.kernels import group_norm_silu as ops  # noqa: E402

IMAGES, CHANNELS, SIDE, GROUPS = 6, 24, 5, 4
FIXTURES = Path(__file__).parent.parent / "fixtures"


def norm_graph(film: bool = False, images: int | str = IMAGES, one: float = 1.0) -> Any:
    """``silu(group_norm(x))``, or with a FiLM between both, as torch exports nn/blocks.py."""
    shape = [images, CHANNELS, SIDE, SIDE]
    nodes = [helper.make_node("GroupNormalization", ["x", "w", "b"], ["n"], num_groups=GROUPS, epsilon=1e-5)]
    last = "n"
    if film:
        nodes += [
            helper.make_node("Unsqueeze", ["film", "axes"], ["rows"]),
            helper.make_node("Split", ["rows"], ["scale", "shift"], axis=1, num_outputs=2),
            helper.make_node("Add", ["scale", "one"], ["gain"]), helper.make_node("Mul", ["n", "gain"], ["m"]),
            helper.make_node("Add", ["shift", "m"], ["f"]),
        ]  # fmt: skip
        last = "f"
    nodes += [helper.make_node("Sigmoid", [last], ["s"]), helper.make_node("Mul", [last, "s"], ["y"])]
    rng = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(rng.standard_normal(CHANNELS, np.float32), name) for name in "wb"]
    weights += [onnx.numpy_helper.from_array(np.array(v), name) for name, v in (("one", np.float32(one)), ("axes", [2, 3]))]
    io = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    rows = [helper.make_tensor_value_info("film", TensorProto.FLOAT, [images, 2 * CHANNELS])] if film else []
    graph = helper.make_graph(nodes, "norm", [io[0], *rows], io[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def reference(plugin: plugins.Plugin) -> type:
    """The plugin for onnx's own evaluator: the kernel's reference in torch."""
    kind = plugin.launch.name

    def run(self: Any, *arrays: np.ndarray, **_: Any) -> tuple[np.ndarray]:
        given = [torch.from_numpy(a.copy()) for a in arrays]
        if kind == "moments":
            return (ops.moments_of(given[0].permute(0, 3, 1, 2)).numpy(),)
        if kind == "affine":
            return (ops.norm_affine(*given[:3], GROUPS, 1, "frame", SIDE * SIDE, *given[3:]).numpy(),)
        x = given[0].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        return (ops.affine_silu(x, given[1]).permute(0, 2, 3, 1).contiguous().numpy(),)

    from onnx.reference.op_run import OpRun

    return type(plugin.name, (OpRun,), {"op_domain": "", "_run": run})


@pytest.mark.parametrize("film", [False, True])
def test_the_rewritten_graph_computes_the_same(film: bool) -> None:
    model = norm_graph(film)
    rng = np.random.default_rng(1)
    given = {"x": rng.standard_normal((IMAGES, CHANNELS, SIDE, SIDE), np.float32)}
    if film:
        given["film"] = rng.standard_normal((IMAGES, 2 * CHANNELS), np.float32)
    (want,) = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
    used = plugins.insert_norms(model)
    assert [node.op_type for node in model.graph.node][-5:] == ["Transpose", *(p.name for p in used), "Transpose"]
    assert [p.launch.name for p in used] == ["moments", "affine", "apply"] and len(used[1].inputs) == 3 + film
    assert {(a.name, helper.get_attribute_value(a)) for a in model.graph.node[-2].attribute} == {
        ("plugin_namespace", b"gaitcrafter"), ("aot", 1),
    }  # fmt: skip
    from onnx.reference import ReferenceEvaluator

    (got,) = ReferenceEvaluator(model, new_ops=[reference(p) for p in used]).run(None, given)
    np.testing.assert_allclose(got, want, atol=5e-6)


def test_all_norms_of_the_shipped_network_become_plugins() -> None:
    """Those of tiny-walker, which has the same blocks; its graph is for any batch, and here for 2 clips."""
    model = onnx.load(FIXTURES / "exports" / "tiny-walker-fp32" / "model.onnx")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:  # "batch", "6*batch"
                dim.dim_value = math.prod(2 if part == "batch" else int(part) for part in dim.dim_param.split("*"))
    norms = sum(node.op_type == "GroupNormalization" for node in model.graph.node)
    plugins.insert_norms(model)
    kinds = [node.op_type.split("_")[0] for node in model.graph.node]
    assert norms > 8 and kinds.count("GroupNormalization") == 0
    assert kinds.count("moments") == kinds.count("affine") == kinds.count("apply") == norms


def test_what_does_not_fit_stays_plain() -> None:
    for model in (norm_graph(film=True, one=2.0), norm_graph(images="batch")):
        with pytest.raises(CapabilityError, match="no norm that a plugin can take"):
            plugins.insert_norms(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ptx_takes_the_tensors_and_nothing_else(dtype: str, tmp_path: Path) -> None:
    from gaitcrafter_rt.export.cubins import tool

    for plugin in plugins.plugins_of(IMAGES, CHANNELS, SIDE, SIDE, GROUPS, dtype):
        entry, ptx, threads, shared = plugins.kernel_ptx(plugin, 80)
        assert threads % 32 == 0 and shared >= 0
        path = tmp_path / "kernel.ptx"
        path.write_text(ptx)
        cubin = tmp_path / "kernel.cubin"
        subprocess.run([str(tool("ptxas")), "--gpu-name", "sm_80", str(path), "-o", str(cubin)], check=True, capture_output=True)
        said = subprocess.run([str(tool("cuobjdump")), "-elf", str(cubin)], check=True, capture_output=True, text=True).stdout
        sizes = [line for line in said.splitlines() if "EIATTR_KPARAM_INFO" in line]
        assert len(sizes) == len(plugin.inputs) + 1, entry


def test_a_kernel_that_uses_its_scratch_memory_is_refused() -> None:
    text = ".entry k(\n\t.param .u64 k_param_0,\n\t.param .u64 k_param_1\n)\n{ ld.param.b64 %rd1, [k_param_1]; }"
    with pytest.raises(InternalError, match="more than its 1 tensors"):
        plugins.without_scratch(text, "k", 1)
    assert "k_param_1" not in plugins.without_scratch(text.replace("[k_param_1]", "[k_param_0]"), "k", 1)


class Trtp(types.ModuleType):
    """A stand-in for ``tensorrt.plugin`` that keeps what is registered."""

    class TensorDesc: ...

    class KernelLaunchParams(types.SimpleNamespace): ...

    def __init__(self) -> None:
        super().__init__("tensorrt.plugin")
        self.described: dict[str, Any] = {}
        self.compiled: dict[str, Any] = {}
        self.register = lambda name: lambda f: self.described.update({name: f})
        self.aot_impl = lambda name: lambda f: self.compiled.update({name: f})
        self.from_shape_expr = lambda shape, dtype: (shape, dtype)
        self.SymIntExprs = lambda n: ["expression"] * n


def test_what_tensorrt_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake, trtp = Tensorrt(), Trtp()
    fake.module.float32, fake.module.float16, fake.module.plugin = "FP32", "FP16", trtp
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", trtp)
    monkeypatch.setattr(plugins, "_registered", set())
    path = tmp_path / "norm.onnx"
    onnx.save(norm_graph(), path)
    with graph_for(open_library(), path, plugins=80) as rewritten:
        kinds = [node.op_type for node in onnx.load(rewritten).graph.node]
        assert rewritten.parent.stat().st_mode & 0o777 == 0o700
    assert set(trtp.described) == set(trtp.compiled) == {f"gaitcrafter::{kind}" for kind in kinds if kind != "Transpose"}
    for name, f in trtp.described.items():
        given = [a for a in f.__annotations__ if a != "return"]
        assert set(f.__annotations__.values()) == {trtp.TensorDesc}
        shape, dtype = f(*given)
        entry, ptx, launch, extra = trtp.compiled[name](*given, outputs=(None,))
        kind = name.removeprefix("gaitcrafter::").split("_")[0]
        assert entry == f"_{kind}".encode() and b".entry _" + kind.encode() in ptx and extra == [] and dtype == "FP32"
        assert shape == {"moments": (6, 1, 2, 24), "affine": (6, 2, 24), "apply": (6, SIDE, SIDE, 24)}[kind]
        assert (launch.grid_x, launch.grid_y) == {"moments": (6, 1), "affine": (6, 4), "apply": (6, 1)}[kind]
        assert launch.block_x in (32, 64, 128, 256)


def test_a_library_without_python_plugins_says_so() -> None:
    bare = Library("gaitcrafter_rt.nowhere", "1.7.1", None)
    with pytest.raises(CapabilityError, match=r"has no Python plugins .*build without plugins"):
        plugins.register(bare, [], 80)
