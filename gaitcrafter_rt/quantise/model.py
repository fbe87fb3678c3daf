"""A model package in, the same package with calibrated ranges out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..config import ModelConfig, Quantisation, resnet_convolutions
from ..errors import InvalidRequestError, MissingExtraError, ModelFormatError
from ..files import refuse_occupied_folder
from ..package import CARD, check_sums, read_config, read_stored_weights, write_package
from ..ranges import HIGH, LOW, Ranges, range_tensors

MAX_CLIPS = 4096
CARD_LINE = "Int8 ranges: "


class Quantised(NamedTuple):
    """What ``quantise_model`` made."""

    folder: Path
    quantisation: Quantisation
    ranges: Ranges


def quantise_model(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    clips: int = 16,
    layers: Sequence[str] = ("all",),
    exclude: Sequence[str] = (),
    seed: int = 0,
    percentile: float = 100.0,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Quantised:
    """Calibrate the model package ``folder`` on its own sampling runs and write it, with the ranges, to ``out``.

    ``clips`` (1 to 4096) are sampled by the model's default sampler; ``layers`` and ``exclude`` choose convolutions by name or
    shell pattern ("ups.*"), "all" is every 3x3 convolution of a ResNet block; ``seed`` determines noise and conditions.
    ``threads`` (1 to 256) are torch's. Weights are copied bit for bit; ranges that the package already had are replaced.
    ``progress(done, of)`` counts network calls.

    Raises InvalidRequestError for an argument, ModelFormatError for the package, OutputError if ``out`` is not empty or cannot be
    written, MissingExtraError without torch.
    """
    refuse_occupied_folder(out)
    source = Path(folder)
    _check(clips, threads, seed)
    config = read_config(source)
    chosen = choose_layers(config, layers, exclude)
    check_sums(source)
    try:
        from ..nn.denoiser import load_unet
        from ..torch_threads import torch_threads
        from .recorder import RangeRecorder
        from .runs import sample_clips, spread_conditions
    except ImportError as e:
        raise MissingExtraError.for_extra("train", "calibrating a model", e.name) from e
    model = load_unet(source)
    with torch_threads(threads), RangeRecorder(model, chosen, percentile) as recorder:
        for _ in sample_clips(model, spread_conditions(config, clips, seed), seed, progress):
            pass
    ranges = recorder.ranges()
    made = Quantisation(layers=chosen, clips=clips, method=_method(config, percentile, seed))
    quantised = ModelConfig.model_validate({**dict(config), "format_version": 2, "quantisation": made})
    weights = {k: v for k, v in read_stored_weights(source).items() if not k.endswith((LOW, HIGH))}
    card = card_with_line(_card(source), made, len(resnet_convolutions(config.unet)))
    return Quantised(write_package(out, quantised, {**weights, **range_tensors(ranges)}, card), made, ranges)


def _check(clips: int, threads: int, seed: int) -> None:
    if isinstance(clips, bool) or not isinstance(clips, int) or not 1 <= clips <= MAX_CLIPS:
        raise InvalidRequestError(f"clips is {clips!r}; allowed are 1 to {MAX_CLIPS}")
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 256:
        raise InvalidRequestError(f"threads is {threads!r}; allowed are 1 to 256")
    if not 0 <= seed < 1 << 64:
        raise InvalidRequestError(f"seed is {seed}; it must be an integer from 0 to 2**64 - 1")


def choose_layers(config: ModelConfig, layers: Sequence[str], exclude: Sequence[str] = ()) -> list[str]:
    """The convolutions that the patterns name, in the order of the network. Raises InvalidRequestError if one names none."""
    known = list(resnet_convolutions(config.unet))
    chosen = _matching(known, layers, "layers")
    dropped = _matching(known, exclude, "exclude")
    left = [name for name in known if name in chosen - dropped]
    if not left:
        raise InvalidRequestError(f"no layer is left of {len(chosen)} after {len(dropped)} were excluded; exclude fewer")
    return left


def _matching(known: Sequence[str], patterns: Sequence[str], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        hits = set(known) if pattern == "all" else {name for name in known if fnmatchcase(name, pattern)}
        if not hits:
            raise InvalidRequestError(f"{what}: {pattern!r:.140} names no ResNet convolution; this model has {', '.join(known)}")
        found |= hits
    return found


def _method(config: ModelConfig, percentile: float, seed: int) -> str:
    s = config.sampler
    kept = "extremes" if percentile == 100 else f"percentile {percentile:g} of every call"
    return f"{kept} over runs of {s.kind}, {s.steps} steps, eta {s.eta:g}, guidance {s.guidance:g}, seed {seed}"


def _card(folder: Path) -> str:
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as e:
        raise ModelFormatError(f"{folder / CARD}: cannot be read as UTF-8 text: {e}") from e


def card_with_line(card: str, q: Quantisation, total: int) -> str:
    """The model card with one line about the calibration of ``total`` convolutions; an earlier such line is replaced."""
    line = f"{CARD_LINE}{len(q.layers)} of {total} ResNet convolutions, measured on {q.clips} clips ({q.method})."
    kept = [text for text in card.splitlines() if not text.startswith(CARD_LINE)]
    while kept and not kept[-1]:
        kept.pop()
    return "\n".join([*kept, "", line, ""]).lstrip("\n")
