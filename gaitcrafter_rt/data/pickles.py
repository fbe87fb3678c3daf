"""OpenGait's pickles, read without running anything that they say.

A pickle is a program. This reader admits the few instructions that rebuild one numpy array, checks them before the first one runs,
and hands the rest of Python's unpickler inert stand-ins instead of numpy's functions; the array is made here, from checked numbers.
With convert's ``torch.load(weights_only=True)`` it is the only pickle reader of the project.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataFormatError
from ..files import PathLike

MAX_BYTES = 1 << 30
MAX_SIDE = 1024
_MAX_OPCODES = 400
# What pickling an ndarray emits under protocols 2 to 5; everything else is refused before the unpickler starts.
_OPCODES = frozenset(
    (
        "PROTO", "FRAME", "STOP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "MARK", "TUPLE", "EMPTY_TUPLE", "TUPLE1", "TUPLE2",
        "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
        "BYTEARRAY8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING", "BINPUT", "LONG_BINPUT",
        "MEMOIZE", "BINGET", "LONG_BINGET",
    )
)  # fmt: skip


class _Dtype:
    """Stands for numpy.dtype; remembers the type code."""

    def __init__(self, code: object, *flags: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands for the array under construction; remembers shape, type, order and bytes."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array state of an unknown form")
        self.state = state[1:]


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: object, dtype: object, shape: object, order: object) -> _Array:
    array = _Array()
    array.state = (shape, dtype, order == "F", data)
    return array


def _encode(text: object, codec: object) -> bytes:
    # Protocol 2 has no bytes: it writes them as latin-1 text and a call of _codecs.encode.
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("_codecs.encode with something else than latin-1 text")
    return text.encode("latin-1")


def _empty_bytes() -> bytes:
    # And no bytes at all become a call of bytes().
    return b""


_CORE = ("numpy.core", "numpy._core")
_ALLOWED: dict[tuple[str, str], object] = {
    **{(f"{core}.multiarray", "_reconstruct"): _reconstruct for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORE},
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
    ("builtins", "bytes"): _empty_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only numpy arrays are read") from None

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("it holds a reference to something outside the file")


def read_pickle(path: PathLike) -> np.ndarray:
    """The silhouettes in one OpenGait pickle: uint8 [T, H, W], read-only, values as stored.

    bool arrays become 0 and 255. Raises DataFormatError for anything else: other types and shapes, more than 1 GiB, more than
    1024 pixels a side, other objects, and pickles that would run code (which is not run).
    """
    source = Path(path)
    try:
        size = source.stat().st_size
        if size > MAX_BYTES:
            raise DataFormatError(f"{source}: {size} bytes; a sequence is at most {MAX_BYTES}")
        data = source.read_bytes()
    except OSError as e:
        raise DataFormatError(f"{source}: cannot be read: {e.strerror or e}") from e
    return parse_pickle(data, os.fspath(path))


def parse_pickle(data: bytes, source: str) -> np.ndarray:
    """As :func:`read_pickle`, from bytes; ``source`` goes into messages."""
    try:
        _check_opcodes(data)
        found = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        return _build(found)
    except DataFormatError as e:
        raise DataFormatError(f"{source}: {e}") from e
    # The unpickler raises whatever a malformed program provokes; none of it says more than that.
    except (pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError, OverflowError,
            UnicodeError, RecursionError, MemoryError) as e:  # fmt: skip
        raise DataFormatError(f"{source}: not a pickled silhouette array: {e}") from e


def _check_opcodes(data: bytes) -> None:
    """Walk over the instructions without running them."""
    encodes = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count >= _MAX_OPCODES:
            raise DataFormatError(f"more than {_MAX_OPCODES} instructions; one array needs about forty")
        if opcode.name not in _OPCODES:
            raise DataFormatError(f"the instruction {opcode.name} has no place in a pickled array (protocols 2 to 5 are read)")
        # The unpickler makes a table as long as the highest memo number, whatever the file's size.
        if opcode.name in ("BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET") and not 0 <= int(argument or 0) < _MAX_OPCODES:
            raise DataFormatError(f"memo number {argument} is out of range")
        encodes += opcode.name == "REDUCE"
    if encodes > 8:
        raise DataFormatError("more than 8 calls; one array needs three")


def _build(found: object) -> np.ndarray:
    if not isinstance(found, _Array) or len(found.state) != 4:
        kind = "an array with nothing in it" if isinstance(found, _Array) else f"a {type(found).__name__}"
        raise DataFormatError(f"holds {kind}; one uint8 array [frames, rows, columns] is expected")
    shape, dtype, fortran, data = found.state
    code = dtype.code if isinstance(dtype, _Dtype) else dtype
    if code not in ("u1", "b1", "|u1", "|b1"):
        raise DataFormatError(f"holds an array of type {code!r:.40}; uint8 (u1) is expected")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise DataFormatError(f"holds an array of shape {shape!r:.80}")
    if len(shape) != 3 or max(shape[1:]) > MAX_SIDE:
        raise DataFormatError(
            f"holds an array of shape {shape}; [frames, rows, columns] up to {MAX_SIDE} pixels a side is expected"
        )
    if isinstance(data, str):
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray) or len(data) != shape[0] * shape[1] * shape[2]:
        got = len(data) if isinstance(data, bytes | bytearray) else type(data).__name__
        raise DataFormatError(f"shape {shape} needs {shape[0] * shape[1] * shape[2]} bytes, the file holds {got}")
    array = np.frombuffer(bytes(data), np.uint8).reshape(shape, order="F" if fortran else "C")
    return np.where(array > 0, np.uint8(255), np.uint8(0)) if code in ("b1", "|b1") else array
