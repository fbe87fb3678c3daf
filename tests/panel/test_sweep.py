"""A sweep: the teacher itself passes, a broken column does not, and the table and the picture hold every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from panel_world import World

from gaitcrafter_rt.panel.comparison import spoiled
from gaitcrafter_rt.panel.controls import dilated
from gaitcrafter_rt.panel.sweep import Candidate, render_markdown, run_sweep, stand_in


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
    assert report["stand_in"]["row"] == "ddim:50"
    assert report["stand_in"]["short_of"]["ddim:2"].keys() >= {"flicker"}
    assert "ddim:50 may stand in for the teacher" in page
    pytest.importorskip("matplotlib", reason="matplotlib (extra plots) draws the picture and is not installed")
    from gaitcrafter_rt.panel.plot import draw

    draw(report, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_the_stand_in_is_the_plain_ddim_row_with_the_fewest_steps_that_passes_all() -> None:
    def row(name: str, **verdicts: str) -> dict[str, Any]:
        calls = 2 * int(name.split(":")[1]) if ":" in name else 0
        return {
            "name": name,
            "calls": calls,
            "gates": {key: {"verdict": verdict, "low": -0.07, "high": 0.02} for key, verdict in verdicts.items()},
        }

    rows = [
        row("another seed", flicker="pass"),
        row("ddim:100", flicker="pass", kid="inconclusive"),
        row("ddim:50", flicker="pass", kid="inconclusive"),
        row("ddim:20", flicker="inconclusive", kid="fail"),
        row("ddim:8:1", flicker="pass", kid="pass"),
        row("unipc:4", flicker="pass", kid="pass"),
    ]
    found = stand_in(rows)
    assert found["row"] == "ddim:50"
    assert found["cheapest"] == "unipc:4"
    assert found["short_of"] == {"ddim:100": {}, "ddim:50": {}, "ddim:20": {"flicker": 0.07, "kid": 0.07}}
    assert stand_in(rows[3:])["row"] is None
    assert stand_in(rows[3:5])["cheapest"] is None
