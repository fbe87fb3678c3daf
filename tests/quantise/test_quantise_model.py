"""``quantise_model`` and ``gaitcrafter-rt quantise``: same weights, ranges beside them, errors before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from gaitcrafter_rt import Engine  # noqa: E402
from gaitcrafter_rt.cli.main import main  # noqa: E402
from gaitcrafter_rt.config import resnet_convolutions  # noqa: E402
from gaitcrafter_rt.errors import InvalidRequestError, ModelFormatError, OutputError  # noqa: E402
from gaitcrafter_rt.package import read_config, read_stored_weights, write_package  # noqa: E402
from gaitcrafter_rt.quantise import quantise_model  # noqa: E402
from gaitcrafter_rt.ranges import HIGH, LOW, split_ranges  # noqa: E402

FIXTURE = Path(__file__).parent.parent / "fixtures" / "tiny-walker"
LAYERS = list(resnet_convolutions(read_config(FIXTURE).unet))


def _clip(folder: Path) -> np.ndarray:
    with Engine(folder, precision="fp32", threads=1) as engine:
        return engine.generate([{"identity": 0}], seed=3).packed


def test_weights_stay_and_ranges_come(tmp_path: Path) -> None:
    made = quantise_model(FIXTURE, tmp_path / "q", clips=2, exclude=["final_block.*"])
    before, after = read_stored_weights(FIXTURE), read_stored_weights(tmp_path / "q")
    assert all(torch.equal(after[k], v) for k, v in before.items())
    layers = [name for name in LAYERS if not name.startswith("final_block")]
    assert sorted(set(after) - set(before)) == sorted(name + end for name in layers for end in (LOW, HIGH))
    config = read_config(tmp_path / "q")
    assert config.quantisation is not None
    assert (config.quantisation.layers, config.quantisation.clips, config.format_version) == (layers, 2, 2)
    assert config.model_copy(update={"quantisation": None, "format_version": 1}) == read_config(FIXTURE)
    _, ranges = split_ranges(config, {k: v.numpy() for k, v in after.items()}, "q")
    for layer, (low, high) in made.ranges.items():
        assert np.array_equal(ranges[layer][0], low) and np.array_equal(ranges[layer][1], high)
    assert np.array_equal(_clip(tmp_path / "q"), _clip(FIXTURE)), "the same weights make the same clip"


def test_the_seed_determines_the_package(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        quantise_model(FIXTURE, tmp_path / name, clips=1, seed=seed, layers=["ups.*"])
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_calibrating_again_replaces(tmp_path: Path) -> None:
    """Stored in bfloat16, which the copy keeps; ranges are float32 beside it."""
    half = {k: v.to(torch.bfloat16) for k, v in read_stored_weights(FIXTURE).items()}
    config = read_config(FIXTURE)
    write_package(tmp_path / "half", config, half, "# walker\n\nText.\n")
    quantise_model(tmp_path / "half", tmp_path / "one", clips=1)
    again = quantise_model(tmp_path / "one", tmp_path / "two", clips=1, layers=["mid_block1.conv1"], percentile=99)
    stored = read_stored_weights(tmp_path / "two")
    assert {k for k in stored if k.endswith((LOW, HIGH))} == {"mid_block1.conv1" + LOW, "mid_block1.conv1" + HIGH}
    assert all(v.dtype == (torch.float32 if k.endswith((LOW, HIGH)) else torch.bfloat16) for k, v in stored.items())
    assert again.quantisation.method.startswith("percentile 99 of every call over runs of ddim, 4 steps")
    card = (tmp_path / "two" / "README.md").read_text()
    assert card.startswith("# walker\n\nText.\n\nInt8 ranges: 1 of 14 ResNet convolutions, measured on 1 clips (percentile 99")
    assert card.count("Int8 ranges: ") == 1
    Engine(tmp_path / "two", precision="fp32").close()


def test_bad_arguments_write_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = [
        ({"clips": 0}, "clips is 0; allowed are 1 to 4096"),
        ({"clips": True}, "clips is True"),
        ({"threads": 0}, "threads is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"percentile": 101.0}, "percentile is 101; allowed are 90 to 100"),
        ({"percentile": float("nan")}, "percentile is nan"),
        ({"layers": ["ups.9.*"]}, r"layers: 'ups\.9\.\*' names no ResNet convolution; this model has downs\.0"),
        ({"exclude": ["init_conv"]}, "exclude: 'init_conv' names no"),
        ({"exclude": ["all"]}, "no layer is left of 14 after 14 were excluded"),
    ]
    for options, why in bad:
        with pytest.raises(InvalidRequestError, match=why):
            quantise_model(FIXTURE, out, **options)
    damaged = shutil.copytree(FIXTURE, tmp_path / "damaged")
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (damaged / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelFormatError, match=r"sha256 .* differs from checksums\.json"):
        quantise_model(damaged, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged"]
    with pytest.raises(OutputError, match="exists and is not an empty folder"):
        quantise_model(FIXTURE, damaged)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(a) for a in args])
        return code, *capsys.readouterr()

    code, out, err = run("quantise", FIXTURE, tmp_path / "q", "--clips", 1, "--layers", "mid_block1.conv1,ups.*", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["clips"] == 1 and facts["method"].endswith("seed 0")
    assert list(facts["layers"]) == [n for n in LAYERS if n.startswith(("mid_block1.conv1", "ups."))]
    for layer in facts["layers"].values():
        assert layer["low"] <= 0 <= layer["high"] and layer["channels"] > 0

    code, out, err = run("quantise", FIXTURE, tmp_path / "p", "--clips", 1)
    assert (code, out) == (0, f"{tmp_path / 'p'}\n")
    assert "inspect model" in err
    code, out, err = run("inspect", "model", tmp_path / "p")
    assert code == 0 and "14 convolutions have ranges, from 1 clips" in " ".join(out.split())

    code, _, err = run("quantise", FIXTURE, tmp_path / "p")
    assert code == 5 and "exists and is not an empty folder" in err
    code, _, err = run("quantise", FIXTURE, tmp_path / "r", "--exclude", "nothing")
    assert code == 2 and "names no ResNet convolution" in err
    code, _, err = run("quantise", "no-such-model", tmp_path / "r")
    assert code == 4 and "neither a model folder nor a known name" in err
    assert not (tmp_path / "r").exists()
