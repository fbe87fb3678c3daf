"""10 walkers, 2 views, 2 covariates: 2 training and 2 held-out recordings, and a fifth to pass as generated."""

from __future__ import annotations

import numpy as np
import pytest
from rendered_world import COVARIATES, FRESH_RECORDING, SIZE, VIEWS, WALKERS, World

from gaitcrafter_rt.data.packed import PackedClips
from gaitcrafter_rt.walkers import render_clip, render_training_set, sample_identity


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("evaluate")
    data = PackedClips.open(render_training_set(folder / "set", WALKERS, 2, 2, views=VIEWS, covariates=COVARIATES, size=SIZE))
    clips, conditions = [], []
    for i in range(WALKERS):
        for view in VIEWS:
            for covariate in COVARIATES:
                clips.append(render_clip(sample_identity(0, i), view, covariate, FRESH_RECORDING, size=SIZE) // 255)
                conditions.append({"identity": f"{i + 1:03d}", "view": f"{view:03d}", "covariate": covariate})
    return World(data, np.stack(clips), conditions, folder / "cache")
