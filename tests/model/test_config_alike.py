"""``config.py`` and ``config.cc`` judge every file alike: the corpus, hostile sizes, and random changes of good files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gaitcrafter_rt import _native
from gaitcrafter_rt.config import ClipShape, Conditioning, Labels, ModelConfig, Quantisation, paper_preset, walker_preset
from gaitcrafter_rt.errors import GaitcrafterError, ModelFormatError, UnsupportedVersionError

CORPUS = Path(__file__).parent / "corpus"
VERDICTS = {"good": None, "bad": ModelFormatError, "newer": UnsupportedVersionError}


def verdict(judge: Callable[[bytes], object], text: bytes) -> type[GaitcrafterError] | None:
    try:
        judge(text)
    except GaitcrafterError as e:
        return type(e)
    return None


def both(text: bytes) -> tuple[type[GaitcrafterError] | None, type[GaitcrafterError] | None]:
    return verdict(ModelConfig.from_json, text), verdict(_native.validate_config, text)


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.json")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_corpus(path: Path) -> None:
    want = VERDICTS[path.parent.name]
    assert both(path.read_bytes()) == (want, want)


HOSTILE = {
    "deep list": b'{"format": "gaitcrafter-model", "x": ' + b"[" * 1_000_000,
    "deep objects": b'{"format": "gaitcrafter-model", "x": ' + b'{"a":' * 300_000,
    "too long": b'{"format": "gaitcrafter-model"' + b" " * (16 << 20) + b"}",
    "too many labels": json.dumps({"format": "gaitcrafter-model", "labels": {"view": [str(i) for i in range(4097)]}}).encode(),
    "long name": b'{"format": "gaitcrafter-model", "name": "' + b"a" * 1_000_000 + b'"}',
    "many digits": b'{"format": "gaitcrafter-model", "clip": {"frames": ' + b"1" * 100_000 + b"}}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sizes(name: str) -> None:
    assert both(HOSTILE[name]) == (ModelFormatError, ModelFormatError)


def test_full_vocabulary_is_allowed() -> None:
    labels = {"identity": [f"{i:05d}" for i in range(65536)], "dataset": [str(i) for i in range(1024)]}
    assert both(json.dumps({"format": "gaitcrafter-model", "labels": labels}).encode()) == (None, None)


BASES = [
    ModelConfig(unet=paper_preset(), conditioning=Conditioning(cond_dim=5, cond_columns={"view": [4]}), labels=Labels(view=["a"])),
    ModelConfig(
        unet=walker_preset(),
        clip=ClipShape(frames=6, height=32, width=32),
        labels=Labels(identity=["001", "002"], view=["000"], covariate=["nm"]),
        conditioning=Conditioning(identity="block_table", view="input_map", covariate="input_map"),
    ),
    ModelConfig(
        format_version=2,
        unet=walker_preset(),
        quantisation=Quantisation(layers=["downs.2.blocks.0.conv1", "final_block.conv2"], clips=4, method="extremes"),
    ),
]
VALUES: Any = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([64, 128, 255, 256, 257, 512, 513, 4096, 4097, 65536, 100_000, 2**31, 2**63, 2**64, -(2**63) - 1]),
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 1.0, 0.5, 100.0, 1e-320]), st.booleans(), st.none(),
    st.text(max_size=4),
    st.sampled_from(["eps", "group_norm", "ddim", "clip", "none", "input_map", "block_table", "real"]),
    st.lists(st.one_of(st.integers(-1, 9), st.booleans(), st.text(max_size=2)), max_size=5),
    st.lists(st.sampled_from(["mid_block1.conv1", "downs.2.blocks.0.conv1", "downs.2.blocks.1.conv1", "ups.0.x"]), max_size=3),
    st.dictionaries(st.sampled_from(["view", "identity", "x"]), st.lists(st.integers(-1, 5), max_size=3), max_size=2),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_random_changes(data: st.DataObject) -> None:
    """One to three fields of a good file get other values, or are removed; the version too."""
    raw = json.loads(data.draw(st.sampled_from(BASES)).to_json())
    if data.draw(st.booleans()):
        raw["format_version"] = data.draw(st.sampled_from([1, 2, 3, True, 2.0, None]))
    for _ in range(data.draw(st.integers(1, 3))):
        section = data.draw(st.sampled_from([k for k, v in raw.items() if isinstance(v, dict)]))
        name = data.draw(st.sampled_from([*raw[section], "unknown"]))
        if data.draw(st.booleans()):
            raw[section][name] = data.draw(VALUES)
        else:
            raw[section].pop(name, None)
    python, cpp = both(json.dumps(raw).encode())
    assert python == cpp, json.dumps(raw)


def test_the_oldest_version_that_can_say_it_is_written() -> None:
    written = [json.loads(base.to_json()) for base in BASES]
    assert [c["format_version"] for c in written] == [1, 1, 2]
    assert ["quantisation" in c for c in written] == [False, False, True]
    assert [ModelConfig.from_json(json.dumps(c)) for c in written] == BASES
    read = ModelConfig.from_json(b'{"format": "gaitcrafter-model", "format_version": 2, "quantisation": null}')
    assert json.loads(read.to_json()) == json.loads(ModelConfig().to_json())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=30), st.integers(0, 2000))
def test_random_bytes(noise: bytes, at: int) -> None:
    """Bytes of a good file are overwritten; what is still JSON is judged alike."""
    text = bytearray(BASES[1].to_json().encode())
    at = min(at, len(text))
    text[at : at + len(noise)] = noise
    python, cpp = both(bytes(text))
    assert python == cpp
