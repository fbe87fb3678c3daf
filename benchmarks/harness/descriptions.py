"""The networks that are compared, without anything that needs torch; networks.py makes them."""

from __future__ import annotations

from typing import NamedTuple


class Network(NamedTuple):
    """What is measured under one name."""

    name: str
    title: str
    batches: tuple[int, ...]  # of the peers; the engine always takes one clip at a time
    calibration: str  # in words


PAPER = Network(
    "paper", "the network of the paper's size, random weights", (1,),
    "four calls on standard normal clips at t = 50, 300, 600 and 900, cond null or standard normal",
)  # fmt: skip
WALKER = Network("walker", "the model that ships", (1, 8), "all calls of 8 clips by the model's own sampler (192 inputs)")
NETWORKS = {n.name: n for n in (PAPER, WALKER)}
