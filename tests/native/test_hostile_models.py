"""Model folders of strangers, refused alike by Python, by the C interface and by the command line: one kind of error that names the
file and the fault, exit code 4, nothing written."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_line import MODEL, Run

import gaitcrafter_rt
from gaitcrafter_rt import Engine
from gaitcrafter_rt.errors import ModelFormatError

pytest.importorskip("gaitcrafter_rt._native", reason="the native engine is not built in this tree")
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def header(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    """Changes the header of a safetensors file and leaves its data."""

    def apply(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        head = json.loads(data[8 : 8 + length])
        change(head)
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return apply


def first(head: dict) -> dict:
    return head[sorted(k for k in head if k != "__metadata__")[0]]


def with_nan(data: bytes) -> bytes:
    return data[:-4] + np.array([np.nan], "<f4").tobytes()


def config(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    def apply(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return apply


CASES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "weights that are not finite": (WEIGHTS, with_nan, "not finite"),
    "weights cut short": (WEIGHTS, lambda d: d[:-1000], "bytes"),
    "an empty file": (WEIGHTS, lambda d: b"", "bytes"),
    "a header of 2**62 bytes": (WEIGHTS, lambda d: struct.pack("<Q", 1 << 62) + d[8:], "header"),
    "offsets past the end": (WEIGHTS, header(lambda h: first(h).update(data_offsets=[0, 1 << 40])), "offsets"),
    "offsets that overlap": (WEIGHTS, header(lambda h: [t.update(data_offsets=[0, 4]) for t in h.values() if "shape" in t]), ""),
    "a shape that lies": (WEIGHTS, header(lambda h: first(h).update(shape=[1 << 31, 1 << 31])), ""),
    "a pickle": (WEIGHTS, lambda d: pickle.dumps({"model": 1}), "a PyTorch pickle; run `gaitcrafter-rt convert`"),
    "a billion channels": (CONFIG, config(lambda c: c["unet"].update(dim=10**9)), "unet.dim"),
    "a billion heads": (CONFIG, config(lambda c: c["unet"].update(attention_heads=2**31)), "unet.attention_heads"),
    "a billion frames": (CONFIG, config(lambda c: c["clip"].update(frames=10**9)), "clip.frames"),
    "a key that nobody knows": (CONFIG, config(lambda c: c.update(surprise=1)), "surprise"),
    "a config that is no JSON": (CONFIG, lambda d: b"\x80\x04cos\nsystem\n.", "JSON"),
}


@pytest.fixture(params=CASES)
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A folder whose checksums fit, so that only its content speaks against it; and what the error says."""
    name, change, message = CASES[request.param]
    folder = Path(shutil.copytree(MODEL, tmp_path / "m"))
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    sums = json.loads((folder / "checksums.json").read_text())
    sums["sha256"] = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in sums["sha256"]}
    (folder / "checksums.json").write_text(json.dumps(sums))
    return folder, message


def c_status(folder: Path) -> tuple[int, str]:
    """Status and message of gc_engine_open."""
    lib = ctypes.CDLL(str(Path(gaitcrafter_rt.__file__).parent / "lib" / "libgaitcrafter.so"))
    lib.gc_last_error_message.restype = ctypes.c_char_p
    engine = ctypes.c_void_p()
    status = lib.gc_engine_open(os.fsencode(folder), None, ctypes.byref(engine))
    assert engine.value is None
    return status, lib.gc_last_error_message().decode(errors="replace")


def test_refused_alike(hostile: tuple[Path, str], run: Run, tmp_path: Path) -> None:
    folder, message = hostile
    with pytest.raises(ModelFormatError) as caught:
        Engine(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    status, text = c_status(folder)
    assert (status, text) == (ModelFormatError.code, str(caught.value))
    code, out, err = run("generate", tmp_path / "out", "--model", folder, "--steps", 1, "--format", "npz")
    assert (code, out) == (4, "")
    assert message in err
    assert err.count("\n") == 1
    assert run("inspect", "model", folder)[0] == 4
    assert sorted(os.listdir(tmp_path)) == ["m"]
