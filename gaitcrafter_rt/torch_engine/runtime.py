"""Memory, streams and capture of one device: the thin layer between a program and CUDA. On a CPU there is nothing to wait for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

WARM_UPS = 1  # runs before a capture: they compile kernels and let libraries take their workspaces


@dataclass
class Slot:
    """Host memory of one batch in flight: what goes in, what comes out, and when that is there."""

    inputs: dict[str, Tensor]
    packed: Tensor
    bad: Tensor
    staged: tuple[Tensor, Tensor]  # packed bits and counts on the device, where the next batch does not overwrite them
    ready: Any = None


class Runtime(Protocol):
    """A device."""

    device: torch.device

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...

    def arithmetic(self) -> AbstractContextManager[Any]: ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]: ...

    def upload(self, target: Tensor, source: Tensor) -> None: ...

    def download(self, slot: Slot, packed: Tensor, bad: Tensor) -> None: ...

    def is_ready(self, slot: Slot) -> bool: ...

    def wait(self, slot: Slot) -> None: ...

    def synchronize(self) -> None: ...


class HostRuntime:
    """The CPU: everything happens at once."""

    device = torch.device("cpu")

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory that inputs are written to and results are read from."""
        return torch.zeros(shape, dtype=dtype)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """How libraries compute while this is entered."""
        return nullcontext()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What runs ``work`` again with the contents that its buffers have then."""
        return work

    def upload(self, target: Tensor, source: Tensor) -> None:
        """``source`` of the host to the device, in the order of the work there."""
        target.copy_(source)

    def download(self, slot: Slot, packed: Tensor, bad: Tensor) -> None:
        """Results to the slot's host memory; ``is_ready`` says when they are there."""
        slot.packed.copy_(packed)
        slot.bad.copy_(bad)
        slot.ready = True

    def is_ready(self, slot: Slot) -> bool:
        """Whether the slot's results are there."""
        return bool(slot.ready)

    def wait(self, slot: Slot) -> None:
        """Until they are."""

    def synchronize(self) -> None:
        """Wait for all that was asked for."""


class CudaRuntime:
    """One GPU: work on one stream, copies of results on another, so that the next batch need not wait for them."""

    def __init__(self, number: int, graphs: bool = True) -> None:
        self.device, self.graphs = torch.device("cuda", number), graphs
        torch.cuda.set_device(self.device)
        self._work, self._copies = torch.cuda.Stream(self.device), torch.cuda.Stream(self.device)
        self._pool = torch.cuda.graph_pool_handle()

    def host(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Pinned, so that copies run beside the work."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True)

    def arithmetic(self) -> AbstractContextManager[Any]:
        """cuDNN by its fixed heuristics, never by timing, so that bits are the same in every process; fp32 is fp32."""
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """``work`` as a CUDA graph, all of them in one pool of memory; without graphs, what starts it kernel by kernel."""
        torch.cuda.synchronize(self.device)  # buffers and weights were made on the default stream
        if not self.graphs:
            return self._started(work)
        with torch.cuda.stream(self._work), self.arithmetic():
            for _ in range(WARM_UPS):
                work()
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._work):
                work()
        return self._started(graph.replay)

    def _started(self, work: Callable[[], None]) -> Callable[[], None]:
        def start() -> None:
            with torch.cuda.stream(self._work), self.arithmetic():
                work()

        return start

    def upload(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._work):
            target.copy_(source, non_blocking=True)

    def download(self, slot: Slot, packed: Tensor, bad: Tensor) -> None:
        with torch.cuda.stream(self._work):
            for target, source in zip(slot.staged, (packed, bad), strict=True):
                target.copy_(source)
            made = self._work.record_event()
        self._copies.wait_event(made)
        with torch.cuda.stream(self._copies):
            slot.packed.copy_(slot.staged[0], non_blocking=True)
            slot.bad.copy_(slot.staged[1], non_blocking=True)
            slot.ready = self._copies.record_event()

    def is_ready(self, slot: Slot) -> bool:
        return slot.ready is not None and bool(slot.ready.query())

    def wait(self, slot: Slot) -> None:
        slot.ready.synchronize()

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)
