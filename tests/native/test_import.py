"""What importing costs, and what an installation offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gaitcrafter_rt


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_import_loads_neither_numpy_nor_torch() -> None:
    code = (
        "import sys, gaitcrafter_rt as gc\nv = gc.__version__\ngc.list_models()\n"
        "print(v, [m for m in ('numpy', 'torch', 'pydantic', 'PIL', 'gaitcrafter_rt._native') if m in sys.modules])"
    )
    assert run(code).split(maxsplit=1) == [gaitcrafter_rt.__version__, "[]\n"]


def test_generating_loads_no_torch() -> None:
    path = Path(__file__).parent.parent / "fixtures" / "tiny-walker"
    code = (
        f"import sys, gaitcrafter_rt as gc\nb = gc.Engine.from_pretrained({str(path)!r}).generate([gc.Condition(view='090')])\n"
        "print(b[0].shape, 'torch' in sys.modules, 'scipy' in sys.modules)"
    )
    assert run(code) == "(6, 32, 32) False False\n"


def test_public_names_exist() -> None:
    for name in gaitcrafter_rt.__all__:
        assert getattr(gaitcrafter_rt, name) is not None
        assert name in dir(gaitcrafter_rt)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        gaitcrafter_rt.nothing  # noqa: B018


def test_versions_agree() -> None:
    from gaitcrafter_rt import _native

    tree = Path(__file__).parents[2] / "VERSION"
    assert gaitcrafter_rt.__version__ == _native.__version__ == tree.read_text().strip()
