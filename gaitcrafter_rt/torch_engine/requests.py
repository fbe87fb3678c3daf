"""The conditions of a request, as ``gaitcrafter_rt.conditions.ConditionTable`` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Given:
    """``axes``: axis to (offsets uint64 [N + 1], labels int32, weights float32); ``cond`` float32 [N, cond_dim] and its flags."""

    axes: dict[str, Any]
    cond: np.ndarray | None
    cond_given: np.ndarray | None
