"""A small rendered world for the panel's tests: unseen recordings in place of a teacher's clips, and judges of other people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gaitcrafter_rt.data.packed import PackedClips, pack
from gaitcrafter_rt.evaluate.clipset import ClipSet
from gaitcrafter_rt.judges import Judge, JudgeSettings, train_judge
from gaitcrafter_rt.walkers import render_clip, render_training_set, sample_identity

WALKERS, VIEWS, COVARIATES, SIZE = 12, (54, 90), ("nm", "cl"), 32


@dataclass(frozen=True)
class World:
    data: PackedClips
    teacher: ClipSet
    floor: ClipSet
    judges: list[Judge]
    cache: Path


def make_world(folder: Path) -> World:
    """Renders the people to judge and ten others, and trains a judge of each kind on the others."""
    common = {"views": VIEWS, "covariates": COVARIATES, "size": SIZE}
    data = PackedClips.open(render_training_set(folder / "set", WALKERS, 2, 2, **common))
    others = PackedClips.open(render_training_set(folder / "others", 10, 3, 0, first_identity=100, **common))
    judges = []
    for kind, steps, frames in (("set", 80, 8), ("temporal", 60, 18)):
        settings = JudgeSettings(
            kind=kind, steps=steps, frames=frames, people=6, clips=4, width=8, embedding=16, learning_rate=3e-3
        )
        judges.append(Judge.open(train_judge(others, folder / f"judge-{kind}", settings)))
    return World(data, recordings(range(4, 7)), recordings(range(7, 10)), judges, folder / "cache")


def recordings(numbers: range) -> ClipSet:
    """One clip per cell and recording number, as a model's output."""
    rows = [(i, v, c, s) for s in numbers for i in range(WALKERS) for v in range(len(VIEWS)) for c in range(len(COVARIATES))]
    clips = [render_clip(sample_identity(0, i), VIEWS[v], COVARIATES[c], s, size=SIZE) // 255 for i, v, c, s in rows]
    identity, view, covariate, sequence = np.array(rows).T
    return ClipSet(pack(np.stack(clips)), (30, SIZE, SIZE), identity, view, covariate, np.full_like(sequence, -1))
