"""Labels that strangers chose as names on disk: safe, reversible, never shared."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.output.names import blend_name, decode_name, encode_name

LABELS = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=60)
# Four bytes of UTF-8 make twelve of a name, so that three labels of four characters fit.
SHORT = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=4)
BLENDS = st.dictionaries(SHORT, st.sampled_from([1.0, 0.5, 0.25, -1.0]), min_size=1, max_size=3)


@settings(max_examples=300, deadline=None)
@given(LABELS)
def test_names_are_plain_and_reversible(label: str) -> None:
    name = encode_name(label)
    assert decode_name(name) == label
    assert name.isascii()
    assert os.path.basename(name) == name
    assert name not in (".", "..", "any")
    assert not set(name) & set('/\\:*?"<>|+= \0')
    assert not name.startswith(".")
    assert not name.endswith(".")


@settings(max_examples=300, deadline=None)
@given(BLENDS, BLENDS)
def test_different_blends_have_different_names(a: dict[str, float], b: dict[str, float]) -> None:
    assert (blend_name(a) == blend_name(b)) == (a == b)


@pytest.mark.parametrize(
    "weights, name",
    [
        ({"001": 1}, "001"),
        ({"002": 1, "001": 1}, "001+002"),
        ({"001": 0.3, "002": 0.7}, "001=0.3+002=0.7"),
        ({"001+002": 1}, "001%2B002"),
        ({"../../etc": 1}, "%2E.%2F..%2Fetc"),
        ({"a/b\\c": 1}, "a%2Fb%5Cc"),
        ({"any": 1}, "%61ny"),
        ({"v1.5": 1}, "v1.5"),
    ],
)
def test_known_names(weights: dict[str, float], name: str) -> None:
    assert blend_name(weights) == name


@pytest.mark.parametrize("label", ["", "a\0b", "a\nb", "\x7f", "\udcff", "x" * 201, "ü" * 40])
def test_refused(label: str) -> None:
    with pytest.raises(InvalidRequestError):
        blend_name({label: 1.0})
