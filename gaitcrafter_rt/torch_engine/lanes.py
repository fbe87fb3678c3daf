"""A clip's conditions as the numbers that its lanes of a network call start from: FiLM terms, and a map where an axis has one.

Computed on the CPU one lane at a time, so that they do not depend on what else is in a batch; equal lanes are computed once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..conditions import clip_axes, label_vector, label_weights
from ..config import AXES, ModelConfig
from ..errors import InvalidRequestError
from ..nn.fused import FusedUNet
from .requests import Given

KEPT_LANES = 4096
Sparse = dict[int, float]


class Lane:
    """What one lane is conditioned on: labels per axis, or a raw vector."""

    def __init__(self, axes: Mapping[str, Sparse], cond: np.ndarray | None) -> None:
        self.axes, self.cond = {axis: sparse for axis, sparse in axes.items() if sparse}, cond

    @property
    def key(self) -> tuple[object, ...]:
        """Equal lanes have equal keys."""
        axes = tuple((axis, tuple(sparse.items())) for axis, sparse in sorted(self.axes.items()))
        return axes, None if self.cond is None else self.cond.tobytes()

    def without(self, axes: Sequence[str]) -> Lane:
        """The lane that guidance moves away from. Raises InvalidRequestError where a raw vector would have to be split."""
        if self.cond is not None and set(axes) != set(AXES):
            raise InvalidRequestError("guidance along some axes only needs labels; a raw cond vector cannot be split by axis")
        return Lane({axis: sparse for axis, sparse in self.axes.items() if axis not in axes}, None)


def lanes_of(table: Given, clip: int) -> Lane:
    """The conditioned lane of one clip of a request."""
    cond = None
    if table.cond is not None and table.cond_given is not None and table.cond_given[clip]:
        cond = table.cond[clip]
        if not np.isfinite(cond).all():
            raise InvalidRequestError(f"clip {clip}: cond holds a value that is not finite")
    return Lane(clip_axes(table.axes, clip), cond)


class LaneTerms:
    """FiLM terms and maps of lanes, by a copy of the network's small layers on the CPU."""

    def __init__(self, config: ModelConfig, network: FusedUNet) -> None:
        """``network`` on the CPU, whose fp32 layers are used as they are."""
        self._config, self._network = config, network
        self._known: OrderedDict[tuple[object, ...], tuple[Tensor, Tensor | None]] = OrderedDict()

    @torch.no_grad()
    def of(self, lane: Lane) -> tuple[Tensor, Tensor | None]:
        """fp32 ``[film_width]`` and ``[C, H, W]``."""
        key = lane.key
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        labels = {axis: torch.from_numpy(row)[None] for axis, row in label_weights(self._config, lane.axes).items()}
        terms = self._network.condition_terms(labels, self._vector(lane), 1)[0]
        maps = self._network.condition_maps(labels)
        self._known[key] = terms, None if maps is None else maps[0]
        while len(self._known) > KEPT_LANES:
            self._known.popitem(last=False)
        return self._known[key]

    def _vector(self, lane: Lane) -> Tensor | None:
        """The base network's cond vector ``[1, cond_dim]``; None is the null vector."""
        if not self._config.conditioning.cond_dim:
            return None
        vector = label_vector(self._config, lane.axes) if lane.cond is None else lane.cond
        return None if vector is None else torch.from_numpy(vector)[None]
