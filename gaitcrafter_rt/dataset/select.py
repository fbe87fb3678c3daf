"""Which clips of a data set are wanted: by label, by quality flag, by plan, and how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..bulk.quality import Quality
from ..config import AXES
from ..errors import InvalidRequestError
from ..output.names import ANY


@dataclass(frozen=True)
class Selection:
    """What to keep; the default keeps every clip that has a silhouette.

    Attributes:
        labels: axis to the label names that are kept (``any``: the clips whose model chose); an absent axis keeps all.
            An identity's name is its label, or a blend's as in ``001=0.3+002=0.7``.
        without: quality flags (bits) none of which a kept clip may carry.
        plan: first characters of the plan that the clips must be of.
        limit: how many clips at most, the first ones.
    """

    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    without: int = 0
    plan: str = ""
    limit: int | None = None

    @classmethod
    def of(
        cls, labels: Mapping[str, Sequence[str]] | None = None, without: Sequence[str] = (), plan: str = "",
        limit: int | None = None,
    ) -> Selection:  # fmt: skip
        """From names. Raises InvalidRequestError for an unknown axis or flag, or a limit below 1."""
        given = {axis: frozenset(names) for axis, names in (labels or {}).items() if names}
        for axis in given:
            if axis not in AXES:
                raise InvalidRequestError(f"no axis {axis!r:.60}; the axes are {', '.join(AXES)}")
        known = {str(flag.name).lower(): int(flag) for flag in Quality}
        bits = 0
        for name in without:
            if name not in known:
                raise InvalidRequestError(f"no quality flag {name!r:.60}; the flags are {', '.join(known)}")
            bits |= known[name]
        if limit is not None and limit < 1:
            raise InvalidRequestError(f"limit must be at least 1, got {limit}")
        return cls(given, bits, plan, limit)

    @property
    def by_row(self) -> bool:
        """Whether rows of one shard may be left out (beside those without a silhouette)."""
        return bool(self.labels or self.without)

    def rows(self, names: Mapping[str, Sequence[str | None]], quality: np.ndarray) -> np.ndarray:
        """Positions that are kept: ``names`` per axis, ``quality`` uint16 [N] to int64 [n]."""
        keep = (quality & np.uint16(self.without | Quality.FAILED)) == 0
        for axis, wanted in self.labels.items():
            keep &= np.fromiter(((name or ANY) in wanted for name in names[axis]), bool, len(quality))
        return np.flatnonzero(keep)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the same for the same selection."""
        return {"labels": {a: sorted(v) for a, v in sorted(self.labels.items())}, "without": self.without, "plan": self.plan,
                "limit": self.limit}  # fmt: skip

    def text(self) -> str:
        """For messages: ``view 000, 090; without empty_frame``."""
        parts = [f"{axis} {', '.join(sorted(names)[:6])}" for axis, names in self.labels.items()]
        if self.without:
            parts.append("without " + ", ".join(str(f.name).lower() for f in Quality if f & self.without))
        if self.plan:
            parts.append(f"plan {self.plan}")
        return "; ".join(parts) or "everything"
