"""Every launch under the interpreter is small: its cost is per program."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from judge import MODULES

from gaitcrafter_rt.kernels import launch as launching

LARGEST_GRID = 100


@pytest.fixture(autouse=True)
def small_grids(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    assert launching.INTERPRETED, "these files run through tests/kernels/test_interpreted.py"
    inner = launching.launch

    def counted(kernel: Any, grid: tuple[int, ...], *args: Any, **rest: Any) -> None:
        assert math.prod(grid) <= LARGEST_GRID, f"{kernel.__name__} takes {grid} programs"
        inner(kernel, grid, *args, **rest)

    for module in MODULES:
        monkeypatch.setattr(module, "launch", counted)
    return
