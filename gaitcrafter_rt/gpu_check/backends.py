"""The engines of other backends on this GPU, end to end, where they are installed: cubin, ONNX Runtime and TensorRT, each beside
the native engine, its bits across calls and batches, its clips per second. What is not there is a row that says why."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from ..clips import ClipBatch
from ..engine import Engine
from ..errors import CapabilityError, MissingExtraError
from ..models import resolve_model
from .engine import LEAST_AGREEMENT, compared, conditions, equal_bits, seconds
from .measure import time_left

BATCHES = (1, 8, 32)
FIXED = 8  # the batch of parity and equal bits
TIMED = 5
PART_SECONDS = 20  # what a backend wants to have left
# What an error at opening says if the machine or this build lacks something, and nothing is broken.
ABSENT = ("not in this build", "the installed onnxruntime has no", "could not be loaded", "does not open", "this release takes",
          "this build takes")  # fmt: skip


@dataclass
class Models:
    """A model package in the forms that the backends take, made in ``folder`` when first asked for."""

    model: Path
    folder: Path
    made: dict[str, Path] = field(default_factory=dict)

    def onnx(self, precision: str) -> Path:
        """An ONNX export for any batch."""
        from ..export.onnx import export_folder

        return self._get(f"onnx-{precision}", lambda out: export_folder(self.model, out, precision))

    def kernels(self, precision: str) -> Path:
        """A kernel pack for this GPU alone."""
        import torch

        from ..export.cubins import SHARED_LIMITS
        from ..export.kernel_pack import write_kernel_pack

        major, minor = torch.cuda.get_device_capability()
        number = 10 * major + minor
        chips = [str(number) if number in SHARED_LIMITS else "ptx"]
        return self._get(f"kernels-{precision}", lambda out: write_kernel_pack(self.model, out, precision=precision, chips=chips))

    def _get(self, name: str, make: Callable[[Path], object]) -> Path:
        if name not in self.made:
            make(self.folder / name)
            self.made[name] = self.folder / name
        return self.made[name]


@dataclass(frozen=True)
class Contestant:
    """A backend in one precision. ``any_batch``: a clip has the same bits in every batch, as the cubin backend promises."""

    name: str
    backend: str
    device: str
    precision: str
    any_batch: bool = False

    def path(self, models: Models) -> Path:
        return (models.kernels if self.backend == "cubin" else models.onnx)(self.precision)


CONTESTANTS = [
    Contestant("cubin", "cubin", "cuda", "fp32", True), Contestant("cubin", "cubin", "cuda", "bf16", True),
    Contestant("ONNX Runtime CUDA", "onnxruntime", "cuda", "fp32"), Contestant("ONNX Runtime CUDA", "onnxruntime", "cuda", "fp16"),
    Contestant("ONNX Runtime CUDA, C++", "onnxruntime-cpp", "cuda", "fp32"),
    Contestant("ONNX Runtime TensorRT", "onnxruntime", "tensorrt", "fp32"),
    Contestant("TensorRT", "tensorrt", "cuda", "fp32"), Contestant("TensorRT", "tensorrt", "cuda", "fp16"),
    Contestant("TensorRT", "tensorrt", "cuda", "bf16"), Contestant("TensorRT, C++", "tensorrt-cpp", "cuda", "fp16"),
]  # fmt: skip


def section(model: Path | None = None, wanted: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """All of them with the shipped model, or another; one that fails does not hide the others."""
    found: dict[str, Any] = {"rows": [], "absent": [], "failures": [], "left_out": []}
    model, wanted = model or resolve_model("walker"), wanted or conditions(16)
    with Engine(model, precision="fp32") as native:
        truth = native.generate(wanted, seed=5)
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(model), Path(folder))
        for c in CONTESTANTS:
            what = f"{c.name}, {c.precision}"
            if time_left() < PART_SECONDS:
                found["left_out"].append(what)
                continue
            try:
                row = {"what": what, **contest(c, models, wanted, truth)}
            except AbsentError as e:
                found["absent"].append({"what": what, "why": str(e)})
                continue
            except Exception as e:
                found["failures"].append(f"{what}: {type(e).__name__}: {str(e)[:400]}")
                continue
            found["rows"].append(row)
            found["failures"] += [f"{what}: {text}" for text in row["wrong"]]
    return found


class AbsentError(Exception):
    """A backend is not there; the message says why."""


@contextmanager
def opened(c: Contestant, models: Models, batch: int) -> Iterator[Engine]:
    """Raises AbsentError where the backend is not installed."""
    try:
        engine = Engine(c.path(models), backend=c.backend, device=c.device, batch=batch)
    except MissingExtraError as e:
        raise AbsentError(str(e)) from e
    except CapabilityError as e:
        if not any(text in str(e) for text in ABSENT):
            raise
        raise AbsentError(str(e)) from e
    with engine:
        yield engine


def contest(c: Contestant, models: Models, wanted: list[dict[str, Any]], truth: ClipBatch) -> dict[str, Any]:
    """One backend's row: agreement with ``truth``, clips with other bits, seconds of a call and clips per second by batch."""
    build_ahead(c, models, FIXED)
    with opened(c, models, FIXED) as engine:
        first = seconds(lambda: engine.generate(wanted[:1]))
        clips = engine.generate(wanted, seed=5)
        bits = {"the same call again": equal_bits(clips, engine.generate(wanted, seed=5))}
        bits["three clips alone"] = equal_bits(clips[5:8], engine.generate(wanted[5:8], seed=5, start=5))
        row: dict[str, Any] = {"precision": c.precision, "runtime": engine.info["runtime"], **compared(clips, truth)}
    row["first_call_s"] = first
    row["speed"] = {}
    for batch in BATCHES:
        build_ahead(c, models, batch)
        with opened(c, models, batch) as engine:
            if c.any_batch:
                bits[f"batch {batch}"] = equal_bits(clips, engine.generate(wanted, seed=5))
            row["speed"][batch] = speed(engine, (wanted * batch)[:batch])
    row["bits"] = bits
    least = LEAST_AGREEMENT if c.precision == "fp32" else 0.99
    row["wrong"] = [f"{n} clips have other bits: {what}" for what, n in bits.items() if n]
    if row["pixels"] < least:
        row["wrong"].append(f"{row['pixels']:.5f} of the pixels agree with the native engine in fp32; at least {least} must")
    return row


def build_ahead(c: Contestant, models: Models, batch: int) -> None:
    """TensorRT's C++ backend builds no engines; the Python side does."""
    if c.backend == "tensorrt-cpp":
        from ..export.tensorrt import build_engines, open_library

        try:
            open_library()
        except (MissingExtraError, CapabilityError) as e:
            raise AbsentError(str(e)) from e
        build_engines(c.path(models), batches=[str(batch)])


def speed(engine: Engine, some: list[dict[str, Any]]) -> dict[str, float]:
    """Calls of the clips ``some``, by the clock of this process, conditions in to packed clips out."""
    engine.generate(some)
    single = [seconds(lambda: engine.generate(some)) for _ in range(TIMED)]
    rounds = max(1, min(32, int(1.0 / median(single))))
    streamed = [seconds(lambda: engine.generate(some * rounds)) for _ in range(3)]
    return {"latency_s": median(single), "latency_min_s": min(single), "clips_per_s": rounds * len(some) / median(streamed)}
