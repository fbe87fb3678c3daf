"""Help, versions, and lists that must agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_line import ROOT, Run

from gaitcrafter_rt import errors
from gaitcrafter_rt.cli import doctor, train
from gaitcrafter_rt.cli.common import command_to_type
from gaitcrafter_rt.cli.main import COMMANDS, cli
from gaitcrafter_rt.train.settings import TrainSettings


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


def test_next_commands_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What demo suggests names the program by its path where the shell would not find it."""
    script = tmp_path / "a place" / "gaitcrafter-rt"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_to_type() == f"'{script}'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert command_to_type() == "gaitcrafter-rt"
    monkeypatch.setattr(sys, "argv", ["/x/pytest"])
    assert command_to_type() == "gaitcrafter-rt"
