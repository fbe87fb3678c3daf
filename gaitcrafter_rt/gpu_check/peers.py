"""Other runtimes on the same GPU, where they are installed; what is not there is an entry that says why."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..export.onnx import example_inputs
from .engine import seconds
from .measure import summary
from .networks import walker


def section(batches: list[int]) -> dict[str, Any]:
    """ONNX Runtime on CUDA and on TensorRT, and TensorRT itself, with one call of the shipped model's network."""
    rows: list[dict[str, Any]] = []
    parts: list[tuple[str, Callable[[], list[dict[str, Any]]]]] = [
        ("ONNX Runtime CUDA", lambda: onnxruntime("CUDAExecutionProvider", batches)),
        ("ONNX Runtime TensorRT", lambda: onnxruntime("TensorrtExecutionProvider", batches)),
        ("TensorRT", lambda: tensorrt(batches)),
    ]
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
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "walker.onnx"
            export_onnx(walker(), path, batch=batch)
            session = ort.InferenceSession(str(path), providers=[provider])
            if session.get_providers()[0] != provider:
                raise AbsentError(f"onnxruntime fell back to {', '.join(session.get_providers())}: {provider} does not load")
            given, exact = _call(batch)
            binding = session.io_binding()
            for name, value in given.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value.numpy(), "cuda", 0))
            binding.bind_output("out", "cuda", 0)
            times = [seconds(lambda: _once(session, binding)) for _ in range(12)][2:]  # noqa: B023 (called at once)
            got = torch.from_numpy(binding.copy_outputs_to_cpu()[0])
        rows.append({"batch": batch, "dtype": "fp32", **summary(times), "largest_error": (got - exact).abs().max().item()})
    return rows


def _once(session: Any, binding: Any) -> None:
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()


def tensorrt(batches: list[int]) -> list[dict[str, Any]]:
    """The shipped model's network by TensorRT's own API: distance to torch, and time with inputs on the device."""
    from ..errors import CapabilityError, MissingExtraError
    from ..export.tensorrt import open_library

    try:
        library = open_library()
    except (MissingExtraError, CapabilityError) as e:
        raise AbsentError(str(e)) from e
    return [row for precision in ("fp32", "fp16", "bf16") for row in _tensorrt(library, precision, batches)]


def _tensorrt(library: Any, precision: str, batches: list[int]) -> list[dict[str, Any]]:
    from ..backends.cudart import open_cuda
    from ..backends.exported import read_export
    from ..backends.tensorrt import EngineSession
    from ..export.onnx import export_folder
    from ..export.tensorrt import engine_for
    from ..export.tensorrt.build import Profile
    from ..models import resolve_model

    rows, cuda, gpu = [], open_cuda(), open_cuda().gpu(0)
    with tempfile.TemporaryDirectory() as folder:
        exported = read_export(export_folder(resolve_model("walker"), Path(folder) / "walker", precision))
        for batch in batches:
            built = engine_for(library, exported, exported.graph, gpu, [Profile(batch, batch, batch)])
            session = EngineSession(library, cuda, built.engine)
            given, exact = _call(batch)
            got = torch.from_numpy(session.run({name: value.numpy() for name, value in given.items()}))
            times = [seconds(session.execute) for _ in range(12)][2:]
            session.close()
            row = {"batch": batch, "dtype": precision, **summary(times), "largest_error": (got - exact).abs().max().item()}
            rows.append({**row, "engine_bytes": len(built.engine)})
    return rows


def _call(batch: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs of the shipped model on the CPU, and what the reference gives for them in fp32."""
    model = walker()
    given = example_inputs(model.config, batch)
    given["x"] = torch.randn(given["x"].shape, generator=torch.Generator().manual_seed(0))
    labels = {k.removeprefix("weights."): v.cuda() for k, v in given.items() if k.startswith("weights.")}
    with torch.no_grad():
        return given, model.cuda()(given["x"].cuda(), given["t"].cuda(), labels).cpu()
