"""Other runtimes on the same GPU, where they are installed; what is not there is an entry that says why."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .measure import summary
from .networks import walker


def section(batches: list[int]) -> dict[str, Any]:
    """ONNX Runtime on CUDA and on TensorRT with the shipped model's network, and the cubin backend."""
    rows: list[dict[str, Any]] = []
    parts: list[tuple[str, Callable[[], list[dict[str, Any]]]]] = [
        ("ONNX Runtime CUDA", lambda: onnxruntime("CUDAExecutionProvider", batches)),
        ("ONNX Runtime TensorRT", lambda: onnxruntime("TensorrtExecutionProvider", batches)), ("TensorRT", tensorrt),
        ("cubin backend", cubin),
    ]  # fmt: skip
    failures = []
    for name, part in parts:
        try:
            rows += [{"peer": name, **row} for row in part()]
        except AbsentError as e:
            rows.append({"peer": name, "absent": str(e)})
        except Exception as e:
            failures.append(f"{name}: {type(e).__name__}: {str(e)[:300]}")
    return {"rows": rows, "failures": failures}


class AbsentError(Exception):
    """A peer is not there; the message says why."""


def onnxruntime(provider: str, batches: list[int]) -> list[dict[str, Any]]:
    """The shipped model's network in fp32 by one execution provider: distance to torch, and time with inputs on the device."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise AbsentError("onnxruntime is not installed: pip install onnxruntime-gpu")
    import onnxruntime as ort

    if provider not in ort.get_available_providers():
        raise AbsentError(f"onnxruntime {ort.__version__} has no {provider}; it has {', '.join(ort.get_available_providers())}")
    from ..export.onnx import export_onnx

    rows = []
    for batch in batches:
        model = walker()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "walker.onnx"
            given = export_onnx(model, path, batch=batch)
            session = ort.InferenceSession(str(path), providers=[provider])
            if session.get_providers()[0] != provider:
                raise AbsentError(f"onnxruntime fell back to {', '.join(session.get_providers())}: {provider} does not load")
            given["x"] = torch.randn(given["x"].shape, generator=torch.Generator().manual_seed(0))
            binding = session.io_binding()
            for name, value in given.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value.numpy(), "cuda", 0))
            binding.bind_output("out", "cuda", 0)
            times = [_once(session, binding) for _ in range(12)][2:]
            got = torch.from_numpy(binding.copy_outputs_to_cpu()[0])
            labels = {k.removeprefix("weights."): v.cuda() for k, v in given.items() if k.startswith("weights.")}
            with torch.no_grad():
                exact = model.cuda()(given["x"].cuda(), given["t"].cuda(), labels).cpu()
        rows.append({"batch": batch, "dtype": "fp32", **summary(times), "largest_error": (got - exact).abs().max().item()})
    return rows


def _once(session: Any, binding: Any) -> float:
    import time

    began = time.perf_counter()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    return time.perf_counter() - began


def tensorrt() -> list[dict[str, Any]]:
    """TensorRT by its own API."""
    if importlib.util.find_spec("tensorrt") is None:
        raise AbsentError("tensorrt is not installed: pip install 'gaitcrafter-rt[tensorrt]'")
    raise AbsentError("tensorrt is installed; its builder is not part of this check yet")


def cubin() -> list[dict[str, Any]]:
    """The C++ backend of compiled kernels."""
    raise AbsentError("not part of this check yet: build/test-release/tests/cubin_check PACK (docs/gpu.md) checks it")
