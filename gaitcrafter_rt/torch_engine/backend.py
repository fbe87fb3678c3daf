"""What ``gaitcrafter_rt.Engine`` calls: the same methods as the native engine's binding, on torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import AXES, ModelConfig
from ..errors import CapabilityError, InvalidRequestError, MissingExtraError, OutOfMemoryError
from ..package import check_sums, read_config
from .devices import find_gpu, parse
from .requests import Given
from .settings import resolve

if TYPE_CHECKING:
    from .calls import Started

PRECISIONS = {"auto": "", "bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
BATCHES = (1, 8, 32, 128)
CONVOLUTIONS = ("auto", "triton", "torch")
Progress = Callable[[int, int, int, int], object]


class TorchBackend:
    """One opened model on torch. The GPU is started by the first call, so that a process may open a model and then fork workers.

    Args:
        device: ``cuda``, ``cuda:N``, or ``cpu`` (the reference: the same operations in plain torch).
        precision: auto (bf16 on a GPU, fp32 on a CPU), bf16, fp16, fp32.
        batch: clips of one network call, 1 to 1024; every call is cut into as many and its tail padded. None: those of 1, 8, 32 and
            128 that memory takes, as a call needs them, where a clip's bits do not depend on them; else the largest.
        conv: "triton" runs every convolution by this package's kernel, whose sums do not depend on the batch; "torch" by torch's
            library, which promises no such thing; "auto" by whichever alone was faster for a shape on an H100 (nn/fused_blocks.py).
        identity: in place of ``batch``, the ``isa`` of an earlier engine, whose bits are wanted.
        graphs: whether a GPU's work is captured; off is for finding faults.

    Raises MissingExtraError without torch, CapabilityError without such a GPU, InvalidRequestError, ModelFormatError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, device: str = "cuda", precision: str = "auto", batch: int | None = None,
        conv: str = "triton", identity: str | None = None, graphs: bool = True,
    ) -> None:  # fmt: skip
        self._torch = _import_torch()
        self._folder = Path(path)
        self._kind, self._number = parse(device)
        if precision not in PRECISIONS:
            raise InvalidRequestError(f"precision is {precision!r:.40}; the torch engine has {', '.join(PRECISIONS)}")
        if conv not in CONVOLUTIONS:
            raise InvalidRequestError(f"conv is {conv!r:.40}; allowed are {', '.join(CONVOLUTIONS)}")
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 1024):
            raise InvalidRequestError(f"batch is {batch!r:.40}; allowed are 1 to 1024, or None")
        self._config = read_config(self._folder)
        sums = check_sums(self._folder)
        gpu = find_gpu(self._number) if self._kind == "cuda" else None
        self._precision = ("fp32" if gpu is None else "bf16") if precision == "auto" else precision
        arch = "cpu" if gpu is None else f"sm_{gpu.capability[0]}{gpu.capability[1]}"
        if identity is not None:
            batch = _batch_of(identity, arch)
        largest = batch or largest_batch(self._config, None if gpu is None else gpu.memory, self._precision)
        is_invariant = gpu is not None and conv == "triton" and importlib.util.find_spec("triton") is not None
        several = batch is None and is_invariant
        self.batches = tuple(size for size in BATCHES if size <= largest) if several else (largest,)
        self.batch = largest
        self._conv, self._graphs = conv, graphs
        self.build = _build_hash(self._torch, "" if gpu is None else gpu.name, conv)
        self.info = self._describe(sums, f"torch-{arch}-b{self.batch}", gpu.name if gpu else "cpu")
        self._lock, self._owner = threading.Lock(), 0
        self._started: Started | None = None

    def _describe(self, sums: dict[str, str], isa: str, name: str) -> dict[str, Any]:
        c, clip = self._config, self._config.clip
        elements = c.unet.channels * clip.frames * clip.height * clip.width
        return {
            "channels": c.unet.channels, "frames": clip.frames, "height": clip.height, "width": clip.width,
            "timesteps": c.diffusion.timesteps, "cond_dim": c.conditioning.cond_dim,
            "guidance_trained": c.conditioning.guidance_trained, "threads": 1, "clip_floats": elements,
            "packed_bytes": -(-elements // 8), "sampler": {**c.sampler.model_dump(), "null_axes": list(AXES)}, "name": c.name,
            "model_sha256": sums["model.safetensors"], "device": self._kind, "precision": self._precision, "isa": isa,
            "weights_from": "memory", "provenance": c.provenance.model_dump(), "backend": "torch",
            "backend_sha256": self.build, "runtime": _runtime(self._torch), "batch": self.batch,
            "batches": list(self.batches), "gpu": name, "conv": self._conv,
        }  # fmt: skip

    def labels(self, axis: str) -> list[str]:
        """Label names of an axis."""
        return list(getattr(self._config.labels, axis))

    def axis_usable(self, axis: str) -> bool:
        """Whether a request may name labels of this axis."""
        conditioning = self._config.conditioning
        wired = getattr(conditioning, axis) != "none" or axis in (conditioning.cond_columns or {})
        return bool(getattr(self._config.labels, axis)) and wired

    def resolve_sampler(self, given: dict[str, Any]) -> dict[str, Any]:
        """See ``Engine.resolve_sampler``."""
        return resolve(self._config, given)

    def close(self) -> None:
        """Give the memory back."""
        with self._lock:
            if self._started is not None:
                self._started.close()
            self._started, self._folder = None, Path()

    def profile(self, on: bool) -> None:
        """The native engine times its parts; this one is timed from outside. Raises CapabilityError."""
        if on:
            raise CapabilityError("profile() belongs to the native engine; on a GPU use torch.profiler or make gpu-check")

    def profile_rows(self) -> list[dict[str, Any]]:
        """None."""
        return []

    def generate(
        self, *, count: int, seed: int, clip_indices: np.ndarray, axes: dict[str, Any], cond: np.ndarray | None,
        cond_given: np.ndarray | None, sampler: dict[str, Any], threshold: float, mode: int, initial_noise: np.ndarray | None,
        packed: np.ndarray, progress: Progress | None,
    ) -> None:  # fmt: skip
        """Fills ``packed [count, bytes]``; arguments as in ``Engine.generate`` and ``ConditionTable``, ``mode`` changes nothing."""
        if not 0 < threshold < 1:
            raise InvalidRequestError(f"threshold is {threshold}; it must be above 0 and below 1")
        if initial_noise is not None and not np.isfinite(initial_noise).all():
            raise InvalidRequestError("initial_noise holds a value that is not finite")
        if not self._lock.acquire(blocking=False):
            if self._owner == threading.get_ident():
                raise InvalidRequestError("the engine is called from its own progress callback; it runs one call at a time")
            self._lock.acquire()
        try:
            self._owner = threading.get_ident()
            from .calls import Call, Wanted

            wanted = Wanted(count, seed, clip_indices, Given(axes, cond, cond_given), sampler, threshold, initial_noise)
            Call(self._start(), wanted, packed, progress).run()
        except self._torch.OutOfMemoryError as e:
            raise OutOfMemoryError(
                f"{self.batch} clips at once do not fit into the memory that is free on {self.info['gpu']}; open the model with a "
                f"smaller batch ({str(e).splitlines()[0]:.200})"
            ) from e
        finally:
            self._owner = 0
            self._lock.release()

    def _start(self) -> Started:
        if self._folder == Path():
            raise InvalidRequestError("this engine is closed")
        if self._started is None:
            from .calls import Started

            dtype = getattr(self._torch, PRECISIONS[self._precision])
            self._started = Started(
                self._folder,
                self._config,
                self._number if self._kind == "cuda" else None,
                dtype,
                self._conv,
                self.batches,
                self._graphs,
            )
        if self._started.process != os.getpid():
            raise InvalidRequestError(
                "this engine ran before the process forked and what it holds stayed behind; open it in the new process"
            )
        return self._started


def largest_batch(config: ModelConfig, memory: int | None, precision: str) -> int:
    """The default batch: a function of the model and of the whole memory of the GPU, not of what is free; on a CPU 1."""
    if memory is None:
        return 1
    clip, u = config.clip, config.unet
    tokens = clip.frames * (clip.height // u.patch) * (clip.width // u.patch)
    widest = 3 * max(u.attention_heads * u.attention_dim_head, u.linear_heads * u.linear_dim_head)
    size = 4 if precision == "fp32" else 2
    lane = tokens * (12 * max(u.init_dim, u.dim) + widest) * size  # skips and what lives beside the widest tensor
    fitting = [batch for batch in BATCHES if 2 * batch * lane <= 0.6 * memory]
    return max(fitting, default=1)


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as e:
        raise MissingExtraError.for_extra("gpu", "the torch engine", e.name) from e
    return torch


def _batch_of(identity: str, arch: str) -> int:
    found = re.fullmatch(r"torch-(cpu|sm_\d+)-b(\d{1,4})", identity)
    if found is None:
        raise InvalidRequestError(f"isa is {identity!r:.60}; the torch engine's are torch-ARCHITECTURE-bBATCH, as torch-sm_90-b32")
    if found[1] != arch:
        raise CapabilityError(f"{identity} asks for {found[1]}, this device is {arch}")
    return int(found[2])


def _runtime(torch: Any) -> str:
    """Versions of what the network runs on."""
    return f"torch {torch.__version__}, Triton {_triton_version() or 'absent'}"


def _triton_version() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def _build_hash(torch: Any, gpu: str, conv: str) -> str:
    """sha256 of what decides the bits beside model, precision and batch: libraries, GPU, and this package's code for it."""
    cudnn = torch.backends.cudnn.version() if gpu else None
    total = hashlib.sha256(repr((torch.__version__, torch.version.cuda, cudnn, _triton_version(), gpu, conv)).encode())
    package = Path(__file__).parents[1]
    for folder in ("kernels", "nn", "samplers", "torch_engine"):
        for path in sorted((package / folder).glob("*.py")):
            total.update(path.name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
