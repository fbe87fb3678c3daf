"""The whole panel on rendered walkers: controls flagged, floor clean, a harmless change passed, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from panel_world import World

from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError
from gaitcrafter_rt.panel import PanelClips, render_markdown, run_panel


@pytest.fixture(scope="module")
def report(world: World) -> dict[str, Any]:
    clips = PanelClips(world.teacher, world.teacher, world.floor, same_run=True)
    return run_panel(clips, world.data, world.judges, cache=world.cache)


def test_every_broken_control_is_flagged(report: dict[str, Any]) -> None:
    assert {name: found["flagged"] for name, found in report["controls"].items()} == dict.fromkeys(
        ("frames shuffled", "frozen", "dilated", "mode collapse", "2 % edge flicker"), True
    )


def test_what_is_blind_to_order_does_not_flag_shuffled_frames(report: dict[str, Any]) -> None:
    flags = report["controls"]["frames shuffled"]["flagged_by"]
    assert not any(flag.endswith(report["judges"][0]) for flag in flags)  # the set judge


def test_the_teacher_passes_its_own_gates(report: dict[str, Any]) -> None:
    verdicts = {key: gate["verdict"] for key, gate in report["gates"].items()}
    assert "fail" not in verdicts.values()
    assert all(verdict == "pass" for key, verdict in verdicts.items() if not key.startswith("kid"))
    assert report["numerics"]["iou_mean"] == 1.0


def test_another_seed_is_not_called_broken(world: World) -> None:
    clips = PanelClips(world.teacher, world.floor, world.floor)
    found = run_panel(clips, world.data, world.judges, cache=world.cache, controls=False)
    assert "fail" not in {gate["verdict"] for gate in found["gates"].values()}
    assert found["numerics"] is None


def test_the_columns_stand_in_their_order(report: dict[str, Any]) -> None:
    held, teacher = report["columns"]["held out"], report["columns"]["teacher"]
    for judge in report["judges"]:
        assert held[judge]["gbs"] > held[judge]["impostor"]
        assert teacher[judge]["rank1"] > 3 / 12
    page = render_markdown(report)
    assert "| figure | held out | teacher | fast | floor |" in page
    assert page.count("**pass**") >= 9


def test_columns_that_do_not_belong_together_are_refused(world: World) -> None:
    other = world.teacher[np.arange(len(world.teacher))[::-1]]
    with pytest.raises(InvalidRequestError, match="the same conditions in the same order"):
        run_panel(PanelClips(world.teacher, other, world.floor), world.data, world.judges, cache=world.cache)
    with pytest.raises(InvalidRequestError, match="needs a judge"):
        run_panel(PanelClips(world.teacher, world.teacher, world.floor), world.data, [], cache=world.cache)


def test_a_judge_that_knows_the_people_is_refused(world: World) -> None:
    judge = world.judges[0]
    config = judge.config.model_copy(update={"identities": ["001", "900"]})
    clips = PanelClips(world.teacher, world.teacher, world.floor)
    with pytest.raises(DataFormatError, match="trained on people that it is to judge"):
        run_panel(clips, world.data, [replace(judge, config=config)], cache=world.cache)
