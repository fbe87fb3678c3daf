"""Puts this folder on the import path, for the helper modules that several test folders share (peers.py, ...)."""

import os
from collections.abc import Iterator

import pytest

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
