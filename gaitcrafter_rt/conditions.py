"""What a clip shows, in the caller's words, and its form for the native engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from .config import AXES, ModelConfig
from .errors import InvalidRequestError

LabelChoice = str | int | Mapping[Any, float] | None


@dataclass(frozen=True)
class Condition:
    """One clip's labels. An axis left None is null: the model chooses.

    An axis takes a label name (``"001"``), a label index (``3``), or a blend (``{"001": 1, "002": 1}``) whose weights are
    added as they are. ``cond`` is the raw vector of a model with ``cond_dim`` (floats, that many) and excludes labels.
    """

    identity: LabelChoice = None
    view: LabelChoice = None
    covariate: LabelChoice = None
    dataset: LabelChoice = None
    cond: Sequence[float] | np.ndarray | None = None

    @classmethod
    def of(cls, value: Condition | Mapping[str, Any]) -> Condition:
        """A Condition or a mapping of its fields. Raises InvalidRequestError for anything else."""
        if isinstance(value, Condition):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequestError(f"a condition must be a Condition or a dict, got {type(value).__name__}")
        unknown = [str(k) for k in value if k not in (*AXES, "cond")]
        if unknown:
            raise InvalidRequestError(f"a condition has no field {unknown[0]!r:.80}; its fields are {', '.join(AXES)}, cond")
        return cls(**value)


def shortened(names: Sequence[str], first: int = 6) -> str:
    """``11 labels: 000, 018, ...`` for messages."""
    text = f"{len(names)} label{'s' * (len(names) != 1)}"
    return text + (": " + ", ".join(names[:first]) + (", ..." if len(names) > first else "") if names else "")


class Vocabulary:
    """The labels that a model knows, and which axes a request may use."""

    def __init__(self, labels: Mapping[str, Sequence[str]], usable: Mapping[str, bool], cond_dim: int) -> None:
        self.labels = {axis: list(labels[axis]) for axis in AXES}
        self.usable = {axis: bool(usable[axis]) for axis in AXES}
        self.cond_dim = cond_dim
        self._index = {axis: {name: i for i, name in enumerate(names)} for axis, names in self.labels.items()}

    def sparse(self, axis: str, choice: LabelChoice) -> dict[int, float]:
        """``{label index: weight}``; empty for null. Raises InvalidRequestError, naming the allowed labels."""
        if choice is None:
            return {}
        if not self.usable[axis]:
            why = "its labels are not wired to the network" if self.labels[axis] else "it has no such axis"
            raise InvalidRequestError(f"{axis} {choice!r:.80}: this model takes none ({why})")
        if not isinstance(choice, Mapping):
            return {self._find(axis, choice): 1.0}
        out: dict[int, float] = {}
        for label, weight in choice.items():
            index = self._find(axis, label)
            if index in out:
                raise InvalidRequestError(f"{axis} names {self.labels[axis][index]!r} twice, by name and by index")
            if isinstance(weight, bool) or not isinstance(weight, Real) or not np.isfinite(float(weight)):
                raise InvalidRequestError(f"{axis} {label!r:.80}: weight {weight!r:.80} is not a finite number")
            out[index] = float(weight)
        return out

    def _find(self, axis: str, label: object) -> int:
        names = self.labels[axis]
        if isinstance(label, str):
            if label not in self._index[axis]:
                raise InvalidRequestError(f"{axis} {label!r:.140} is unknown; this model has {shortened(names)}")
            return self._index[axis][label]
        if isinstance(label, bool) or not isinstance(label, Integral):
            raise InvalidRequestError(f"{axis} label {label!r:.80} must be a name or an index, not {type(label).__name__}")
        if not 0 <= int(label) < len(names):
            raise InvalidRequestError(f"{axis} index {int(label)} is outside 0..{len(names) - 1} ({shortened(names)})")
        return int(label)

    def raw(self, cond: Sequence[float] | np.ndarray) -> np.ndarray:
        """A raw vector as float32 [cond_dim]."""
        if not self.cond_dim:
            raise InvalidRequestError("cond is given, but this model takes no raw vector (cond_dim is 0); name labels instead")
        try:
            vector = np.asarray(cond, np.float32)
        except (TypeError, ValueError) as e:
            raise InvalidRequestError(f"cond must be {self.cond_dim} numbers: {e}") from e
        if vector.shape != (self.cond_dim,):
            raise InvalidRequestError(f"cond has shape {vector.shape}; this model takes {self.cond_dim} numbers")
        return vector


class ConditionTable:
    """A list of conditions as the compressed rows that the native engine reads.

    Attributes:
        axes: axis to (offsets uint64 [N + 1], labels int32, weights float32), only axes that some clip names.
        cond: float32 [N, cond_dim] or None; cond_given: uint8 [N] flags.
        plain: per clip the condition by label names, the form that ClipBatch keeps.
    """

    def __init__(self, vocabulary: Vocabulary, conditions: Iterable[Condition | Mapping[str, Any]]) -> None:
        self.axes: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self.cond: np.ndarray | None = None
        self.cond_given: np.ndarray | None = None
        self.plain: list[dict[str, Any]] = []
        rows: dict[str, list[dict[int, float]]] = {axis: [] for axis in AXES}
        vectors: list[np.ndarray | None] = []
        for i, given in enumerate(conditions):
            try:
                self._add(vocabulary, Condition.of(given), rows, vectors)
            except InvalidRequestError as e:
                raise InvalidRequestError(f"clip {i}: {e}") from None
        for axis, clips in rows.items():
            if any(clips):
                self.axes[axis] = (
                    np.cumsum([0, *map(len, clips)], dtype=np.uint64),
                    np.array([k for clip in clips for k in clip], np.int32),
                    np.array([w for clip in clips for w in clip.values()], np.float32),
                )
        if any(v is not None for v in vectors):
            zero = np.zeros(vocabulary.cond_dim, np.float32)
            self.cond = np.stack([zero if v is None else v for v in vectors])
            self.cond_given = np.array([v is not None for v in vectors], np.uint8)

    def __len__(self) -> int:
        return len(self.plain)

    def _add(
        self, vocabulary: Vocabulary, c: Condition, rows: dict[str, list[dict[int, float]]], vectors: list[np.ndarray | None]
    ) -> None:
        plain: dict[str, Any] = {}
        for axis in AXES:
            sparse = vocabulary.sparse(axis, getattr(c, axis))
            rows[axis].append(sparse)
            if sparse:
                plain[axis] = {vocabulary.labels[axis][k]: w for k, w in sparse.items()}
        if c.cond is not None and plain:
            raise InvalidRequestError("labels and a raw cond vector exclude each other; give one of them")
        vectors.append(None if c.cond is None else vocabulary.raw(c.cond))
        if c.cond is not None:
            plain["cond"] = vectors[-1].tolist()  # type: ignore[union-attr]
        self.plain.append(plain)


def clip_axes(axes: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], clip: int) -> dict[str, dict[int, float]]:
    """One clip's row of ``ConditionTable.axes``: axis to label index to weight, only axes that it names."""
    found = {}
    for axis, (offsets, labels, weights) in axes.items():
        part = slice(int(offsets[clip]), int(offsets[clip + 1]))
        found[axis] = {int(k): float(w) for k, w in zip(labels[part], weights[part], strict=True)}
    return {axis: sparse for axis, sparse in found.items() if sparse}


def label_weights(config: ModelConfig, axes: Mapping[str, Mapping[int, float]]) -> dict[str, np.ndarray]:
    """float32 ``[labels + 1]`` of every wired axis: its weights, or 1 for the last, null, where nothing is said."""
    dense = {}
    for axis in AXES:
        if getattr(config.conditioning, axis) == "none":
            continue
        n = len(getattr(config.labels, axis))
        dense[axis] = np.zeros(n + 1, np.float32)
        for index, weight in axes.get(axis, {n: 1.0}).items():
            dense[axis][index] += np.float32(weight)
    return dense


def label_vector(config: ModelConfig, axes: Mapping[str, Mapping[int, float]]) -> np.ndarray | None:
    """The base network's cond vector, float32 ``[cond_dim]``, that stands for labels; None where no axis is named."""
    if not axes:
        return None
    vector = np.zeros(config.conditioning.cond_dim, np.float32)
    columns: dict[str, list[int]] = {str(axis): c for axis, c in (config.conditioning.cond_columns or {}).items()}
    for axis, sparse in axes.items():
        for index, weight in sparse.items():
            vector[columns[axis][index]] += np.float32(weight)
    return vector
