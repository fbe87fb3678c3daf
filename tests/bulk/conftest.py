"""Tests of bulk jobs need pyarrow."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def _needs_pyarrow() -> None:
    pytest.importorskip("pyarrow", reason="the extra 'bulk' is not installed")
