"""One serialised engine from one ONNX graph: a strongly typed network, optimisation profiles, a timing cache.

TensorRT reports a failure by returning None and a line in its log, so every result is checked, and the log's errors are the
message.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CapabilityError, InvalidRequestError, ModelFormatError
from .library import Library
from .rewrite import graph_for

LARGEST_BATCH = 256
OPTIMISATION_LEVEL = 3  # TensorRT's own default; part of an engine's key


@dataclass(frozen=True)
class Profile:
    """Clips of a call that an engine takes, and how many it is tuned for: 1 <= smallest <= tuned <= largest <= 256."""

    smallest: int
    tuned: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.tuned <= self.largest <= LARGEST_BATCH:
            raise InvalidRequestError(f"the batches {self} are not ordered, or not within 1..{LARGEST_BATCH}")

    def __str__(self) -> str:
        return f"{self.smallest}:{self.tuned}:{self.largest}"

    @classmethod
    def of(cls, text: str) -> Profile:
        """ "8" or "1:8:32". Raises InvalidRequestError for anything else."""
        parts = text.split(":")
        if len(parts) not in (1, 3) or not all(p.isascii() and p.isdigit() and len(p) < 9 for p in parts):
            raise InvalidRequestError(f"batch is {text!r:.80}; it is a number of clips, or smallest:tuned:largest as in 1:8:32")
        numbers = [int(p) for p in parts]
        return cls(*(numbers * 3 if len(numbers) == 1 else numbers))


@dataclass(frozen=True)
class Flags:
    """What else decides what is built, as part of the key. ``tf32`` lets fp32 products round their inputs to 10 bits; ``plugins``
    puts our Triton kernels in place of norms (plugins.py)."""

    tf32: bool = False
    plugins: bool = False
    level: int = OPTIMISATION_LEVEL

    def __str__(self) -> str:
        return f"tf32={int(self.tf32)} level={self.level}" + " plugins=1" * self.plugins


def logger(library: Library) -> Any:
    """A logger that keeps errors (``errors``) and warnings (``warnings``), and prints nothing."""
    severity = library.module.ILogger.Severity
    worst = (severity.INTERNAL_ERROR, severity.ERROR)

    class Kept(library.module.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in worst:
                self.errors.append(message)
            elif level == severity.WARNING:
                self.warnings.append(message)

    return Kept()


def build(
    library: Library, graph: Path, profiles: Sequence[Profile], chip: int | None, flags: Flags, timings: bytes = b"",
    capability: int = 0,
) -> tuple[bytes, bytes]:  # fmt: skip
    """The serialised engine of ``graph``, and the timing cache after it (empty for tensorrt_rtx, which has none).

    ``chip`` is a compute capability for tensorrt_rtx, and None for TensorRT, which takes the GPU of this machine; plugins are
    compiled for ``capability``. Raises ModelFormatError if the parser refuses the graph, CapabilityError for a chip that the
    library lacks or a build that fails.
    """
    said = logger(library)
    trt = library.module
    builder = _there(trt.Builder(said), library, said, "making a builder")
    network = _there(
        builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)), library, said, "making a network"
    )
    parser = _there(trt.OnnxParser(network, said), library, said, "making a parser")
    with graph_for(library, graph, capability if flags.plugins else 0) as path:
        if not parser.parse_from_file(os.fspath(path)):
            found = [parser.get_error(i) for i in range(parser.num_errors)]
            errors = dict.fromkeys(f"{e.node_operator()}: {e.desc()}" for e in found if e is not None)
            raise ModelFormatError(f"{library.name} {library.version} does not take {graph}: {'; '.join(errors)[:600]}")
    config = _there(builder.create_builder_config(), library, said, "making a configuration")
    (config.set_flag if flags.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    config.builder_optimization_level = flags.level
    if chip is not None:
        named = library.chip(chip)
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(named, 0):
            raise _failed(library, said, f"choosing sm_{chip}")
    _add_profiles(library, builder, network, config, profiles, said)
    keeps = library.name == "tensorrt"  # TensorRT-RTX measures on the GPU that loads an engine, and has no use for one
    if keeps:
        _take_timings(library, config, timings, said)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _failed(library, said, f"building an engine of {graph}")
    measured = config.get_timing_cache() if keeps else None
    kept = None if measured is None else measured.serialize()
    return bytes(plan), b"" if kept is None else bytes(kept)


def _take_timings(library: Library, config: Any, timings: bytes, said: Any) -> None:
    cache = config.create_timing_cache(timings)
    if cache is None and timings:  # of another version: start anew
        cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise _failed(library, said, "making a timing cache")


def _add_profiles(library: Library, builder: Any, network: Any, config: Any, profiles: Sequence[Profile], said: Any) -> None:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    if not inputs or any(tensor is None for tensor in inputs):
        raise _failed(library, said, "reading the network's inputs")
    for wanted in profiles:
        profile = _there(builder.create_optimization_profile(), library, said, "making an optimisation profile")
        for tensor in inputs:
            first, *rest = tuple(tensor.shape)
            if first != -1 and Profile(first, first, first) != wanted:
                raise InvalidRequestError(f"batch is {wanted}, but this graph was exported for batch {first}; export it again")
            # Raises ValueError for shapes out of order; ours are checked.
            profile.set_shape(tensor.name, *((batch, *rest) for batch in (wanted.smallest, wanted.tuned, wanted.largest)))
        if config.add_optimization_profile(profile) < 0:
            raise _failed(library, said, f"adding the profile {wanted}")


def _there(made: Any, library: Library, said: Any, doing: str) -> Any:
    if made is None:
        raise _failed(library, said, doing)
    return made


def _failed(library: Library, said: Any, doing: str) -> CapabilityError:
    """The error of a call that gave nothing."""
    why = "; ".join(dict.fromkeys(said.errors)) or "it gave no reason"
    return CapabilityError(f"{library.name} {library.version}: {doing} failed: {why[:600]}")
