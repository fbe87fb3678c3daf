"""The command line: help, JSON, exit codes, and that errors are one line that says what to do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaitcrafter_rt import errors
from gaitcrafter_rt.cli import doctor, train
from gaitcrafter_rt.cli.bench import percentile
from gaitcrafter_rt.cli.main import COMMANDS, cli, main
from gaitcrafter_rt.clips import ClipBatch
from gaitcrafter_rt.data import PackedClips
from gaitcrafter_rt.train.settings import TrainSettings

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "fixtures" / "tiny-walker"

try:
    import gaitcrafter_rt._native  # noqa: F401

    NATIVE = True
except ImportError:
    NATIVE = False
needs_engine = pytest.mark.skipif(not NATIVE, reason="the native engine is not built in this tree")


class Run:
    """Runs a command in this process and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *args: object) -> dict:
        code, out, err = self(*args, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


def all_commands() -> list[tuple[str, ...]]:
    import click

    found = []
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        found += [(name, sub) for sub in command.commands] if isinstance(command, click.Group) else [(name,)]
    return found


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_every_command_has_real_help(run: Run, command: tuple[str, ...]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0
    assert f"gaitcrafter-rt {' '.join(command)}" in out.split("Options:")[0].split("\n\n", 1)[1], "an example"
    assert "--json" in out
    options = re.findall(r"^  (--[a-z-]+)[^\n]*(?:\n {10,}[^\n]*)*", out.split("Options:")[1], re.M)
    assert options


def test_overview_names_every_command(run: Run) -> None:
    out = run("--help")[1]
    assert all(f"  {name} " in out for name in COMMANDS)
    code, _, err = run()
    assert code == 2
    assert "Commands:" in err


def test_version_and_startup_imports() -> None:
    script = (
        "import sys; from gaitcrafter_rt.cli.main import main; code = main(sys.argv[1:])\n"
        "print(code, [m for m in ('numpy', 'torch', 'rich', 'pydantic') if m in sys.modules])"
    )
    for argument in ("--version", "--help"):
        out = subprocess.run([sys.executable, "-c", script, argument], capture_output=True, text=True, cwd=ROOT, check=True).stdout
        assert out.splitlines()[-1] == "0 []", argument
    assert (ROOT / "VERSION").read_text().strip() in out or argument == "--help"


def test_the_entry_point_is_the_one_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["gaitcrafter-rt"] == "gaitcrafter_rt.cli.main:main"
    for extra, names in doctor.EXTRAS.items():
        listed = {re.split(r"[=<>\[]", r)[0] for r in project["optional-dependencies"][extra]}
        assert set(names) <= listed
    assert {re.split(r"[=<>\[]", r)[0] for r in project["dependencies"]} == set(doctor.BASE)


def test_train_offers_every_setting() -> None:
    assert set(train._HELP) | {"data", "out", "unet", "dropout"} == set(TrainSettings.model_fields)


def test_exit_codes_are_documented() -> None:
    documented = {int(n) for n in re.findall(r"^\| (\d+) \|", (ROOT / "docs/cli.md").read_text().split("## Exit codes")[1], re.M)}
    rows = re.findall(r"^\| (\d+) \| `GC_[A-Z_]+` \| `(\w+)`.*?\| (\d+) \|", (ROOT / "docs/errors.md").read_text(), re.M)
    listed = {name: (int(code), int(exit_code)) for code, name, exit_code in rows}
    classes = {n: c for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.GaitcrafterError)}
    assert listed == {name: (c.code, c.exit_code) for name, c in classes.items()}
    assert {c.exit_code for c in classes.values()} <= documented


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["nonsense"], 2, "No such command"),
        (["generate"], 2, "Missing argument 'OUT'"),
        (["doctor", "--nope"], 2, "No such option"),
        (["generate", "o", "--format", "bmp"], 2, "opengait"),
        (["generate", "o", "--steps", "many"], 2, "not a valid integer"),
        (["inspect", "model", "no-such-model"], 4, "neither a model folder nor a known name"),
        (["inspect", "data", "no-such-tree"], 4, "not a folder"),
        (["pack", "no-such-tree", "o", "--terms", "x"], 4, "not a folder"),
        (["train", "--data", "no-such-set", "--out", "o", "--steps", "0"], 2, "steps"),
        (["train", "--data", "no-such-set", "--out", "o", "--unet", "dim"], 2, "FIELD=VALUE"),
        (["train", "--data", "no-such-set", "--out", "o"], 4, "walkers render"),
        (["walkers", "render", "o", "--views", "0,200"], 2, "--views"),
        (["walkers", "render", "o", "--covariates", "zz"], 2, "covariate"),
        (["walkers", "render", "o", "--identities", "0"], 2, "identities"),
        (["bench", "latency", "--steps", "x"], 2, "--steps"),
        (["bench", "latency", "--repeats", "0"], 2, "--repeats"),
        (["bench", "latency", "--mode", "fast"], 2, "mode"),
        (["generate", "o", "--mode", "latency"], 2, "--mode belongs to a few clips"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_errors_are_one_line_and_json(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    got, out, err = run(*args)
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    got, out, err = run(*args, "--json")
    error = json.loads(out)["error"]
    assert (got, err, error["exit_code"]) == (code, "", code)
    assert message in error["message"]
    assert list(tmp_path.iterdir()) == []


def test_unexpected_errors_and_interrupts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import gaitcrafter_rt.models

    def fails(error: BaseException):  # type: ignore[no-untyped-def]
        def broken(*_: object) -> None:
            raise error

        return broken

    for error, code, kind in (
        (ZeroDivisionError("oops"), 70, "InternalError"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (MemoryError(), 7, "OutOfMemoryError"),
    ):
        monkeypatch.setattr(gaitcrafter_rt.models, "resolve_model", fails(error))
        got, out, _ = run("inspect", "model", "x", "--json")
        assert (got, json.loads(out)["error"]["type"]) == (code, kind)
    monkeypatch.setattr(gaitcrafter_rt.models, "resolve_model", fails(ZeroDivisionError("oops")))
    monkeypatch.setenv("GAITCRAFTER_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "model", "x"])


def test_control_characters_do_not_reach_the_terminal(run: Run) -> None:
    _, out, err = run("inspect", "model", "\x1b[31mred\x07")
    assert "\x1b" not in err.replace("\x1b[31m\x1b[1merror: \x1b[0m", "")
    assert "\x07" not in err + out


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


@needs_engine
def test_bench_latency(run: Run) -> None:
    result = run.json(
        "bench", "latency", "--model", MODEL, "--steps", "1,4", "--threads", "1", "--precision", "fp32", "--repeats", 3
    )
    assert [r["steps"] for r in result["rows"]] == [1, 4]
    for row in result["rows"]:
        assert 0 < row["p50_s"] <= row["p90_s"] <= row["p99_s"]
        assert row["open_s"] > 0 < row["cold_s"]
        assert row["precision"] == "fp32"
    assert [r["weights_from"] for r in result["rows"]][1] == "cache"
    assert result["model"]["name"] == "tiny-walker"
    assert "p99" in run("bench", "latency", "--model", MODEL, "--steps", "1", "--repeats", 1)[1]


@needs_engine
def test_bench_latency_profiles(run: Run) -> None:
    args = ["bench", "latency", "--model", MODEL, "--steps", "2", "--threads", "2", "--repeats", 2, "--profile"]
    result = run.json(*args, "--mode", "throughput,latency")
    assert [(r["mode"], r["profile"]["cores"]) for r in result["rows"]] == [("throughput", 1), ("latency", 2)]
    for row in result["rows"]:
        found = row["profile"]
        assert sum(r["share"] for r in found["rows"]) == pytest.approx(1, abs=0.01)
        assert [r["seconds"] for r in found["rows"]] == sorted((r["seconds"] for r in found["rows"]), reverse=True)
        operations = sum(r["operations"] for r in found["rows"] if r["stage"] == "network")
        assert operations == pytest.approx(2 * result["model"]["flops_per_call"])
        for r in found["rows"]:
            assert (r["of_limit"] is None) == (r["arithmetic"] == "")
    text = run(*args)[1]
    assert "convolution 3x3" in text and "sampler step" in text and "of limit" in text and "unaccounted" in text


def test_percentiles_are_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([3.0], 50) == 3.0


def test_doctor(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor")
    assert code == (0 if NATIVE else 6)
    assert ("instruction sets" in out and "packed weights" in out) or not NATIVE
    real = doctor._installed
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1", "imageio-ffmpeg": None, "torch": None}
    monkeypatch.setattr(doctor, "_installed", lambda name: both.get(name, real(name)))
    _, text, _ = run("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(text)["checks"]}
    assert checks["onnxruntime"]["status"] == "warn"
    assert "pip uninstall" in checks["onnxruntime"]["text"]
    assert "pip install 'gaitcrafter-rt[video]'" in checks["extra video"]["text"]
    assert checks["GPU"]["status"] == "absent"
    assert {"Python", "numpy", "disk", "native engine", "extra train"} <= checks.keys()


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m gaitcrafter_rt inspect model {MODEL} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
