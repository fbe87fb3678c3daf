"""The cache of packed weights, seen from Python: same clips with and without it, shared by processes, never an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gaitcrafter_rt import Engine, _native

FIXTURES = Path(__file__).parent.parent / "fixtures"
OPEN = """
import sys
from gaitcrafter_rt import Engine
engine = Engine(sys.argv[1], precision=sys.argv[2], threads=1)
packed = engine.generate([{}], seed=7, steps=3).packed
maps = [line for line in open("/proc/self/maps") if ".packed" in line]
print(engine.info["weights_from"], packed.tobytes().hex(), len(maps), all(" r--s " in line for line in maps))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GAITCRAFTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


def start(model: str, precision: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OPEN, str(FIXTURES / model), precision], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.split()


# An x0-model, and an eps-model, which has a second network in fp32.
@pytest.mark.parametrize(("model", "precision", "files"), [("tiny-walker", "fp32", 1), ("trained-eps", "bf16", 2)])
def test_processes_share_one_file_and_make_the_same_clips(
    cache: Path, monkeypatch: pytest.MonkeyPatch, model: str, precision: str, files: int
) -> None:
    if not _native.precision_supported(precision):
        pytest.skip(f"this processor has no {precision}")
    first = [finish(p) for p in [start(model, precision), start(model, precision)]]  # at once, on an empty cache
    assert {f[0] for f in first} <= {"written", "cache"}
    assert len(list(cache.glob("*.packed"))) == files
    again = finish(start(model, precision))
    assert again[0] == "cache"
    assert again[2:] == [str(files), "True"]
    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    off = finish(start(model, precision))
    assert (off[0], off[2]) == ("memory", "0")
    assert {f[1] for f in [*first, again]} == {off[1]}


def test_the_unpacked_file_is_let_go(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines = [Engine(FIXTURES / "tiny-walker"), Engine(FIXTURES / "tiny-walker")]
    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    engines.append(Engine(FIXTURES / "tiny-walker"))
    assert [e.info["weights_from"] for e in engines] == ["written", "cache", "memory"]
    assert "model.safetensors" not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "symlink", "folder above"])
def test_a_damaged_cache_is_replaced_or_done_without(cache: Path, damage: str) -> None:
    want = Engine(FIXTURES / "tiny-walker").generate([{}], seed=7, steps=3).packed.tobytes()
    (file,) = cache.glob("*.packed")
    data = file.read_bytes()
    if damage == "flip":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 64]))
    elif damage == "symlink":
        file.rename(cache / "elsewhere")
        file.symlink_to(cache / "elsewhere")
    elif damage == "folder above":
        cache.rename(cache.with_name("gone"))
        cache.write_text("no folder")
    else:
        file.write_bytes(data[: len(data) // 2 if damage == "cut" else 0])
    engine = Engine(FIXTURES / "tiny-walker")
    assert engine.info["weights_from"] == ("memory" if damage == "folder above" else "written")
    assert engine.generate([{}], seed=7, steps=3).packed.tobytes() == want


def test_what_is_said_of_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = _native.cache()
    assert (empty["folder"], empty["problem"], empty["entries"], empty["bytes"]) == (str(cache), "", 0, 0)
    assert not cache.exists()  # looking makes nothing
    engine = Engine(FIXTURES / "tiny-walker")
    held = _native.cache(engine.info["model_sha256"])
    assert held["entries"] == 1
    assert held["bytes"] == sum(f.stat().st_size for f in cache.glob("*.packed"))
    assert _native.cache("0" * 64)["entries"] == 0
    monkeypatch.setenv("GAITCRAFTER_CACHE", "off")
    assert "switched off" in _native.cache()["problem"]
    monkeypatch.setenv("GAITCRAFTER_CACHE", "here")
    assert "from / on" in _native.cache()["problem"]
