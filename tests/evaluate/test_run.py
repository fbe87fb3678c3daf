"""``run`` and ``eval model`` end to end: an untrained network through the engine must reach nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rendered_world import WALKERS, World

from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.config import ClipShape, Conditioning, Labels, ModelConfig, SamplerDefaults, walker_preset
from gaitcrafter_rt.errors import CapabilityError, InvalidRequestError, OutputError
from gaitcrafter_rt.evaluate import run
from gaitcrafter_rt.evaluate.model_run import blend_conditions, repeat_cells
from gaitcrafter_rt.install import native
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import write_package


@pytest.fixture(scope="module")
def untrained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tables = Conditioning(identity="block_table", view="block_table", covariate="block_table")
    unet = walker_preset(dim=8, init_dim=8, norm_groups=4)
    shape = ClipShape(height=32, width=32)
    config = ModelConfig(clip=shape, unet=unet, conditioning=tables, labels=world.data.labels, sampler=SamplerDefaults(steps=2))
    folder = tmp_path_factory.mktemp("untrained") / "model"
    return write_package(folder, config, UNet3D(config).state_dict(), "# untrained\n")


def test_an_untrained_model_reaches_nothing(
    world: World, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        native()
    except CapabilityError as e:
        pytest.skip(f"the native engine is not built: {e}")
    command = ["eval", "model", str(untrained), "--data", str(world.data.folder), "--cache", str(world.cache), "--threads", "1"]
    assert main([*command, "--write-card", "--json", "--out", str(tmp_path / "report.json")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    found = {f["key"]: f for f in report["figures"]}
    assert {f["verdict"] for f in found.values() if f["goal"]} == {"not reached"}
    assert found["two_seeds"]["generated"]["n"] == WALKERS * 2
    assert report["blends"][0]["generated"]["clusters"] == 10
    assert report["generated"]["provenance"]["sampler"]["steps"] == 2
    card = (untrained / "README.md").read_text()
    assert card.startswith("# untrained\n\n<!-- evaluation: begin -->\n## Evaluation")
    assert "not reached" in card
    assert main([*command, "--out", str(tmp_path / "report.json")]) == OutputError.exit_code


def test_a_model_of_other_people_is_refused_before_generating(world: World, untrained: Path, tmp_path: Path) -> None:
    config = json.loads((untrained / "config.json").read_text())
    config["labels"]["identity"][3] = "nobody"
    (tmp_path / "config.json").write_text(json.dumps(config))

    def never(*_: object) -> None:
        raise AssertionError("generated")

    with pytest.raises(InvalidRequestError, match="holds no identity 'nobody'"):
        run(tmp_path, world.data.folder, generate=never)
    with pytest.raises(InvalidRequestError, match="at least 1"):
        run(untrained, world.data.folder, clips_per_cell=0, generate=never)
    with pytest.raises(InvalidRequestError, match="seed is -1"):
        run(untrained, world.data.folder, seed=-1, generate=never)


def test_repeats_show_every_view_and_blends_are_new_pairs() -> None:
    labels = Labels(
        identity=[f"{i:03d}" for i in range(48)], view=[f"{v:03d}" for v in range(0, 181, 18)], covariate=["nm", "bg", "cl"]
    )
    repeats = repeat_cells(labels)
    assert len({tuple(c.values()) for c in repeats}) == len(repeats) == 144
    for covariate in labels.covariate:
        assert {c["view"] for c in repeats if c["covariate"] == covariate} == set(labels.view)
    blends = blend_conditions(labels, 10, 4, seed=7)
    people = [tuple(sorted(c["identity"])) for c in blends]
    assert len(people) == 40
    assert len(set(people)) == 10
    assert len({name for pair in people for name in pair}) == 20
    assert {(c["view"], c["covariate"]) for c in blends} == {("090", "nm")}
    assert blends == blend_conditions(labels, 10, 4, seed=7) != blend_conditions(labels, 10, 4, seed=8)
    assert blend_conditions(Labels(identity=["001"], view=["090"], covariate=["nm"]), 10, 4, seed=7) == []
