"""Puts this folder on the import path, for the helper modules that several test folders share (peers.py, ...)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from command_line import Run

# Programs that tests start must import the installed package too, not the sources in the current folder.
os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests use a cache of packed weights, as users do, and leave theirs alone."""
    before = os.environ.get("GAITCRAFTER_CACHE")
    os.environ["GAITCRAFTER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("GAITCRAFTER_CACHE")
    if before is not None:
        os.environ["GAITCRAFTER_CACHE"] = before


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Commands of this package, run in this process."""
    from command_line import Run

    return Run(capsys)


@pytest.fixture
def fast(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: for tests that do thousands of fsyncs."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
