"""``gaitcrafter-rt demo``: what it leaves, and that it never removes what is not its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from gaitcrafter_rt.cli.demo import CONTENTS, demo_conditions
from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.clips import ClipBatch

MODEL = str(Path(__file__).parent.parent / "fixtures" / "tiny-walker")


def run(out: Path, *options: str) -> int:
    return main(["demo", str(out), "--model", MODEL, "--threads", "1", *options])


def test_it_leaves_a_tree_a_sheet_an_animation_and_the_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "demo", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {p.name for p in (tmp_path / "demo").iterdir()} == CONTENTS
    clips = ClipBatch.load_npz(tmp_path / "demo" / "clips.npz")
    assert len(clips) == told["clips"] == 16
    assert clips.conditions[-1]["identity"] == {"001": 1.0, "002": 1.0}
    with Image.open(tmp_path / "demo" / "clips.gif") as gif:
        assert gif.n_frames == clips.shape[0]
    assert len(list((tmp_path / "demo" / "opengait").rglob("*.pkl"))) == 16
    assert told["classes"] == 4


def test_it_replaces_only_an_earlier_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    assert run(out) == 0
    assert run(out) == 5
    assert run(out, "--replace") == 0
    (out / "thesis.txt").write_text("precious")
    assert run(out, "--replace") == 5
    assert (out / "thesis.txt").read_text() == "precious"


def test_it_does_not_touch_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_text("mine")
    assert run(tmp_path, "--replace") == 5
    assert (tmp_path / "sheet.png").read_text() == "mine"


@pytest.mark.parametrize("labels", [{}, {"identity": ["a"]}, {"view": ["000"], "covariate": ["nm"]}])
def test_models_with_few_labels_have_a_demo_too(labels: dict) -> None:
    conditions = demo_conditions(labels)
    assert len(conditions) == 4
    assert all(set(c) == set(labels) for c in conditions)
