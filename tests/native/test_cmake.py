"""A C++ program of one's own against the installed package: csrc/examples, built and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import gaitcrafter_rt as gc

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "tiny-walker"
cmake = shutil.which("cmake")


def call(*command: object, **more: str) -> str:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **more}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def build_and_run(cmake_dir: str, work: Path) -> np.ndarray:
    """The example's picture of one clip: uint8 [frames, height, width]."""
    source = ROOT / "csrc" / "examples"
    call(cmake, "-S", source, "-B", work / "build", f"-Dgaitcrafter_DIR={cmake_dir}", "-DCMAKE_BUILD_TYPE=Debug")
    call(cmake, "--build", work / "build")
    call(work / "build" / "generate_clip", FIXTURE, work / "clip.pgm", 5, "002", "090")
    data = (work / "clip.pgm").read_bytes()
    assert data.startswith(b"P5\n32 192\n255\n")
    return np.frombuffer(data[len(b"P5\n32 192\n255\n") :], np.uint8).reshape(6, 32, 32)


@pytest.mark.skipif(cmake is None, reason="cmake is not installed")
def test_example_against_this_installation(tmp_path: Path) -> None:
    picture = build_and_run(str(gc.cmake_dir()), tmp_path)
    with gc.Engine(FIXTURE) as engine:
        assert np.array_equal(picture, engine.generate(gc.Condition(identity="002", view="090"), seed=5)[0])


@pytest.mark.slow
@pytest.mark.skipif(cmake is None, reason="cmake is not installed")
def test_example_against_a_fresh_wheel(tmp_path: Path) -> None:
    """The wheel that this source tree makes: what is in it, that it runs, and that a program links with it."""
    call(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    library = ("lib/libgaitcrafter.so", "include/gaitcrafter/gaitcrafter.hpp", "lib/cmake/gaitcrafter/gaitcrafterConfig.cmake")
    for needed in ("kernels/__init__.py", "export/__init__.py", "py.typed", *library):
        assert f"gaitcrafter_rt/{needed}" in names
    assert not [n for n in names if n.startswith(("csrc", "tests", "kernels", "export", "build"))]
    target = tmp_path / "site"
    call(sys.executable, "-m", "pip", "install", "--no-deps", "--target", target, wheel)
    code = "import gaitcrafter_rt as gc; print(gc.__file__, gc.cmake_dir())"
    # -S: without the site packages, where an editable install of this tree would win.
    where = call(sys.executable, "-P", "-S", "-c", code, PYTHONPATH=str(target)).split()
    assert all(str(target) in w for w in where)
    picture = build_and_run(where[1], tmp_path)
    assert 0 < (picture > 0).mean() < 1
