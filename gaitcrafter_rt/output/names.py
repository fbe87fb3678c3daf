"""Names of folders from labels that strangers chose.

Letters, digits, ``-`` and ``_`` stay, a dot stays inside a name; everything else becomes ``%XX`` of its UTF-8 bytes, so that
a name can be turned back into its label and two labels never share a folder. A blend is its labels in sorted order with ``+``
between them and ``=weight`` after each whose weight is not 1: ``001+002``, ``001=0.3+002=0.7``. ``any`` stands for no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from ..errors import InvalidRequestError

MAX_BYTES = 200
ANY = "any"
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def encode_name(label: str) -> str:
    """A folder name for one label. Raises InvalidRequestError for an empty label, control characters or broken Unicode."""
    if not label:
        raise InvalidRequestError("an empty label cannot name a folder")
    if any(ord(c) < 32 or ord(c) == 127 for c in label):
        raise InvalidRequestError(f"label {label!r:.80} holds control characters; such a name is not written to disk")
    try:
        data = label.encode()
    except UnicodeEncodeError as e:
        raise InvalidRequestError(f"label {label!r:.80} is not valid Unicode text") from e
    if label == ANY:
        return f"%{ord(ANY[0]):02X}{ANY[1:]}"
    last = len(data) - 1
    return "".join(chr(b) if chr(b) in _PLAIN or (b == 0x2E and 0 < i < last) else f"%{b:02X}" for i, b in enumerate(data))


def decode_name(name: str) -> str:
    """The label of a name made by :func:`encode_name`."""
    return unquote(name)


def blend_name(weights: Mapping[str, float]) -> str:
    """A folder name for label weights. Raises InvalidRequestError if it exceeds 200 bytes or a label cannot be encoded."""
    parts = [encode_name(k) + ("" if w == 1 else f"={w:.9g}") for k, w in sorted(weights.items())]
    name = "+".join(parts)
    if len(name) > MAX_BYTES:
        raise InvalidRequestError(
            f"the name {name:.60}... has {len(name)} bytes; file systems allow about {MAX_BYTES}: use shorter labels"
        )
    return name
