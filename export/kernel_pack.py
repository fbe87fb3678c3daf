"""Kernel packs: everything that the cubin backend needs to run a model on a GPU, in one folder (format: docs/gpu.md).

``kernels.json`` has launch lists, memory plan and kernel table, ``images/`` the machine code of every chip, ``weights.bin`` the
packed weights, ``model/`` the model package, from which the host works out conditions and time terms. ``checksums.json`` finds
damage; it proves no origin: a pack holds programs, so it is to be trusted like one.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError as e:
    from ..errors import MissingExtraError

    raise MissingExtraError.for_extra("gpu", "exporting the GPU kernels", e.name) from e

from ..config import ModelConfig
from ..errors import CapabilityError, InvalidRequestError
from ..files import new_folder
from ..kernels.launch import Launch
from ..nn.denoiser import load_unet
from ..nn.fused import FusedUNet
from ..package import CARD, CHECKSUMS, CONFIG, WEIGHTS, check_sums
from .cubins import PTX_CAPABILITY, PTX_SHARED_LIMIT, SHARED_LIMITS, Kernel, compile_launch, key_of, require_triton
from .program import Buffer, Call, Program, packed_weights, record_program

FORMAT, FORMAT_VERSION = "gaitcrafter-kernels", 1
MANIFEST, BLOB, IMAGES, MODEL = "kernels.json", "weights.bin", "images", "model"
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PTX = "ptx"  # in the place of a chip: code that later chips compile when they load it
Compiler = Callable[[Launch, str], "Image"]
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Image:
    """Machine code of one kernel for one chip, or PTX, and what a launch needs to know."""

    code: bytes
    entry: str
    warps: int
    shared: int  # bytes, dynamic


def chips_of(names: Sequence[str]) -> list[str]:
    """``80``, ``90``, ..., ``ptx`` without repetition. Raises InvalidRequestError for others, CapabilityError for older chips."""
    allowed = [str(c) for c in SHARED_LIMITS]
    for name in names:
        if name.isdigit() and int(name) < PTX_CAPABILITY:
            raise CapabilityError(
                f"sm_{name} is older than sm_{PTX_CAPABILITY}; there, run the exported ONNX network in fp16 with ONNX Runtime"
            )
        if name not in allowed and name != PTX:
            raise InvalidRequestError(f"chip {name!r} is unknown; allowed are {', '.join(allowed)} and {PTX}")
    if not names:
        raise InvalidRequestError(f"no chip is named; allowed are {', '.join(allowed)} and {PTX}")
    return list(dict.fromkeys(names))


def compile_image(launch: Launch, chip: str) -> Image:
    """By Triton. Raises MissingExtraError without it, CapabilityError for a kernel that the chip cannot run."""
    kernel: Kernel = compile_launch(launch, PTX_CAPABILITY if chip == PTX else int(chip))
    limit = PTX_SHARED_LIMIT if chip == PTX else SHARED_LIMITS[kernel.capability]
    if kernel.shared > limit or kernel.scratch:
        raise CapabilityError(
            f"{kernel.name} takes {kernel.shared} bytes of shared memory and {kernel.scratch} of scratch; "
            f"{'the least that PTX may meet' if chip == PTX else f'sm_{kernel.capability}'} has {limit} and none"
        )
    code = (kernel.ptx + "\0").encode() if chip == PTX else kernel.cubin
    return Image(code, kernel.entry, kernel.warps, kernel.shared)


def write_kernel_pack(
    model: str | os.PathLike[str], out: str | os.PathLike[str], *, precision: str = "bf16", chips: Sequence[str] = ("90", PTX),
    jobs: int = 1, compiler: Compiler = compile_image, report: Report | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the pack of a model package and return its manifest. ``jobs`` processes compile.

    Raises InvalidRequestError for a precision or chip that is unknown, OutputError if ``out`` exists, ModelFormatError for a bad
    package, MissingExtraError without Triton.
    """
    if precision not in PRECISIONS:
        raise InvalidRequestError(f"precision is {precision!r}; allowed are {', '.join(PRECISIONS)}")
    chips, folder, dtype = chips_of(chips), Path(model), PRECISIONS[precision]
    made_with = _compiler(compiler)
    check_sums(folder)
    plain = load_unet(folder)
    needs_exact = plain.config.diffusion.prediction == "eps" and dtype != torch.float32
    program = record_program(plain.config, dtype, needs_exact)
    models = {"main": FusedUNet(plain, dtype)} | ({"exact": FusedUNet(plain, torch.float32)} if needs_exact else {})
    kernels = {key_of(call.launch): call.launch for calls in program.lists.values() for call in calls}
    with new_folder(out) as place:
        (place / MODEL).mkdir()
        for name in (CONFIG, WEIGHTS, CHECKSUMS, CARD):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, place / MODEL / name)
        (place / BLOB).write_bytes(packed_weights(program, models))
        table = _write_images(place, kernels, chips, compiler, jobs, report)
        manifest = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "model_sha256": _sha256(place / MODEL / WEIGHTS),
            "precision": precision, "compiler": made_with, **describe(program, plain.config),
            "images": [_image_entry(chip) for chip in chips],
            "kernels": [
                {"key": key, "name": launch.name, "pointers": _pointers(launch), "code": table[key]}
                for key, launch in kernels.items()
            ],
        }  # fmt: skip
        (place / MANIFEST).write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
        files = [MANIFEST, BLOB, *(entry["file"] for entry in manifest["images"])]
        sums = {name: _sha256(place / name) for name in files}
        (place / CHECKSUMS).write_text(json.dumps({"format_version": 1, "sha256": sums}, indent=2) + "\n")
    return manifest


def describe(program: Program, config: ModelConfig) -> dict[str, Any]:
    """The manifest's part that does not depend on chips: sizes, buffers and launch lists."""
    keys = list({key_of(call.launch): None for calls in program.lists.values() for call in calls})
    buffers: dict[Buffer, int] = {}
    lists = {
        name: [_call_entry(call, keys, buffers) for call in calls] for name, calls in program.lists.items()
    }  # fmt: skip
    return {
        "clip_floats": config.unet.channels * config.clip.frames * config.clip.height * config.clip.width,
        "film_floats": program.film_width,
        "map_floats": program.spaces["maps"][1] // 4 if "maps" in program.spaces else 0,
        "weight_bytes": program.weight_bytes,
        "arena_bytes": program.arena_bytes,
        "spaces": {name: [unit, size] for name, (unit, size) in program.spaces.items()},
        "weights": {name: [b.offset, b.bytes] for name, b in program.weights.items()},
        "buffers": [[b.space, b.offset, b.bytes] for b in buffers],
        "lists": lists,
    }


def _call_entry(call: Call, keys: list[str], buffers: dict[Buffer, int]) -> list[Any]:
    arguments = [[buffers.setdefault(buffer, len(buffers)), inner] for buffer, inner in call.arguments]
    return [keys.index(key_of(call.launch)), call.unit, list(call.grid), arguments]


def _pointers(launch: Launch) -> int:
    return sum(launch.tensors.get(name) is not None for name in launch.kernel.arg_names)


def _image_entry(chip: str) -> dict[str, Any]:
    name = f"compute_{PTX_CAPABILITY}" if chip == PTX else f"sm_{chip}"
    capability = PTX_CAPABILITY if chip == PTX else int(chip)
    return {"file": f"{IMAGES}/{name}.bin", "capability": capability, "ptx": chip == PTX}


def _compiler(compiler: Compiler) -> str:
    return f"triton {require_triton().__version__}" if compiler is compile_image else "none"


def _write_images(
    place: Path, kernels: dict[str, Launch], chips: Sequence[str], compiler: Compiler, jobs: int, report: Report | None
) -> dict[str, list[list[Any]]]:
    """One file per chip; per kernel and chip ``[entry, offset, size, warps, shared]``."""
    (place / IMAGES).mkdir()
    table: dict[str, list[list[Any]]] = {key: [] for key in kernels}
    files = [(place / _image_entry(chip)["file"]).open("wb") for chip in chips]
    try:
        tasks = [(key, chip) for key in kernels for chip in range(len(chips))]
        work = [(kernels[key], chips[chip]) for key, chip in tasks]
        for done, ((key, chip), image) in enumerate(zip(tasks, _compiled(work, compiler, jobs), strict=True)):
            file = files[chip]
            file.write(b"\0" * (-file.tell() % 64))
            table[key].append([image.entry, file.tell(), len(image.code), image.warps, image.shared])
            file.write(image.code)
            if report is not None:
                report(done + 1, len(tasks))
    finally:
        for file in files:
            file.close()
    return table


_tasks: list[tuple[Launch, str]] = []  # for forked processes: launches hold functions, which cannot be sent


def _compiled(work: list[tuple[Launch, str]], compiler: Compiler, jobs: int) -> Iterator[Image]:
    if jobs <= 1:
        yield from (compiler(*task) for task in work)
        return
    _tasks[:] = work
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_Numbered(compiler), range(len(work)), chunksize=2)


@dataclass(frozen=True)
class _Numbered:
    compiler: Compiler

    def __call__(self, index: int) -> Image:
        return self.compiler(*_tasks[index])


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
