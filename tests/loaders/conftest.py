"""One job of the stub engine, a cache of it, and a packed set of the shape of the smallest model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "bulk"))

SHAPE = (6, 32, 32)


@pytest.fixture(autouse=True, scope="session")
def _needs_extras() -> None:
    pytest.importorskip("pyarrow", reason="the extra 'bulk' is not installed")
    pytest.importorskip("torch", reason="the extra 'train' is not installed")


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 clips of 2 identities and 2 views in four shards; clip 117 was quarantined."""
    from jobs import run
    from stub import StubEngine

    root = tmp_path_factory.mktemp("loaders") / "job"
    run(root, StubEngine(poison=[217]), clips=200, shard_clips=64, block_clips=32)
    return root


@pytest.fixture(scope="session")
def cache(job: Path) -> Path:
    from gaitcrafter_rt.dataset import build_cache

    return build_cache(job, job.parent / "cache").folder


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 rendered clips of the identities 001 and 900, the last 10 held out."""
    from gaitcrafter_rt.data.packed import PackedWriter

    root = tmp_path_factory.mktemp("packed") / "set"
    clips = (np.random.default_rng(0).random((30, *SHAPE)) < 0.3).astype(np.uint8)
    labels = {"dataset": [], "identity": ["001", "900"], "view": ["045", "090"], "covariate": ["nm"]}
    with PackedWriter(root, labels=labels, source="rendered", frames=6, height=32, width=32, terms="free", made_by="test") as out:
        for i, clip in enumerate(clips):
            out.append(clip, identity=i % 2, view=i // 2 % 2, covariate="nm", sequence=i, split=int(i >= 20))
    return root
