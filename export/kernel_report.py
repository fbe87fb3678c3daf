"""Writes the tables of docs/gpu-kernels.md, by compiling every kernel for every chip and by counting every launch; needs no GPU.

    python -m gaitcrafter_rt.export.kernel_report docs/gpu-kernels.md                     # all; compiling takes minutes
    python -m gaitcrafter_rt.export.kernel_report docs/gpu-kernels.md --only bytes

A table stands between two comments with its name and is replaced; the rest of the page is left as it is.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ..config import ModelConfig
from ..errors import DataFormatError
from ..kernels.group_norm_silu import group_norm_silu, rms_norm_silu
from ..kernels.launch import recording
from ..models import SHIPPED
from ..package import read_config
from .cubins import variants
from .kernel_table import TARGETS, Facts, all_launches, measure_all, paper
from .launches import META, network_launches
from .traffic import REST, by_kernel, floor_of, kernels_by_block, memory_bytes, torch_by_block, work_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CLIPS = 32  # of a call, in tables of bytes: weights count once for all
Rows = list[Sequence[str]]


def networks() -> dict[str, ModelConfig]:
    """Name in the tables to configuration."""
    return {"paper's size": paper(), "walker": read_config(SHIPPED / "walker")}


def table(head: Sequence[str], rows: Rows) -> str:
    """Markdown."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code_table(facts: Iterable[Facts]) -> str:
    """One row per kernel and precision: the largest numbers over its variants, on every target."""
    groups: dict[tuple[str, str], dict[str, list[Facts]]] = {}
    for fact in facts:
        groups.setdefault((fact.name, fact.precision), {}).setdefault(fact.target, []).append(fact)
    targets = list(TARGETS.values())
    rows: Rows = []
    for (name, precision), found in sorted(groups.items()):
        every = [fact for group in found.values() for fact in group]
        wide = all(fact.wide_loads > 0 for fact in every)
        rows.append(
            [f"`{name}`", precision, str(len(found[targets[0]])), *(_cell(found[target]) for target in targets),
             "yes" if wide else "no", str(sum(fact.spills for fact in every))]
        )  # fmt: skip
    return table(["kernel", "type", "variants", *targets, "16-byte loads", "spills"], rows)


def _cell(facts: list[Facts]) -> str:
    """Most registers of a thread, most shared memory, tensor-core instructions."""
    products = sorted({name for fact in facts for name in fact.products})
    shared = max(fact.shared for fact in facts) / 1024
    parts = [f"{max(fact.registers for fact in facts)}", f"{shared:.0f} kB" if shared >= 0.5 else "0", *products]
    return ", ".join(parts)


def block_table() -> str:
    """Every kind of block of both networks, beside torch's sequence."""
    rows: Rows = []
    for name, config in networks().items():
        ours, theirs = kernels_by_block(config, CLIPS), torch_by_block(config)
        for kind in sorted(ours, key=lambda k: (k == REST, -theirs.get(k, 0))):
            work = work_of(ours[kind], CLIPS)
            rows.append(
                [name, kind, str(work.launches), f"{work.operations / 1e9:.2f}", _mb(work.dram), _mb(work.l2), _mb(theirs[kind]),
                 f"{theirs[kind] / work.dram:.1f}"]
            )  # fmt: skip
    head = ["network", "blocks", "launches", "GFLOP", "memory, MB", "L2, MB", "torch's sequence, memory, MB", "times ours"]
    return table(head, rows)


def kernel_table() -> str:
    """Every kernel of both networks."""
    rows: Rows = []
    for name, config in networks().items():
        for kernel, work in by_kernel(network_launches(config, CLIPS), CLIPS).items():
            rows.append([name, f"`{kernel}`", str(work.launches), f"{work.operations / 1e9:.2f}", _mb(work.dram), _mb(work.l2)])
    return table(["network", "kernel", "launches", "GFLOP", "memory, MB", "L2, MB"], rows)


def _mb(count: float) -> str:
    return f"{count / 1e6:.1f}" if count < 1e9 else f"{count / 1e6:,.0f}"


def passes_of_norm(clips: int = CLIPS) -> tuple[float, float]:
    """group_norm_silu with FiLM at 64 channels of 64x64: passes over the tensor, and statistics in passes."""
    with META, recording() as recorder:
        x = torch.empty(clips * 30, 64, 64, 64, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        vector, film = torch.empty(64), torch.empty(clips, 128)
        group_norm_silu(x, vector, vector, 8, 30, "clip", film, None)
    whole = x.numel() * x.element_size()
    moved = sum(t.numel() * t.element_size() for launch in recorder.launches for t in launch.tensors.values() if t is not None)
    tensor = sum(whole for launch in recorder.launches for t in launch.tensors.values() if t is not None and t.shape == x.shape)
    return tensor / whole, (moved - tensor) / whole


def passes_of_rms(clips: int = CLIPS) -> float:
    """rms_norm_silu likewise."""
    with META, recording() as recorder:
        x = torch.empty(clips * 30, 64, 64, 64, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        rms_norm_silu(x, torch.empty(64), 30, torch.empty(clips, 128), None)
    return sum(launch.dram_bytes for launch in recorder.launches) / (x.numel() * x.element_size())


def block_ratio(clips: int = 1) -> tuple[float, float]:
    """Temporal attention stage 2 of the paper's first level: bytes over one read and one write of its input, memory and L2."""
    launch = next(launch for launch in network_launches(paper(), clips) if launch.name == "block")
    x = launch.tensors["x"]
    assert x is not None
    once = 2 * x.numel() * x.element_size()
    return memory_bytes(launch) / once, launch.l2_bytes / once


def bound_table() -> str:
    """What the kernels promise of their bytes."""
    norm, statistics = passes_of_norm()
    block, l2 = block_ratio()
    rows: Rows = [
        ["`group_norm_silu` by itself", f"{norm:.0f} passes over the tensor, statistics {statistics:.2f} of one", "3 passes"],
        ["the same after our convolution, whose epilogue gives the statistics", f"{norm - 1:.0f} passes", ""],
        ["`rms_norm_silu`", f"{passes_of_rms():.2f} passes", ""],
        ["temporal attention in one kernel, one clip", f"{block:.3f} of one read and one write, from L2 {l2:.1f}", "1.3"],
    ]
    return table(["op, at 64 channels of 64x64, 30 frames", "memory", "promised at most"], rows)


def floor_table() -> str:
    """An H100 at its published rates; how many clips that would be."""
    rows: Rows = []
    for name, config in networks().items():
        floor, settings = floor_of(config, CLIPS), config.sampler
        rows.append(
            [name, f"{settings.kind}, {settings.steps} steps, guidance {settings.guidance:g}", str(floor.calls),
             f"{floor.call * 1e3:.3f} ms", f"{floor.sampler * 1e6:.0f} us", f"{floor.clip * 1e3:.2f} ms", f"{1 / floor.clip:,.0f}",
             f"{floor.night / 1e6:,.1f} million"]
        )  # fmt: skip
    head = ["network", "sampler", "network calls a clip", "a call", "sampler, whole clip", "a clip", "clips/s", "a night (10 h)"]
    return table(head, rows)


def replaced(page: str, name: str, text: str) -> str:
    """The page with another table of that name. Raises DataFormatError where the page has no such place."""
    found = re.subn(rf"(<!-- {name}[^>]*-->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL)
    if found[1] != 1:
        raise DataFormatError(f"the page has {found[1]} places for the table {name!r}; one pair of comments is needed")
    return found[0]


def byte_tables() -> dict[str, str]:
    """Name to table of everything that is counted rather than compiled."""
    return {"bounds": bound_table(), "blocks": block_table(), "kernels": kernel_table(), "floors": floor_table()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--only", choices=["code", "bytes"])
    parser.add_argument("--precisions", default="bf16", help="of the code table: bf16,fp16,fp32; default: bf16")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    page = options.page.read_text()
    if options.only != "code":
        for name, text in byte_tables().items():
            page = replaced(page, name, text)
    if options.only != "bytes":
        facts: list[Facts] = []
        for name in options.precisions.split(","):
            facts += measure_all(variants(all_launches(1, DTYPES[name])), TARGETS, options.jobs)
        page = replaced(page, "machine code", code_table(facts))
    options.page.write_text(page)


if __name__ == "__main__":
    main()
