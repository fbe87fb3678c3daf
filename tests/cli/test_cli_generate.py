"""A few clips in every format, and requests that are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, Run, needs_engine
from PIL import Image

from gaitcrafter_rt.clips import ClipBatch


@needs_engine
def test_generate_every_format(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    formats = [x for f in ("npz", "opengait", "sheet", "gif", "webp", "mp4") for x in ("--format", f)]
    result = run.json(
        "generate", tmp_path / "out", "--model", MODEL, "--identities", "001,003", "--blend", "0.3*001+0.7*002", "--views", "all",
        "--covariates", "nm", "--clips-per", 2, "--start", 100, "--seed", 7, "--steps", 2, "--threads", 1, "--edges", "soft",
        *formats,
    )  # fmt: skip
    assert result["clips"] == 12
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        ["clips.npz", "opengait", "sheet.png", "clips.gif", "clips.webp", "clips.mp4", "generated.json"]
    )
    clips = ClipBatch.load_npz(tmp_path / "out/clips.npz")
    assert clips.clip_indices.tolist() == list(range(100, 112))
    assert clips.seed == 7
    assert clips.conditions[0] == {"identity": {"001": 1.0}, "covariate": {"nm": 1.0}, "view": {"000": 1.0}}
    assert clips.conditions[1]["view"] == {"090": 1.0}
    # Every combination once, and then again.
    assert clips.conditions[:6] == clips.conditions[6:]
    assert clips.conditions[-1]["identity"] == {"001": 0.3, "002": 0.7}
    assert result["opengait"]["class_num"] == 3
    assert result["opengait"]["root"] == str(tmp_path / "out/opengait")
    manifest = json.loads((tmp_path / "out/opengait/manifest.json").read_text())
    assert manifest["provenance"]["model"] == "tiny-walker"
    assert manifest["provenance"]["sampler"]["steps"] == 2
    assert Image.open(tmp_path / "out/sheet.png").size[1] > 12 * 64
    about = json.loads((tmp_path / "out/generated.json").read_text())
    assert (about["seed"], about["start"], about["clips"]) == (7, 100, 12)


@needs_engine
def test_generate_is_the_engine_and_ignores_threads(run: Run, tmp_path: Path) -> None:
    from gaitcrafter_rt import Engine

    common = ["--model", MODEL, "--identities", "002", "--views", "all", "--steps", 3, "--seed", 2**64 - 1, "--format", "npz"]
    for threads in (1, 2):
        assert run("generate", tmp_path / str(threads), *common, "--threads", threads)[0] == 0
    first, second = (ClipBatch.load_npz(tmp_path / t / "clips.npz") for t in ("1", "2"))
    np.testing.assert_array_equal(first.packed, second.packed)
    direct = Engine(MODEL).generate([{"identity": "002", "view": v} for v in ("000", "090")], seed=2**64 - 1, steps=3)
    np.testing.assert_array_equal(first.packed, direct.packed)


@needs_engine
def test_generate_without_labels_is_one_unconditional_clip(run: Run, tmp_path: Path) -> None:
    assert run.json("generate", tmp_path / "o", "--model", MODEL, "--steps", 1, "--format", "npz")["clips"] == 1
    assert ClipBatch.load_npz(tmp_path / "o/clips.npz").conditions == [{}]


@needs_engine
@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--identities", "009"], 2, "no identity '009'"),
        (["--views", "45"], 2, "000, 090"),
        (["--datasets", "all"], 2, "no labels on the axis dataset"),
        (["--identities", "001,001"], 2, "twice"),
        (["--blend", "001"], 2, "two or more"),
        (["--blend", "x*001+002"], 2, "not a weight"),
        (["--blend", "001+001"], 2, "twice"),
        (["--blend", "nan*001+002"], 2, "not a weight"),
        (["--clips-per", "0"], 2, "--clips-per"),
        (["--clips-per", "99999999", "--identities", "all"], 2, "at most"),
        (["--steps", "0"], 2, "steps"),
        (["--steps", "1001"], 2, "1 to 1000"),
        (["--eta", "2"], 2, "eta"),
        (["--guidance", "-1"], 2, "guidance"),
        (["--threshold", "1.5"], 2, "threshold"),
        (["--seed", "-1"], 2, "--seed"),
        (["--seed", str(2**64)], 2, "--seed"),
        (["--start", "-1"], 2, "start"),
        (["--threads", "0"], 2, "threads"),
        (["--device", "tpu"], 6, "tpu"),
        (["--precision", "fp4"], 2, "fp4"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_requests(run: Run, tmp_path: Path, options: list, code: int, message: str) -> None:
    got, out, err = run("generate", tmp_path / "o", "--model", MODEL, "--format", "npz", *options)
    assert message in err
    assert (got, out) == (code, "")
    assert list(tmp_path.iterdir()) == []


@needs_engine
def test_generate_refuses_an_occupied_place_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    code, _, err = run("generate", tmp_path, "--model", "no-such-model", "--format", "npz")
    assert (code, "not an empty folder" in err) == (5, True)
