"""Two sets of small rendered walkers with nobody in common, and a judge of each kind trained on the second."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaitcrafter_rt.data.packed import PackedClips
from gaitcrafter_rt.judges import JudgeSettings, train_judge
from gaitcrafter_rt.walkers import render_training_set

VIEWS, COVARIATES, SIZE = (54, 90), ("nm", "cl"), 32


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> PackedClips:
    folder = tmp_path_factory.mktemp("others")
    return PackedClips.open(
        render_training_set(folder / "set", 10, 3, 0, first_identity=100, views=VIEWS, covariates=COVARIATES, size=SIZE)
    )


@pytest.fixture(scope="session")
def judges(others: PackedClips, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("judges")
    made = {}
    for kind, steps, frames in (("set", 80, 8), ("temporal", 60, 18)):
        settings = JudgeSettings(
            kind=kind, steps=steps, frames=frames, people=6, clips=4, width=8, embedding=16, learning_rate=3e-3
        )
        made[kind] = train_judge(others, folder / kind, settings)
    return made
