"""What several test files of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from gaitcrafter_rt.cli.main import main


@pytest.fixture(scope="session")
def walker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, exported and verified by the command."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    out = tmp_path_factory.mktemp("export") / "walker"
    assert main(["export", "onnx", "walker", str(out), "--verify", "--clips", "1"]) == 0
    return out
