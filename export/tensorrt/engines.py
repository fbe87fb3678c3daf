"""Engines of an export folder, from the cache or built now."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...backends.cudart import Gpu
from ...backends.exported import Exported, read_export
from ...errors import DataFormatError, InvalidRequestError
from .build import Flags, Profile, build
from .cache import EngineCache, cache_root
from .library import Library, open_library

BUILDER = "1"  # counts up with every change of build.py that makes other engines


@dataclass(frozen=True)
class Built:
    """One engine: its bytes, where it is kept (None without a cache), whether it was there, and its key."""

    engine: bytes
    path: Path | None
    found: bool
    key: dict[str, str]


def engine_key(
    library: Library, exported: Exported, graph: Path, target: str, profiles: Sequence[Profile], flags: Flags
) -> dict[str, str]:
    """What an engine depends on: weights and graph, library and version, GPU, profiles, flags."""
    files = exported.manifest.files
    version = ".".join(library.version.split(".")[:3]) if library.name == "tensorrt" else library.version  # as in C++
    data = files.get(f"{graph.name}.data", "none")
    return {
        "builder": BUILDER, "library": f"{library.name} {version}", "model": exported.manifest.model_sha256,
        "graph": files[graph.name], "data": data, "precision": exported.manifest.precision, "gpu": target,
        "profiles": " ".join(map(str, profiles)), "flags": str(flags),
    }  # fmt: skip


def find_engine(
    library: Library, exported: Exported, graph: Path, target: Gpu | int, profiles: Sequence[Profile], flags: Flags | None = None
) -> Built | None:
    """The engine that the cache has, if it holds what it must; arguments as of ``engine_for``."""
    root = cache_root()
    if root is None:
        return None
    key = engine_key(library, exported, graph, _target_text(target), profiles, flags or Flags())
    cache = EngineCache(root)
    try:
        found = cache.find(key)
    except DataFormatError:
        return None
    return None if found is None else Built(found, cache.path(key), True, key)


def _target_text(target: Gpu | int) -> str:
    return f"sm_{target}" if isinstance(target, int) else str(target)


def engine_for(
    library: Library, exported: Exported, graph: Path, target: Gpu | int, profiles: Sequence[Profile], flags: Flags | None = None
) -> Built:
    """The engine of one graph of an export for ``target``: a GPU of this machine (TensorRT), or a compute capability (RTX).

    A file in the cache that does not hold what it must is replaced. Raises what ``build`` and the cache raise.
    """
    flags = flags or Flags()
    chip = None if isinstance(target, Gpu) else target
    if chip is not None:
        library.chip(chip)  # before anything is parsed
    if (found := find_engine(library, exported, graph, target, profiles, flags)) is not None:
        return found
    key = engine_key(library, exported, graph, _target_text(target), profiles, flags)
    root = cache_root()
    cache = None if root is None else EngineCache(root)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{key['library']}-{key['gpu']}")
    capability = target.capability if isinstance(target, Gpu) else target
    before = b"" if cache is None else cache.timings(name)
    engine, timings = build(library, graph, profiles, chip, flags, before, capability)
    path = None
    if cache is not None:
        path = cache.keep(key, engine)
        if timings:
            cache.keep_timings(name, timings)
    return Built(engine, path, False, key)


def build_engines(
    folder: str | os.PathLike[str], *, library: str = "tensorrt", chips: Sequence[int] = (), device: int = 0,
    batches: Sequence[str] = (), flags: Flags | None = None,
) -> list[Built]:  # fmt: skip
    """Engines of every graph of an export folder, one per chip.

    ``batches`` are optimisation profiles of each engine ("8" or "1:8:32"); left out, the graph's own batch, else 8. ``chips`` are
    for tensorrt_rtx; TensorRT takes the GPU ``device`` of this machine.

    Raises CapabilityError without a GPU where one is needed, for a chip that the library lacks or an engine that does not build,
    MissingExtraError without the library, ModelFormatError for a bad export or a graph that is not taken.
    """
    exported = read_export(folder)
    profiles = [Profile.of(text) for text in batches] or [Profile.of(str(exported.manifest.batch or 8))]
    targets: list[Gpu | int] = list(chips)
    if library == "tensorrt":
        if targets:
            raise InvalidRequestError("TensorRT builds for the GPU that it runs on; leave the chips out, or use tensorrt_rtx")
        from ...backends.cudart import open_cuda

        targets = [open_cuda().gpu(device)]  # before anything of TensorRT is touched: without a driver it crashes
    elif not targets:
        raise InvalidRequestError("tensorrt_rtx builds for chips that are named, for example 89 and 120; none was")
    opened = open_library(library)
    graphs = [exported.graph, *([exported.exact_graph] if exported.exact_graph else [])]
    return [engine_for(opened, exported, graph, target, profiles, flags) for target in targets for graph in graphs]
