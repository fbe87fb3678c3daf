"""Errors are one line that says what to do, or one JSON document; with the documented exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MODEL, ROOT, Run

from gaitcrafter_rt.cli.main import main


@pytest.mark.parametrize(
    "args, code, message",
    [
        (["nonsense"], 2, "No such command"),
        (["genrate", "o"], 2, "Did you mean 'generate'?"),
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


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m gaitcrafter_rt inspect model {MODEL} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == ""
