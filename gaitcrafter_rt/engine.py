"""The engine: a model on one device, conditions in, packed clips out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from itertools import islice
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from .backends import Options, open_runner
from .clips import ClipBatch
from .conditions import Condition, ConditionTable, Vocabulary
from .config import AXES
from .errors import InvalidRequestError, OutOfMemoryError
from .install import engine_build, version
from .models import resolve_model

MAX_CLIPS = 1 << 20
MODES = ("auto", "throughput", "latency")  # by their numbers in the C interface
_SEED_LIMIT = 1 << 64
Conditions = Sequence[Condition | Mapping[str, Any]]


class Progress(NamedTuple):
    """How far a call is; steps are sampler steps summed over clips."""

    steps_done: int
    steps_total: int
    clips_done: int
    clips_total: int


ProgressCallback = Callable[[Progress], object]


class Engine:
    """One opened model. A clip's bits depend on the model, its conditions, the sampler, the seed and its clip index alone:
    not on the batch, the number of threads, or the other clips. They may differ between instruction sets.

    Attributes:
        info: what the native engine says of the model (clip shape, sampler defaults, hash, instruction set, FLOPs per call), and
            ``weights_from``: "cache" if the packed weights are mapped from a file that was there, "written" if they were
            packed now and the file was written, "memory" if there is no usable cache.
        vocabulary: label names per axis.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        precision: str = "auto",
        threads: int | None = None,
        isa: str | None = None,
        backend: str | None = None,
        batch: int | None = None,
        library: str | None = None,
        plan: str | None = None,
        conv: str = "triton",
        graphs: bool = True,
    ) -> None:
        """Open a model folder; see :meth:`from_pretrained`. ``isa`` (portable, avx2, avx512, avx512_amx) is for tests and
        benchmarks.

        On the torch engine ``isa`` is that of an earlier engine whose bits are wanted; ``graphs=False`` runs without CUDA graphs.
        """
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256):
            raise InvalidRequestError(f"threads is {threads!r}; allowed are 1 to 256, or None for one per processor")
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= 256):
            raise InvalidRequestError(f"batch is {batch!r}; allowed are 1 to 256, or None for the backend's own")
        backend = backend or _default(device, isa)
        self._native = open_runner(
            path, Options(backend, device, precision, threads or 0, isa, batch or 0, library, plan, conv, graphs)
        )
        self.info: dict[str, Any] = self._native.info
        self.vocabulary = Vocabulary(
            {axis: self._native.labels(axis) for axis in AXES},
            {axis: self._native.axis_usable(axis) for axis in AXES},
            self.info["cond_dim"],
        )

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | os.PathLike[str],
        device: str = "cpu",
        precision: str = "auto",
        threads: int | None = None,
        backend: str | None = None,
        batch: int | None = None,
        library: str | None = None,
        plan: str | None = None,
        conv: str = "triton",
    ) -> Engine:
        """Open a model package (a folder) or a model that ships with gaitcrafter_rt (a name).

        ``backend`` is who runs the network: "native", the engine of this package on the CPU; "torch", on a GPU (and on a CPU its
        reference), with ``conv`` triton, torch or auto (docs/gpu.md); "cubin" (docs/gpu.md), with ``plan``, the model's kernel
        pack; or one of docs/export.md. None: the torch engine for a device cuda or cuda:N, else the native one. All but native
        take ``batch`` (clips per network call, 1..256; None: the backend's own); ``library`` is the path of a backend's shared
        library, where it is not found by itself.

        Raises ModelFormatError or UnsupportedVersionError for a bad package, CapabilityError for a device or precision
        that this build lacks, InvalidRequestError for a bad number of threads (1..256; None: one per processor).
        """
        return cls(
            resolve_model(path_or_name), device=device, precision=precision, threads=threads, backend=backend, batch=batch,
            library=library, plan=plan, conv=conv,
        )  # fmt: skip

    @property
    def clip_shape(self) -> tuple[int, int, int]:
        """(frames, height, width)."""
        return self.info["frames"], self.info["height"], self.info["width"]

    @property
    def build(self) -> str:
        """sha256 of the native library, or of what another backend consists of: equal builds make equal bits on one ``isa``."""
        return getattr(self._native, "build", None) or engine_build()

    def resolve_sampler(
        self, *, sampler: str | None = None, steps: int | None = None, eta: float | None = None, guidance: float | None = None,
        spacing: str | None = None, thresholding: str | None = None, dynamic_percentile: float | None = None,
        rederive_eps: bool | None = None, null_axes: Sequence[str] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """The sampler arguments of :meth:`generate` with the model's defaults filled in, ``sampler`` named ``kind``.

        Raises InvalidRequestError for what this model does not allow.
        """
        return self._settings(
            kind=sampler, steps=steps, eta=eta, guidance=guidance, spacing=spacing, thresholding=thresholding,
            dynamic_percentile=dynamic_percentile, rederive_eps=rederive_eps, null_axes=null_axes,
        )  # fmt: skip

    def close(self) -> None:
        """Free the model; later calls raise InvalidRequestError."""
        self._native.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        i, (f, h, w) = self.info, self.clip_shape
        where = " ".join(filter(None, (i["backend"].removeprefix("native"), i["device"], i["precision"], i["isa"])))
        return f"Engine({i['name']!r}, {f}x{h}x{w}, {where}, {i['threads']} threads)"

    def generate(
        self,
        conditions: Conditions | Condition | Mapping[str, Any],
        seed: int = 0,
        start: int = 0,
        sampler: str | None = None,
        steps: int | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        threshold: float = 0.5,
        *,
        mode: str = "auto",
        spacing: str | None = None,
        thresholding: str | None = None,
        dynamic_percentile: float | None = None,
        rederive_eps: bool | None = None,
        null_axes: Sequence[str] | None = None,
        clip_indices: Sequence[int] | np.ndarray | None = None,
        initial_noise: np.ndarray | None = None,
        progress: ProgressCallback | None = None,
    ) -> ClipBatch:
        """One clip per condition.

        Args:
            conditions: a list of :class:`Condition` or dicts of its fields (one alone makes one clip).
            seed, start: clip ``i`` draws its noise from (seed, start + i); each 0 to 2**64 - 1.
            sampler, steps, eta, guidance, spacing, thresholding, dynamic_percentile, rederive_eps: None takes the model's
                default (``info["sampler"]``); meanings and ranges in docs/samplers.md.
            threshold: above 0, below 1; a pixel is foreground where (x_0 + 1) / 2 exceeds it.
            mode: how threads share the clips; the bits do not depend on it. "throughput": every clip is made by one thread.
                "latency": one clip after another, each by all threads, in the memory of one. "auto": a clip per thread, and
                threads that have none (the clips are fewer, or these are the last) help the others.
            null_axes: axes that are null in the lane guidance moves away from; None: all.
            clip_indices: in place of start, start + 1, ...
            initial_noise: float32 [N, C, F, H, W], x_T in place of the drawn one.
            progress: called with :class:`Progress` on this thread about 20 times a second; returning False cancels.

        Raises:
            InvalidRequestError: an argument the model does not allow, before anything runs. CancelledError: ``progress``
            returned False. OutOfMemoryError: the message says how much was needed. InternalError: not-finite values.
        """
        if isinstance(conditions, Condition | Mapping):
            conditions = [conditions]
        settings = self.resolve_sampler(
            sampler=sampler, steps=steps, eta=eta, guidance=guidance, spacing=spacing, thresholding=thresholding,
            dynamic_percentile=dynamic_percentile, rederive_eps=rederive_eps, null_axes=null_axes,
        )  # fmt: skip
        if isinstance(conditions, str) or not isinstance(conditions, Sequence):
            raise InvalidRequestError(f"conditions must be a list, got {type(conditions).__name__}; stream() takes any iterable")
        if not 1 <= len(conditions) <= MAX_CLIPS:
            raise InvalidRequestError(f"{len(conditions)} conditions; a call takes 1 to {MAX_CLIPS} clips, see stream()")
        return self._run(
            conditions, _unsigned("seed", seed), _unsigned("start", start), settings, threshold, _mode(mode), clip_indices,
            initial_noise, progress,
        )  # fmt: skip

    def stream(
        self,
        conditions: Iterable[Condition | Mapping[str, Any]],
        batch: int = 64,
        seed: int = 0,
        start: int = 0,
        threshold: float = 0.5,
        *,
        mode: str = "auto",
        progress: ProgressCallback | None = None,
        **sampler: Any,
    ) -> Iterator[ClipBatch]:
        """Batches of at most ``batch`` clips, with the same bits as one :meth:`generate` call over all conditions.

        ``conditions`` may be any iterable, even an endless one; ``mode`` and ``sampler`` are those of generate.
        ``progress`` counts over the whole stream if ``conditions`` has a length, else up to the current batch.
        """
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= MAX_CLIPS:
            raise InvalidRequestError(f"batch is {batch!r}; allowed are 1 to {MAX_CLIPS}")
        renamed = {"kind" if k == "sampler" else k: v for k, v in sampler.items()}
        settings = self._settings(**renamed)
        seed, start = _unsigned("seed", seed), _unsigned("start", start)
        total = len(conditions) if isinstance(conditions, Sized) else None
        return self._stream(iter(conditions), total, batch, seed, start, settings, threshold, _mode(mode), progress)

    @contextmanager
    def profile(self) -> Iterator[list[dict[str, Any]]]:
        """Time every part of the calls of :meth:`generate` inside a ``with`` block; the list it gives is filled at the end.

        A row is an op at one resolution: ``stage`` ("network", "clip"; "network in fp32" for the calls that an eps-model makes
        in fp32 in every precision), ``op``, ``arithmetic`` ("fp32", "bf16", "int8"; "" without products), ``height``, ``width``,
        ``calls``, ``seconds`` (by the clock of the thread that leads a clip; clips made at the same time are added up) and
        ``operations`` (2 x multiply-adds). Raises InvalidRequestError inside a progress callback.
        """
        rows: list[dict[str, Any]] = []
        self._native.profile(True)
        try:
            yield rows
            rows += self._native.profile_rows()
        finally:
            self._native.profile(False)

    def _stream(
        self, rest: Iterator[Condition | Mapping[str, Any]], total: int | None, batch: int, seed: int, start: int,
        settings: dict[str, Any], threshold: float, mode: int, progress: ProgressCallback | None,
    ) -> Iterator[ClipBatch]:  # fmt: skip
        done = 0
        while chunk := list(islice(rest, batch)):
            report = None
            if progress is not None:
                report = _shifted(progress, done, total or done + len(chunk), settings["steps"])
            yield self._run(chunk, seed, start + done, settings, threshold, mode, None, None, report)
            done += len(chunk)

    def _settings(self, **given: Any) -> dict[str, Any]:
        """Sampler settings with the model's defaults filled in, checked."""
        return self._native.resolve_sampler({k: v for k, v in given.items() if v is not None})

    def _run(
        self, conditions: Conditions, seed: int, start: int, settings: dict[str, Any], threshold: float, mode: int,
        clip_indices: Sequence[int] | np.ndarray | None, initial_noise: np.ndarray | None, progress: ProgressCallback | None,
    ) -> ClipBatch:  # fmt: skip
        if self.info["channels"] != 1:
            raise InvalidRequestError(f"this model has {self.info['channels']} channels; silhouette clips have 1")
        table = ConditionTable(self.vocabulary, conditions)
        count = len(table)
        indices = _indices(clip_indices, start, count)
        noise = None if initial_noise is None else _noise(initial_noise, (count, 1, *self.clip_shape))
        if isinstance(threshold, bool) or not isinstance(threshold, Real):
            raise InvalidRequestError(f"threshold is {threshold!r}; it must be a number above 0 and below 1")
        try:
            packed = np.empty((count, self.info["packed_bytes"]), np.uint8)
        except MemoryError as e:
            raise OutOfMemoryError(f"{count} clips need {count * self.info['packed_bytes']} bytes; use stream()") from e
        self._native.generate(
            count=count, seed=seed, clip_indices=indices, axes=table.axes, cond=table.cond, cond_given=table.cond_given,
            sampler=settings, threshold=float(threshold), mode=mode, initial_noise=noise,
            packed=packed, progress=None if progress is None else lambda *p: progress(Progress(*p)),
        )  # fmt: skip
        return ClipBatch(packed, self.clip_shape, table.plain, seed, indices, self._provenance(settings, float(threshold)))

    def _provenance(self, settings: dict[str, Any], threshold: float) -> dict[str, Any]:
        i = self.info
        return {
            "model": i["name"],
            "model_sha256": i["model_sha256"],
            "sampler": settings,
            "threshold": threshold,
            "engine": {
                "gaitcrafter_rt": version(), "device": i["device"], "precision": i["precision"], "isa": i["isa"],
                **({} if i["backend"] == "native" else {k: i[k] for k in ("backend", "batch", "backend_sha256", "runtime")}),
            },
            **{k: i["provenance"][k] for k in ("training_data", "training_data_terms", "identities")},
        }


def _default(device: str, isa: str | None) -> str:
    """The backend of a device where none is named."""
    return "torch" if device.partition(":")[0] == "cuda" or (isa or "").startswith("torch-") else "native"


def _shifted(progress: ProgressCallback, clips_before: int, clips_total: int, steps: int) -> ProgressCallback:
    """A callback for one batch that reports to ``progress`` as part of a stream."""
    before = clips_before * steps
    return lambda p: progress(Progress(p.steps_done + before, clips_total * steps, p.clips_done + clips_before, clips_total))


def _mode(mode: object) -> int:
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidRequestError(f"mode is {mode!r:.80}; allowed are {', '.join(MODES)}")
    return MODES.index(mode)


def _unsigned(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= int(value) < _SEED_LIMIT:
        raise InvalidRequestError(f"{name} is {value!r:.80}; it must be an integer from 0 to 2**64 - 1")
    return int(value)


def _indices(given: Sequence[int] | np.ndarray | None, start: int, count: int) -> np.ndarray:
    """Clip indices uint64 [count]."""
    if given is None:
        if start + count > _SEED_LIMIT:
            raise InvalidRequestError(f"start {start} plus {count} clips exceeds the largest clip index, 2**64 - 1")
        return np.arange(count, dtype=np.uint64) + np.uint64(start)
    values = [_unsigned("clip index", v) for v in given]
    if len(values) != count:
        raise InvalidRequestError(f"{len(values)} clip indices for {count} conditions; give one per clip")
    return np.array(values, np.uint64)


def _noise(given: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    noise = np.ascontiguousarray(given, np.float32)
    if noise.shape != shape:
        raise InvalidRequestError(f"initial_noise has shape {noise.shape}; it must be {shape}")
    return noise
