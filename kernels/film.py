"""FiLM rows of a network call: what the timestep gives plus what a clip's conditions give, for all ResNet blocks at once.

``film(silu(cat(time_mlp(t), cond)))`` is linear after the SiLU, so it splits into a term of the timestep and a term of the
conditions, both known before a run. Kernel: elementwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .launch import is_recording, jit, launch, tl, use_kernel

BLOCK = 1024


@jit
def _film(time, conditions, film, WIDTH: tl.constexpr, BLOCKS: tl.constexpr, BLOCK: tl.constexpr):
    """film [lanes, WIDTH] = time [WIDTH] + conditions [lanes, WIDTH]."""
    lane = (tl.program_id(0) // BLOCKS).to(tl.int64)
    i = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    mask = i < WIDTH
    total = tl.load(time + i, mask=mask) + tl.load(conditions + lane * WIDTH + i, mask=mask)
    tl.store(film + lane * WIDTH + i, total, mask=mask)


def launch_film(time: Tensor, conditions: Tensor) -> Tensor:
    """Arguments and result of ``film_rows``."""
    lanes, width = conditions.shape
    film = conditions.new_empty((lanes, width))
    blocks = -(-width // BLOCK)
    launch(
        _film, (lanes * blocks,), dict(time=time, conditions=conditions, film=film),
        dict(WIDTH=width, BLOCKS=blocks, BLOCK=BLOCK), flops=lanes * width, l2_bytes=12 * lanes * width,
    )  # fmt: skip
    return film


@torch.library.custom_op("gaitcrafter::film_rows", mutates_args=())
def film_rows(time: Tensor, conditions: Tensor) -> Tensor:
    """``time [W]`` of a timestep plus ``conditions [lanes, W]``, fp32: scale and shift of every block, one after another."""
    if use_kernel(conditions):
        return launch_film(time, conditions)
    return conditions + time


@film_rows.register_fake
def _(time, conditions):
    if is_recording():
        return launch_film(time, conditions)
    return torch.empty_like(conditions)
