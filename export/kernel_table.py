"""What every kernel takes on every chip that packs are made for: the facts of docs/gpu-kernels.md (extra ``gpu``)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..config import ModelConfig, SamplerDefaults, paper_preset
from ..kernels.group_norm_silu import channel_moments
from ..kernels.launch import Launch, recording
from ..models import SHIPPED
from ..package import read_config
from .cubins import PTX_CAPABILITY, PTX_SHARED_LIMIT, SHARED_LIMITS, assembled, compile_launch, costs, registers
from .launches import META, network_launches, sampler_launches

# Chip of a pack to what it is called. PTX is assembled for a chip that no cubin of ours runs on: sm_120's is for that chip alone.
TARGETS = {**{str(chip): f"sm_{chip}" for chip in SHARED_LIMITS}, "ptx": f"compute_{PTX_CAPABILITY} on sm_121"}
_LATER = 121


@dataclass(frozen=True)
class Facts:
    """Of one launch's kernel on one target."""

    name: str
    precision: str
    target: str
    warps: int
    registers: int  # of a thread
    spills: int  # stores to local memory
    shared: int  # bytes of a block
    shared_limit: int
    scratch: int  # bytes of global scratch
    products: dict[str, int]  # tensor-core instructions by name
    wide_loads: int  # 16 bytes at once, from global memory
    loads: int


def paper() -> ModelConfig:
    """The base network's sizes."""
    return ModelConfig(unet=paper_preset(), sampler=SamplerDefaults(kind="ddpm", steps=20, thresholding="dynamic"))


def rms() -> ModelConfig:
    """The newer checkpoint generation, one level."""
    one = dict(dim_mults=[1], spatial_linear_attention=[False], temporal_attention=[False], temporal_conv=[False])
    return ModelConfig(unet=paper_preset(norm="rms_norm", mid_spatial_attention=False, mid_temporal_attention=False, **one))


def all_launches(batch: int = 1, dtype: torch.dtype = torch.bfloat16) -> list[Launch]:
    """Launches that between them start every kernel in every form: of the paper's network and its sampler with noise, of the
    shipped model with its own, of the RMSNorm generation, and statistics of what a library's convolution made.
    """
    walker = read_config(SHIPPED / "walker")
    networks = [launch for config in (paper(), walker, rms()) for launch in network_launches(config, batch, dtype)]
    with META, recording() as recorder:
        channel_moments(torch.empty(batch * 30, 64, 64, 64, dtype=dtype).contiguous(memory_format=torch.channels_last))
    return networks + recorder.launches + sampler_launches(paper(), batch) + sampler_launches(walker, batch)


def measure(launch: Launch, chip: str, with_registers: bool = True) -> Facts:
    """Compile for a chip of ``TARGETS`` and read what came out; registers, 0 if they are not wanted, cost as much time again."""
    made = compile_launch(launch, PTX_CAPABILITY if chip == "ptx" else int(chip))
    code = assembled(made, _LATER) if chip == "ptx" else made
    found, count = costs(code), registers(code) if with_registers else 0
    limit = PTX_SHARED_LIMIT if chip == "ptx" else SHARED_LIMITS[int(chip)]
    return Facts(
        launch.name, _precision(launch), TARGETS[chip], made.warps, count, found.spills, made.shared, limit, made.scratch,
        found.products, found.wide_loads, found.loads,
    )  # fmt: skip


def _precision(launch: Launch) -> str:
    """Of the activations: the narrowest type that a kernel meets."""
    sizes = {t.dtype for t in launch.tensors.values() if t is not None}
    return "bf16" if torch.bfloat16 in sizes else "fp16" if torch.float16 in sizes else "fp32"


_work: list[tuple[Launch, str]] = []  # for forked processes: launches hold functions, which cannot be sent


def _measure(index: int) -> Facts:
    return measure(*_work[index])


def measure_all(launches: Sequence[Launch], chips: Iterable[str], jobs: int) -> list[Facts]:
    """Every launch on every chip, by so many processes."""
    _work[:] = [(launch, chip) for chip in chips for launch in launches]
    if jobs <= 1:
        return [_measure(index) for index in range(len(_work))]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        return pool.map(_measure, range(len(_work)), chunksize=2)
