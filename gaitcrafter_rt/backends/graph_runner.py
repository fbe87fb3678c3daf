"""What the Python backends of an exported graph share: the model's description by the native library, the sampler's loop in
Python, and refusals. A subclass runs the network."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..errors import CapabilityError, InvalidRequestError
from ..install import native
from . import Options
from .exported import Exported, read_export
from .table_loop import Arrays, TableLoop

DEFAULT_BATCH = 8  # of a graph for any number of clips


def checked_batch(exported: Exported, asked: int) -> int:
    """The batch of every call. Raises InvalidRequestError if the graph has another one."""
    fixed = exported.manifest.batch
    if fixed and asked and asked != fixed:
        raise InvalidRequestError(f"batch is {asked}, but this graph was exported for batch {fixed}; export again, or leave it out")
    return fixed or asked or DEFAULT_BATCH


def check_precision(exported: Exported, asked: str) -> str:
    """Raises InvalidRequestError unless ``asked`` is "auto" or what the graph was exported in."""
    precision: str = exported.manifest.precision
    if asked not in ("auto", precision):
        raise InvalidRequestError(
            f"precision is {asked!r:.80}, but this graph was exported in {precision}; export again with --precision"
        )
    return precision


class GraphRunner(ABC):
    """What ``Engine`` asks of a backend (``Runner``). ``name`` is the backend's; ``info`` comes from ``describe``."""

    name: str
    info: dict[str, Any]

    def __init__(self, path: str | os.PathLike[str], options: Options) -> None:
        self.exported = read_export(path)
        self.batch = checked_batch(self.exported, options.batch)
        self.precision = check_precision(self.exported, options.precision)
        self._described: Any = native().Engine(os.fsencode(path), backend="none")
        self._owner = 0

    def describe(self, **facts: Any) -> dict[str, Any]:
        """``info`` with these facts."""
        known = {"precision": self.precision, "backend": self.name, "batch": self.batch}
        return {**self._describes().info, **known, **facts}

    def labels(self, axis: str) -> list[str]:
        labels: list[str] = self._describes().labels(axis)
        return labels

    def axis_usable(self, axis: str) -> bool:
        return bool(self._describes().axis_usable(axis))

    def resolve_sampler(self, sampler: dict[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = self._describes().resolve_sampler(sampler)
        return settings

    def profile(self, on: bool) -> None:
        raise CapabilityError(f"profiling is for backend 'native'; this engine was opened on '{self.name}'")

    def profile_rows(self) -> list[dict[str, Any]]:
        self.profile(False)
        return []

    def close(self) -> None:
        self._described = None

    def generate(self, *, sampler: dict[str, Any], mode: int, **arguments: Any) -> None:
        """As the native module's; ``mode`` says how the native engine's threads share clips and has no meaning here."""
        described = self._describes()
        if self._owner not in (0, os.getpid()):
            raise InvalidRequestError(
                "this engine ran before the process forked and its threads stayed behind; open it in the new process"
            )
        self._owner = os.getpid()
        loop = TableLoop(self.call, self.exported.config, self.exported.manifest.null_cond, self.batch)
        loop.generate(described.sampler_table(sampler), sampler, **arguments)

    @abstractmethod
    def call(self, x: np.ndarray, t: np.ndarray, conditions: Arrays, exact: bool) -> np.ndarray:
        """The network on one batch (table_loop.Network)."""

    def _describes(self) -> Any:
        if self._described is None:
            raise InvalidRequestError("this engine is closed")
        return self._described
