"""A sweep: the teacher itself passes, a broken column does not, and the table and the picture hold every row."""

from __future__ import annotations

from pathlib import Path

import pytest
from panel_world import World

from gaitcrafter_rt.panel.comparison import spoiled
from gaitcrafter_rt.panel.controls import dilated
from gaitcrafter_rt.panel.sweep import Candidate, render_markdown, run_sweep


def test_a_sweep_ranks_what_it_is_given(world: World, tmp_path: Path) -> None:
    candidates = [
        Candidate("ddim:50", 50, lambda: world.teacher),
        Candidate("ddim:2", 2, lambda: spoiled(world.teacher, dilated, 0)),
    ]
    report = run_sweep(world.teacher, world.floor, candidates, world.data, world.judges, cache=world.cache)
    assert [row["name"] for row in report["rows"]] == ["another seed", "ddim:50", "ddim:2"]
    verdicts = [{gate["verdict"] for gate in row["gates"].values()} for row in report["rows"]]
    assert "fail" not in verdicts[0] | verdicts[1]
    assert "fail" in verdicts[2]
    page = render_markdown(report)
    assert "| ddim:50 | 50 |" in page
    assert page.count("\n| ") == 4  # header and three rows
    pytest.importorskip("matplotlib", reason="matplotlib (extra plots) draws the picture and is not installed")
    from gaitcrafter_rt.panel.plot import draw

    draw(report, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
