"""Models and data trees: inspect, walkers render, pack, train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, Run

from gaitcrafter_rt.data import PackedClips


def test_inspect_model(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("inspect", "model", MODEL)
    assert code == 0
    for text in ("tiny-walker", "6 frames of 32x32", "001, 002, 003", "block_table", "none: random weights", "match"):
        assert text in out
    facts = run.json("inspect", "model", MODEL)
    assert facts["config"]["name"] == "tiny-walker"
    from safetensors.numpy import load_file

    weights = load_file(MODEL / "model.safetensors")
    assert (facts["tensors"], facts["parameters"]) == (len(weights), sum(w.size for w in weights.values()))


def test_inspect_names_damage(run: Run, tmp_path: Path) -> None:
    import shutil

    for name, change, message in (
        ("model.safetensors", lambda d: d[:-1] + bytes([d[-1] ^ 1]), "sha256"),
        ("config.json", lambda d: d.replace(b'"tiny-walker"', b'"tiny-stroll"'), "sha256"),
        ("checksums.json", lambda d: b"[]", "not a list of checksums"),
    ):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(MODEL, tmp_path / "m")
        path = tmp_path / "m" / name
        path.write_bytes(change(path.read_bytes()))
        code, _, err = run("inspect", "model", tmp_path / "m")
        assert (code, message in err, name in err) == (4, True, True)


def test_walkers_inspect_and_pack(run: Run, tmp_path: Path) -> None:
    made = run.json(
        "walkers", "render", tmp_path / "w", "--identities", 2, "--views", "0,90", "--covariates", "nm", "--train-sequences", 1,
        "--test-sequences", 1, "--frames", 4, "--size", 32,
    )  # fmt: skip
    assert made["clips"] == 8
    assert (made["train"], made["test"]) == (4, 4)
    assert made["labels"] == {"identity": 2, "view": 2, "covariate": 1}
    assert PackedClips.open(tmp_path / "w").meta.source == "rendered"
    facts = run.json("inspect", "data", tmp_path / "w", "--deep")
    assert facts["axes"]["view"] == {"000": 4, "090": 4}
    assert "8 of 4 frames" in run("inspect", "data", tmp_path / "w")[1]
    assert run("walkers", "render", tmp_path / "w", "--identities", 1)[0] == 5


def test_inspect_and_pack_a_real_tree(run: Run, tmp_path: Path) -> None:
    from gaitcrafter_rt.output.opengait import pickle_array

    walk = np.zeros((35, 64, 44), np.uint8)
    walk[:, :, 18:26] = 255
    for name in ("001/nm-01/000/000", "001/nm-01/090/090", "002/nm-01/000/000"):
        path = tmp_path / "tree" / f"{name}.pkl"
        path.parent.mkdir(parents=True)
        path.write_bytes(pickle_array(walk if "090" not in name else walk[:10]))
    report = run.json("inspect", "data", tmp_path / "tree")
    assert (report["recordings"], report["short"], report["missing"]) == (3, 1, 1)
    code, out, _ = run("inspect", "data", tmp_path / "tree")
    assert code == 0
    assert "1 recordings are shorter than 30 frames" in out
    assert "001/nm-01/090/090.pkl (10 frames)" in out
    assert "002/nm-01/090" in out
    made = run.json("pack", tmp_path / "tree", tmp_path / "packed", "--terms", "made up", "--align")
    assert (made["clips"], made["too_short"], made["unaligned"]) == (2, 1, 2)
    assert PackedClips.open(tmp_path / "packed").meta.terms == "made up"


def test_train_and_its_forecast(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the extra 'train' is not installed")
    run.json("walkers", "render", tmp_path / "w", "--identities", 1, "--views", "90", "--covariates", "nm", "--train-sequences", 1,
             "--test-sequences", 1, "--frames", 4, "--size", 16)  # fmt: skip
    small = ["--data", tmp_path / "w", "--out", tmp_path / "run", "--batch", 1, "--steps", 2, "--threads", 1, "--precision", "fp32",
             "--unet", "dim=8", "--unet", "dim_mults=[1,2]", "--unet", "spatial_linear_attention=[false,false]",
             "--unet", "temporal_attention=[false,true]", "--unet", "temporal_conv=[true,false]", "--unet", "patch=2",
             "--unet", "norm_groups=4", "--sampler-steps", 1]  # fmt: skip
    expected = run.json("train", *small, "--dry-run")
    assert expected["steps"] == 2
    assert not (tmp_path / "run").exists()
    done = run.json("train", *small)
    assert done["finished"]
    assert done["last"]["step"] == 2
    facts = run.json("inspect", "model", done["model"])
    assert facts["config"]["unet"]["dim"] == 8
    assert "gaitcrafter-rt" in facts["config"]["provenance"]["command"]
    code, _, err = run("train", *small, "--dropout", "identity=0.5")
    assert (code, "other settings" in err) == (2, True)
