"""Jobs of the stub engine that the bulk tests use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "bulk"))


@pytest.fixture(autouse=True, scope="session")
def _needs_pyarrow() -> None:
    pytest.importorskip("pyarrow", reason="the extra 'bulk' is not installed")


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 clips in four shards: identities 001 and a blend, views 000 and 090; clip 117 (index 217) was quarantined."""
    from jobs import run
    from stub import StubEngine

    root = tmp_path_factory.mktemp("dataset") / "job"
    run(root, StubEngine(poison=[217]), clips=200, shard_clips=64, block_clips=32)
    return root
