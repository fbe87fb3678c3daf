"""Every kernel against its reference, run by Triton's interpreter on the CPU, in a process of its own.

TRITON_INTERPRET=1 must be set before the kernels are imported and turns Triton's compiler off for the whole process, so the checks
in ``interpreted/`` are no ordinary test files; one can be run with
``TRITON_INTERPRET=1 pytest tests/kernels/interpreted/check_conv2d.py``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the extra gpu")
FOLDER = Path(__file__).parent / "interpreted"


def _pytest(*arguments: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_every_kernel_against_its_reference() -> None:
    files = sorted(str(path) for path in FOLDER.glob("check_*.py") if path.name not in ("check_network.py", "check_cubin.py"))
    assert len(files) == 5
    _pytest(*files)


def test_the_cubin_backends_launch_list() -> None:
    _pytest(str(FOLDER / "check_cubin.py"))


@pytest.mark.slow
def test_the_cubin_backend_in_other_modes() -> None:
    _pytest("-m", "slow", str(FOLDER / "check_cubin.py"))


@pytest.mark.slow
def test_whole_networks_from_kernels_alone() -> None:
    _pytest("-m", "", str(FOLDER / "check_network.py"))
