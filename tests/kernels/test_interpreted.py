"""Every kernel against its reference, run by Triton's interpreter on the CPU, in a process of its own.

TRITON_INTERPRET=1 must be set before the kernels are imported and turns Triton's compiler off for the whole process, so the checks
in ``interpreted/`` are no ordinary test files; one can be run with
``TRITON_INTERPRET=1 pytest tests/kernels/interpreted/check_conv2d.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the extra gpu")
FOLDER = Path(__file__).parent / "interpreted"
# Test of this file to what it runs.
RUNS: dict[str, tuple[str, ...]] = {
    "test_attention_and_sampler": ("check_attention.py", "check_sampler_step.py"),
    "test_convolutions_norms_and_shuffles": ("check_conv2d.py", "check_group_norm_silu.py", "check_pixel_shuffle.py"),
    "test_the_cubin_backends_launch_list": ("check_cubin.py",),
    "test_the_cubin_backend_in_other_modes": ("-m", "slow", "check_cubin.py"),
    "test_whole_networks_from_kernels_alone": ("-m", "", "check_network.py"),
}


def _start(arguments: tuple[str, ...], output: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short", *arguments]
    with output.open("wb") as file:
        return subprocess.Popen(command, cwd=FOLDER, env=environment, stdout=file, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def passes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], None]]:
    """Waits for the run of the test that is named. All selected runs start at once: each has one thread and takes a minute."""
    names = [item.name for item in request.session.items if item.name in RUNS and item.path == request.path]
    folder = tmp_path_factory.mktemp("interpreted")
    running = {name: _start(RUNS[name], folder / name) for name in names}

    def wait(name: str) -> None:
        code = running[name].wait()
        assert code == 0, (folder / name).read_text(errors="replace")[-8000:]

    yield wait
    for process in running.values():
        process.kill()
        process.wait()


def test_no_check_is_left_out() -> None:
    run = {argument for arguments in RUNS.values() for argument in arguments if argument.startswith("check_")}
    assert run == {path.name for path in FOLDER.glob("check_*.py")}


def test_attention_and_sampler(passes: Callable[[str], None]) -> None:
    passes("test_attention_and_sampler")


def test_convolutions_norms_and_shuffles(passes: Callable[[str], None]) -> None:
    passes("test_convolutions_norms_and_shuffles")


def test_the_cubin_backends_launch_list(passes: Callable[[str], None]) -> None:
    passes("test_the_cubin_backends_launch_list")


@pytest.mark.slow
def test_the_cubin_backend_in_other_modes(passes: Callable[[str], None]) -> None:
    """An eps-model with noise, and whole networks of both presets."""
    passes("test_the_cubin_backend_in_other_modes")


@pytest.mark.slow
def test_whole_networks_from_kernels_alone(passes: Callable[[str], None]) -> None:
    passes("test_whole_networks_from_kernels_alone")
