"""Columns that were made elsewhere: found by model, seed and sampler, refused where the file is another one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from gaitcrafter_rt.config import Labels
from gaitcrafter_rt.errors import DataFormatError
from gaitcrafter_rt.panel.cells import spread_cells
from gaitcrafter_rt.panel.made import find, read_made

LABELS = Labels(identity=["a", "b", "c"], view=["000", "090"], covariate=["nm", "cl"])
MODEL = "ab" * 32
SAMPLER = {"kind": "ddpm", "steps": 1000, "guidance": 2.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bits = np.random.default_rng(0).integers(0, 256, (8, 15360), dtype=np.uint8)
    np.save(tmp_path / "slow.npy", bits)
    column = {"file": "slow.npy", "clips": 8, "seed": 3, "sampler": SAMPLER, "sha256": hashlib.sha256(bits.data).hexdigest()}
    about = {"format": "gaitcrafter-columns", "format_version": 1, "model_sha256": MODEL, "made_on": "a GPU", "columns": [column]}
    (tmp_path / "columns.json").write_text(json.dumps(about))
    return tmp_path


def test_a_column_has_the_first_clips_and_the_labels_of_its_cells(folder: Path) -> None:
    found = find(folder, MODEL, 3, {**SAMPLER, "eta": 0.0}, 5, LABELS)
    assert found is not None
    assert np.array_equal(found.bits, np.load(folder / "slow.npy")[:5])
    cells = spread_cells(LABELS, 5)
    assert [LABELS.identity[i] for i in found.identity] == [c["identity"] for c in cells]
    assert [LABELS.view[i] for i in found.view] == [c["view"] for c in cells]
    assert [LABELS.covariate[i] for i in found.covariate] == [c["covariate"] for c in cells]


@pytest.mark.parametrize(
    ("model", "seed", "sampler", "count"),
    [("cd" * 32, 3, {}, 5), (MODEL, 4, {}, 5), (MODEL, 3, {"steps": 999}, 5), (MODEL, 3, {"guidance": 1.0}, 5), (MODEL, 3, {}, 9)],
)
def test_anything_else_is_not_there(folder: Path, model: str, seed: int, sampler: dict, count: int) -> None:
    assert find(folder, model, seed, {**SAMPLER, **sampler}, count, LABELS) is None


def test_damage_is_told(folder: Path) -> None:
    bits = np.load(folder / "slow.npy")
    bits[0, 0] ^= 1
    np.save(folder / "slow.npy", bits)
    with pytest.raises(DataFormatError, match="sha256"):
        find(folder, MODEL, 3, SAMPLER, 5, LABELS)
    (folder / "columns.json").write_text('{"format": "gaitcrafter-columns"}')
    with pytest.raises(DataFormatError, match="model_sha256"):
        read_made(folder)
    (folder / "columns.json").write_text("{}")
    with pytest.raises(DataFormatError, match="gaitcrafter-columns"):
        read_made(folder)
