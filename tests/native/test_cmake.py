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
CACHE = ROOT / "tests" / "fixtures" / "cache-version-1"
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
    check_loaders(work)
    data = (work / "clip.pgm").read_bytes()
    assert data.startswith(b"P5\n32 192\n255\n")
    return np.frombuffer(data[len(b"P5\n32 192\n255\n") :], np.uint8).reshape(6, 32, 32)


def check_loaders(work: Path) -> None:
    """The two loaders: what they read and make is what numpy reads and the engine makes."""
    bits = np.fromfile(CACHE / "silhouettes.bin", np.uint8).reshape(4, 128)
    names = ["001", "001", "001=0.3+002=0.7", "001=0.3+002=0.7"]
    lines = call(work / "build" / "pk_loader", CACHE, 2, 2, 5, 7).splitlines()
    assert len(lines) == 5
    for line in lines:
        _, _, _, foreground, *clips = line.split()
        pairs = [c.split(":") for c in clips]
        assert sorted(int(n) for n, _ in pairs) == [0, 1, 2, 3]
        assert all(names[int(n)] == name for n, name in pairs)
        assert int(foreground) == np.unpackbits(bits).sum()
    call(work / "build" / "stream_clips", FIXTURE, 20, work / "clips.bin", 5)
    with gc.Engine(FIXTURE) as engine:
        made = engine.generate([gc.Condition(identity=f"00{i % 3 + 1}") for i in range(20)], seed=5)
    assert (work / "clips.bin").read_bytes() == made.packed.tobytes()


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
