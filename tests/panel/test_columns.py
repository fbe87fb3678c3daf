"""The panel's generated columns: the engine's own clips, kept, grown without making anything twice; and the command's refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt import Engine
from gaitcrafter_rt.cli.panel import sampler_from
from gaitcrafter_rt.config import Labels
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.panel.cells import spread_cells
from gaitcrafter_rt.panel.clips import obtain

MODEL = Path(__file__).resolve().parent.parent / "fixtures" / "tiny-walker"


def test_cells_are_all_had_before_any_comes_again_and_do_not_depend_on_how_many() -> None:
    labels = Labels(identity=["a", "b", "c"], view=["000", "090"], covariate=["nm", "cl"])
    cells = spread_cells(labels, 30)
    assert len({tuple(c.values()) for c in cells[:12]}) == 12
    assert cells[:7] == spread_cells(labels, 7)
    assert cells[12:24] == cells[:12]
    with pytest.raises(InvalidRequestError, match="needs a model with identities, views and covariates"):
        spread_cells(Labels(identity=["a"]), 3)


def test_a_column_is_the_engines_clips_and_grows(tmp_path: Path) -> None:
    with Engine.from_pretrained(MODEL, threads=1) as engine:
        labels = Labels.model_validate(engine.vocabulary.labels)
        expected = engine.generate(spread_cells(labels, 6), seed=3, steps=2)
    told: list[tuple[int, int]] = []
    few = obtain(MODEL, labels, 4, tmp_path, seed=3, steps=2, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (4, 4)
    np.testing.assert_array_equal(few.bits, expected.packed[:4])
    (job,) = tmp_path.iterdir()
    kept = {path: path.stat().st_mtime_ns for path in (job / "shards").iterdir()}
    more = obtain(MODEL, labels, 6, tmp_path, seed=3, steps=2)
    np.testing.assert_array_equal(more.bits, expected.packed)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    np.testing.assert_array_equal(obtain(MODEL, labels, 4, tmp_path, seed=3, steps=2).bits, few.bits)
    obtain(MODEL, labels, 2, tmp_path, seed=4, steps=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_samplers_as_one_word() -> None:
    assert sampler_from(None, "--fast") == {}
    assert sampler_from("unipc:8", "--fast") == {"sampler": "unipc", "steps": 8}
    assert sampler_from("ddim:100:2.5", "--teacher") == {"sampler": "ddim", "steps": 100, "guidance": 2.5}
    assert sampler_from("unipc:8:2:leading", "--try") == {"sampler": "unipc", "steps": 8, "guidance": 2.0, "spacing": "leading"}
    assert sampler_from("ddim:4:eta=0.5", "--try") == {"sampler": "ddim", "steps": 4, "eta": 0.5}
    for bad in ("ddim", "euler:3", "ddim:x", "ddim:3:2:1", "ddim:3:leading:linspace", "ddim:3:eta=x"):
        with pytest.raises(InvalidRequestError, match=r"--fast is .* KIND:STEPS"):
            sampler_from(bad, "--fast")
