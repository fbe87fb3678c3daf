"""The restricted pickle reader: arrays as numpy writes them come back, nothing else is built, nothing is run."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaitcrafter_rt.data.pickles import parse_pickle, read_pickle
from gaitcrafter_rt.errors import DataFormatError
from gaitcrafter_rt.output.opengait import pickle_array

ARRAY = np.random.default_rng(0).integers(0, 256, (30, 64, 44), np.uint8)


def old_paths(data: bytes) -> bytes:
    """The same pickle as numpy 1 writes it."""
    out = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(b"numpy._core.numeric", b"numpy.core.numeric")
    for name in (b"numpy.core.multiarray", b"numpy.core.numeric"):  # SHORT_BINUNICODE carries its length
        out = out.replace(b"\x8c" + bytes([len(name) + 1]) + name, b"\x8c" + bytes([len(name)]) + name)
    if data[2:3] == b"\x95":  # and the first frame of protocols 4 and 5 its own
        out = out[:3] + struct.pack("<Q", struct.unpack("<Q", out[3:11])[0] - (len(data) - len(out))) + out[11:]
    return out


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("old", [False, True], ids=["numpy 2 paths", "numpy 1 paths"])
@pytest.mark.parametrize(
    "array", [ARRAY, np.asfortranarray(ARRAY), ARRAY[::2], ARRAY[:0]], ids=["plain", "fortran", "strided", "empty"]
)
def test_arrays_come_back(protocol: int, old: bool, array: np.ndarray) -> None:
    data = pickle.dumps(array, protocol)
    if old:
        data = old_paths(data)
        assert b"numpy.core" in data
        assert b"_core" not in data.replace(b"numpy.core", b"")
    got = parse_pickle(data, "x")
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, array)


def test_bool_arrays_become_full_range() -> None:
    np.testing.assert_array_equal(parse_pickle(pickle.dumps(ARRAY > 128), "x"), (ARRAY > 128) * np.uint8(255))


def test_our_own_pickles_are_read_by_numpy_and_by_us() -> None:
    data = pickle_array(ARRAY)
    np.testing.assert_array_equal(parse_pickle(data, "x"), ARRAY)
    loaded = pickle.loads(data)
    np.testing.assert_array_equal(loaded, ARRAY)
    assert loaded.dtype == np.uint8
    assert loaded.flags.writeable


class Evil:
    """What an attacker pickles: calls ``call(*arguments)`` when loaded."""

    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_is_not_run(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    attacks = [
        Evil(os.system, f"touch {canary}"),
        Evil(eval, f"open({str(canary)!r}, 'w')"),
        Evil(open, str(canary), "w"),
        Evil(subprocess.check_output, ["touch", str(canary)]),
        [ARRAY, Evil(os.mkdir, str(canary))],
        {"a": Evil(np.save, str(canary), 1)},
    ]
    for attack in attacks:
        path = tmp_path / "evil.pkl"
        path.write_bytes(pickle.dumps(attack, protocol))
        with pytest.raises(DataFormatError, match=r"evil\.pkl"):
            read_pickle(path)
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pkl"]


def test_nothing_is_imported_or_executed() -> None:
    """No find_class of the plain unpickler, no exec, no import happens while hostile bytes are read."""
    script = (
        "import sys, pickle, numpy as np\n"
        "from gaitcrafter_rt.data.pickles import parse_pickle\n"
        "from gaitcrafter_rt.errors import DataFormatError\n"
        "seen = []\n"
        "bad = ('import', 'exec', 'os.system', 'subprocess.Popen', 'open')\n"
        "sys.addaudithook(lambda e, a: seen.append(e) if e in bad else None)\n"
        "hostile = [b'\\x80\\x04\\x8c\\x04this\\x8c\\x01s\\x93)R.', b'\\x80\\x03cthis\\ns\\n)R.',\n"
        "    b'cos\\nsystem\\n(S\\'x\\'\\ntR.']\n"
        "for data in hostile:\n"
        "    try: parse_pickle(data, 'x'); print('accepted')\n"
        "    except DataFormatError: pass\n"
        "print(seen, 'this' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[] False"


@pytest.mark.parametrize(
    "value, message",
    [
        ([ARRAY], "EMPTY_LIST"),
        ({"sils": ARRAY}, "EMPTY_DICT"),
        ((ARRAY, ARRAY), "tuple"),
        (7, "int"),
        (ARRAY.astype(np.float32), "'f4'"),
        (ARRAY.astype(np.int64), "'i8'"),
        (ARRAY[0], "frames, rows, columns"),
        (ARRAY[None], "frames, rows, columns"),
        (np.zeros((1, 1025, 64), np.uint8), "1024"),
        (np.array([None, ARRAY], dtype=object), "no place"),
        (np.uint8(3), "scalar"),
    ],
)
def test_other_objects_are_refused(value: object, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        parse_pickle(pickle.dumps(value), "x")


def _array_pickle(shape: bytes, data: bytes, dtype: bytes = b"u1") -> bytes:
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01" + shape
        + b"cnumpy\ndtype\nX" + struct.pack("<I", len(dtype)) + dtype + b"\x89\x88\x87R\x89B"
        + struct.pack("<I", len(data)) + data + b"tb."
    )  # fmt: skip


@pytest.mark.parametrize(
    "data, message",
    [
        (_array_pickle(b"(J\xff\xff\xff\x7fK\x40K\x40t", b"\0" * 10), "needs"),
        (_array_pickle(b"(\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x40K\x40t", b""), "needs"),
        (_array_pickle(b"(J\xff\xff\xff\xffK\x40K\x40t", b""), "shape"),
        (_array_pickle(b"(\x88K\x40K\x40t", b"\0" * 4096), "shape"),
        (_array_pickle(b"(K\x01K\x40K\x40t", b"\0" * 4095), "4096 bytes"),
        (_array_pickle(b"(K\x01K\x01K\x01t", b"\0", b"O8"), "O8"),
        (_array_pickle(b"(K\x01K\x01K\x01t", b"\0", b"V1"), "V1"),
        (b"", "not a pickled"),
        (b"\x80\x04.", "not a pickled"),
        (b"\x80\x04r\xff\xff\xff\xff.", "memo number"),
        (b"\x80\x04" + b"(" * 5000 + b".", "instructions"),
        (b"\x80\x04Pid\n.", "PERSID"),
        (b"\x80\x04K\x01Q.", "BINPERSID"),
        (b"\x80\x02c__builtin__\neval\nX\x03\0\0\0" + b"1+1\x85R.", "__builtin__.eval"),
        (b"\x80\x02cnumpy\nload\nX\x01\0\0\0x\x85R.", "numpy.load"),
        (b"\x80\x02cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
        (b"\x80\x02cnumpy\ndtype\n(K\x01K\x02tb.", "not a pickled"),
        (b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(K\x01K\x02tb.", "not a pickled"),
    ],
)
def test_hostile_bytes(data: bytes, message: str) -> None:
    with pytest.raises(DataFormatError, match=message):
        parse_pickle(data, "x")


GOOD = pickle.dumps(ARRAY[:1, :4, :4], 4)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_any_flipped_byte_gives_an_array_or_a_typed_error(place: int, value: int) -> None:
    data = bytearray(GOOD)
    data[place] = value
    try:
        assert parse_pickle(bytes(data), "x").ndim == 3
    except DataFormatError:
        pass


def test_every_truncation_is_refused() -> None:
    for end in range(len(GOOD)):
        with pytest.raises(DataFormatError):
            parse_pickle(GOOD[:end], "x")


def test_a_file_too_large_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "big.pkl"
    with open(path, "wb") as f:
        f.truncate((1 << 30) + 1)
    with pytest.raises(DataFormatError, match="at most"):
        read_pickle(path)
    with pytest.raises(DataFormatError, match="cannot be read"):
        read_pickle(tmp_path / "absent.pkl")


def test_pickle_is_imported_in_one_place_only() -> None:
    """The only pickle reader is data/pickles.py; convert may use torch.load(weights_only=True)."""
    root = Path(__file__).parents[2] / "gaitcrafter_rt"
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "pickles.py":
            assert "import pickle" not in text, path
            assert "from pickle" not in text, path
            assert "allow_pickle=True" not in text, path
        for line in text.splitlines():
            if "torch.load(" in line:
                assert "weights_only=True" in line, f"{path}: {line}"
