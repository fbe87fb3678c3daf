"""Runs commands in this process, for tests of the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gaitcrafter_rt.cli.main import main

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests" / "fixtures" / "tiny-walker"

try:
    import gaitcrafter_rt._native  # noqa: F401

    NATIVE = True
except ImportError:
    NATIVE = False
needs_engine = pytest.mark.skipif(not NATIVE, reason="the native engine is not built in this tree")


class Run:
    """Runs a command and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = self._capsys.readouterr()
        return code, out, err

    def told(self, *args: object) -> tuple[int, dict]:
        """Exit code and JSON document; of a job, which prints lines, the last one. Nothing stands on standard error."""
        code, out, err = self(*args, "--json")
        assert err == ""
        return code, json.loads(out if out.startswith("{\n") else out.splitlines()[-1])

    def json(self, *args: object) -> dict:
        """The JSON document of a command that must succeed."""
        code, document = self.told(*args)
        assert code == 0
        return document
