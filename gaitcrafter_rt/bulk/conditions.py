"""What clip number i shows: a function that never depends on how many clips a job has, so that a job can grow.

:class:`Grid` runs through every combination of the chosen labels, the view fastest, and then again from the start. A table
(``table.py``) says it row by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ..errors import InvalidRequestError
from ..output.names import blend_name
from .arrow import arrow

# The last one is the fastest. Neighbouring clips share their identity, which readers that draw P identities x K clips like.
ORDER = ("dataset", "identity", "covariate", "view")
Weights = dict[str, float]


class Conditions(Protocol):
    """Where a job's conditions come from."""

    def plain(self, number: int) -> dict[str, Weights]:
        """Axis to label weights of one clip, as :class:`gaitcrafter_rt.ClipBatch` keeps them."""

    def batch(self, first: int, count: int) -> list[dict[str, Weights]]:
        """The same for ``count`` clips."""

    def columns(self, first: int, count: int) -> dict[str, Any]:
        """The same as Arrow arrays by column name (``format.py``)."""

    def labels(self) -> Mapping[str, set[str]]:
        """Every label that occurs, by axis."""


class Grid(BaseModel):
    """Clip i shows combination ``i mod combinations``; an axis without choices is null.

    An identity is a blend of labels with weights, one label with weight 1 in the plain case.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, ignored_types=(cached_property,))

    kind: Literal["grid"] = "grid"
    dataset: list[str] = Field(default=[])
    identity: list[Weights] = Field(default=[])
    covariate: list[str] = Field(default=[])
    view: list[str] = Field(default=[])

    @field_validator("identity")
    @classmethod
    def _one_order(cls, identity: list[Weights]) -> list[Weights]:
        """A sum of floats depends on the order of its terms: 001+002 and 002+001 must be the same clip."""
        return [dict(sorted(weights.items())) for weights in identity]

    @property
    def choices(self) -> dict[str, list[Weights]]:
        """Per axis that has any, label weights."""
        plain = {axis: [{label: 1.0} for label in getattr(self, axis)] for axis in ORDER if axis != "identity"}
        plain["identity"] = [dict(weights) for weights in self.identity]
        return {axis: plain[axis] for axis in ORDER if plain[axis]}

    @property
    def combinations(self) -> int:
        """Clips after which the grid begins again."""
        count = 1
        for axis in ORDER:
            count *= max(1, len(getattr(self, axis)))
        return count

    @cached_property
    def _axes(self) -> list[tuple[str, list[Weights], int]]:
        """(axis, choices, how many clips share a choice before the next one comes), slowest first."""
        axes, stride = [], 1
        for axis, choices in reversed(self.choices.items()):
            axes.append((axis, choices, stride))
            stride *= len(choices)
        return axes[::-1]

    def plain(self, number: int) -> dict[str, Weights]:
        return {axis: choices[number // stride % len(choices)] for axis, choices, stride in self._axes}

    def batch(self, first: int, count: int) -> list[dict[str, Weights]]:
        return [self.plain(n) for n in range(first, first + count)]

    def labels(self) -> dict[str, set[str]]:
        return {axis: {label for choice in choices for label in choice} for axis, choices in self.choices.items()}

    @cached_property
    def _values(self) -> dict[str, Any]:
        """Per column the Arrow array of its choices."""
        pa = arrow()
        values: dict[str, Any] = {axis: pa.array(getattr(self, axis), pa.string()) for axis in ORDER if axis != "identity"}
        values["identity"] = pa.array([identity_name(w) for w in self.identity], pa.string())
        values["identity_weights"] = weights_array(self.identity)
        return values

    def columns(self, first: int, count: int) -> dict[str, Any]:
        pa = arrow()
        numbers = np.arange(first, first + count, dtype=np.int64)
        chosen = {axis: pa.array(numbers // stride % len(choices)) for axis, choices, stride in self._axes}
        columns = {}
        for name, values in self._values.items():
            axis = name.removesuffix("_weights")
            columns[name] = values.take(chosen[axis]) if axis in chosen else pa.nulls(count, values.type)
        return columns


def weights_type() -> Any:
    """Arrow type of a blend: a list of (label, weight)."""
    pa = arrow()
    return pa.list_(pa.struct([pa.field("label", pa.string(), False), pa.field("weight", pa.float64(), False)]))


def weights_array(blends: Sequence[Weights | None]) -> Any:
    """Blends as an Arrow array; None is null."""
    rows = [None if b is None else [{"label": label, "weight": float(w)} for label, w in b.items()] for b in blends]
    return arrow().array(rows, weights_type())


def identity_name(weights: Weights) -> str:
    """One name per identity: the label, a blend as ``001=0.3+002=0.7``, or a hash where that would be too long for a folder.

    The names are those of the OpenGait exporter (``output/names.py``).
    """
    try:
        return blend_name(weights)
    except InvalidRequestError:
        text = repr(sorted(weights.items())).encode("utf-8", "backslashreplace")
        return f"blend-{hashlib.sha256(text).hexdigest()[:16]}"


def check_labels(labels: Mapping[str, set[str]], vocabulary: Mapping[str, Sequence[str]], usable: Mapping[str, bool]) -> None:
    """Raises InvalidRequestError that names the first label the model does not know."""
    for axis, wanted in labels.items():
        known = vocabulary.get(axis, ())
        if wanted and not usable.get(axis, True):
            raise InvalidRequestError(f"{axis} {min(wanted)!r:.80}: this model takes no {axis}")
        for label in sorted(wanted):
            if label not in known:
                shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
                raise InvalidRequestError(f"this model has no {axis} {label!r:.140}; it knows {shown or 'none'}")
