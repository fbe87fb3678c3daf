"""The sampler's loop in Python over a network that somebody else runs: noise and packing are the native library's, the sums of a
step are numpy's in the engine's order, so that equal network outputs make equal clips.

A network is a function of a fixed batch, ``call(x [B, C, F, H, W], t [B], conditions, exact) -> out like x``, all float32 but t
(int64); ``conditions`` maps the graph inputs ``weights.AXIS`` and ``cond`` to arrays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..conditions import clip_axes, label_vector, label_weights
from ..config import AXES, ModelConfig
from ..errors import CancelledError, InternalError, InvalidRequestError
from ..install import native
from ..samplers.thresholds import threshold as bounded
from .exported import EXACT_AMPLIFICATION

REPORT_EVERY = 0.05  # seconds
Arrays = dict[str, np.ndarray]
Sparse = tuple[np.ndarray, np.ndarray, np.ndarray]  # offsets, labels, weights (conditions.ConditionTable)


class Network(Protocol):
    def __call__(self, x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray: ...


class Conditions:
    """The conditions of a call's clips, made dense for a batch at a time."""

    def __init__(
        self, config: ModelConfig, null_cond: Sequence[float], axes: Mapping[str, Sparse], cond: np.ndarray | None,
        cond_given: np.ndarray | None,
    ) -> None:  # fmt: skip
        self.config, self.axes, self.cond, self.cond_given = config, axes, cond, cond_given
        self.null_cond = np.array(null_cond, np.float32)

    def dense(self, clips: np.ndarray, without: frozenset[str] = frozenset(), raw: bool = True) -> Arrays:
        """Arrays of the clips by graph input name; axes in ``without`` are null, and raw vectors too unless ``raw``."""
        rows = [{k: v for k, v in clip_axes(self.axes, clip).items() if k not in without} for clip in clips]
        if self.config.conditioning.cond_dim:
            return {"cond": np.stack([self._vector(clip, row, raw) for clip, row in zip(clips, rows, strict=True)])}
        dense = [label_weights(self.config, row) for row in rows]
        return {f"weights.{axis}": np.stack([row[axis] for row in dense]) for axis in dense[0]}

    def _vector(self, clip: int, axes: Mapping[str, Mapping[int, float]], raw: bool) -> np.ndarray:
        if raw and self.cond is not None and (self.cond_given is None or self.cond_given[clip]):
            return self.cond[clip].astype(np.float32)
        vector = label_vector(self.config, axes)
        return self.null_cond if vector is None else vector


class TableLoop:
    """Runs requests of a native engine's ``generate`` on a network. ``rows`` and ``settings`` are a compiled sampler."""

    def __init__(self, network: Network, config: ModelConfig, null_cond: Sequence[float], batch: int) -> None:
        self.network, self.config, self.null_cond, self.batch = network, config, null_cond, batch
        self.shape = (config.unet.channels, config.clip.frames, config.clip.height, config.clip.width)

    def generate(
        self, rows: np.ndarray, sampler: dict[str, Any], *, count: int, seed: int, clip_indices: np.ndarray,
        axes: Mapping[str, Sparse], cond: np.ndarray | None, cond_given: np.ndarray | None,
        threshold: float, initial_noise: np.ndarray | None, packed: np.ndarray, progress: Callable[..., object] | None,
        x0: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Write ``packed [count, bytes]`` (and x_0 ``[count, C, F, H, W]`` where ``x0`` is given).

        Raises InvalidRequestError for guidance or a threshold that the model or the engine does not take, CancelledError if
        ``progress`` returns False, InternalError for values that are not finite.
        """
        guidance = float(sampler["guidance"])
        without = frozenset(sampler["null_axes"])
        self._check(guidance, without, cond_given, threshold, initial_noise)
        conditions = Conditions(self.config, self.null_cond, axes, cond, cond_given)
        last, total = 0.0, count * len(rows)

        def report(steps: int, clips: int, always: bool) -> None:
            nonlocal last
            if progress is None or (not always and time.monotonic() - last < REPORT_EVERY):
                return
            last = time.monotonic()
            if progress(steps, total, clips, count) is False:
                raise CancelledError(
                    f"cancelled by the progress callback after {steps} of {total} steps; no clip of this call was kept"
                )

        report(0, 0, True)
        for first in range(0, count, self.batch):
            real = min(self.batch, count - first)
            # A short batch repeats its last clip: the network's calls have one shape.
            slots = np.minimum(first + np.arange(self.batch), first + real - 1)
            x = self._initial(seed, clip_indices[slots], None if initial_noise is None else initial_noise[slots])
            lanes = [conditions.dense(slots)] if guidance != 0 else []
            if guidance != 1:
                lanes.append(conditions.dense(slots, without, raw=False))

            def done(row: int, first: int = first, real: int = real) -> None:
                report(first * len(rows) + row * real, first, False)

            x = self._run(rows, sampler, guidance, lanes, x, seed, clip_indices[slots], done)
            bits = [native().pack(np.ascontiguousarray(clip), threshold) for clip in x[:real]]
            packed[first : first + real] = np.stack(bits)
            if x0 is not None:
                x0[first : first + real] = x[:real]
        report(total, count, True)

    def _check(
        self, guidance: float, without: frozenset[str], cond_given: np.ndarray | None, threshold: float, noise: np.ndarray | None
    ) -> None:
        if guidance != 1 and not self.config.conditioning.guidance_trained:
            raise InvalidRequestError(
                f"guidance is {guidance}, but this model was not trained for guidance (its null condition is untrained); "
                "use guidance 1"
            )
        if guidance != 1 and len(without) < len(AXES) and cond_given is not None and cond_given.any():
            raise InvalidRequestError("guidance along some axes only needs labels; a raw cond vector cannot be split by axis")
        if not 0 < threshold < 1:
            raise InvalidRequestError(f"threshold is {threshold}; it must be above 0 and below 1")
        if noise is not None and not np.isfinite(noise).all():
            raise InvalidRequestError("initial_noise holds a value that is not finite")

    def _initial(self, seed: int, indices: np.ndarray, given: np.ndarray | None) -> np.ndarray:
        return self._noise(seed, indices, 0) if given is None else np.array(given, np.float32)

    def _noise(self, seed: int, indices: np.ndarray, stream: int) -> np.ndarray:
        n = math.prod(self.shape)
        return np.stack([native().noise_fill(seed, int(i), stream, n).reshape(self.shape) for i in indices])

    def _run(
        self, rows: np.ndarray, sampler: dict[str, Any], guidance: float, lanes: list[Arrays], x: np.ndarray, seed: int,
        indices: np.ndarray, done: Callable[[int], None],
    ) -> np.ndarray:  # fmt: skip
        """x_0 of one batch by the rows (docs/architecture.md, "The sampler"), each sum in float32 and in the order written."""
        earlier = [x, x]
        bad = 0
        for k, row in enumerate(rows):
            exact = abs(row["a_out"]) > EXACT_AMPLIFICATION
            t = np.full(self.batch, row["timestep"], np.int64)
            outs = [self.network(x, t, lane, exact) for lane in lanes]
            out = outs[0] if len(outs) == 1 else outs[1] + (outs[0] - outs[1]) * np.float32(guidance)
            bad += int(out.size - np.isfinite(out).sum())
            raw = row["a_x"] * x + row["a_out"] * out
            x0 = np.stack([bounded(clip, sampler["thresholding"], sampler["dynamic_percentile"]) for clip in raw])
            total = row["c_x"] * x + row["c_x0"] * x0
            for name, term in (("c_prev1", earlier[0]), ("c_prev2", earlier[1]), ("c_raw", raw)):
                if row[name] != 0:
                    total = total + row[name] * term
            if row["c_noise"] != 0:
                total = total + row["c_noise"] * self._noise(seed, indices, int(row["stream"]))
            x, earlier = total, [x0, earlier[0]]
            done(k + 1)
        bad += int(x.size - np.isfinite(x).sum())
        if bad:
            raise InternalError(
                f"clips {indices[0]} to {indices[-1]}: {bad} values of the network were not finite; the weights or the condition "
                "weights are far outside what the model was trained on, or the precision is too low for them"
            )
        return x
