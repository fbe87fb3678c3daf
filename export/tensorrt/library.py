"""``tensorrt`` (10.14 to below 11) and ``tensorrt_rtx`` (1.7 to below 2): one interface here, two products.

TensorRT builds for the GPU that it runs on. TensorRT-RTX builds for named chips on any machine, and has no plugins and no Hopper or
data-centre Blackwell.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from ...errors import CapabilityError, InvalidRequestError, MissingExtraError


@dataclass(frozen=True)
class Release:
    """Versions that are taken, from ``oldest`` to below ``newest``, and the extra that brings them."""

    extra: str
    oldest: tuple[int, int]
    newest: tuple[int, int]


RELEASES = {"tensorrt": Release("tensorrt", (10, 14), (11, 0)), "tensorrt_rtx": Release("tensorrt-rtx", (1, 7), (2, 0))}


@dataclass(frozen=True)
class Library:
    """An imported TensorRT. ``name`` is that of its module."""

    name: str
    version: str
    module: Any

    @property
    def builds_anywhere(self) -> bool:
        """Whether it builds for a chip that is named, without a GPU."""
        return self.name == "tensorrt_rtx"

    def capabilities(self) -> list[int]:
        """Compute capabilities that can be named: 89 is sm_89. Empty for TensorRT, which takes the GPU that it runs on."""
        members = getattr(self.module, "ComputeCapability", None)
        names = [] if members is None or not self.builds_anywhere else dir(members)
        return sorted(int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name))

    def chip(self, capability: int) -> Any:
        """The library's own name of a chip. Raises CapabilityError for one that it does not build for."""
        if not self.builds_anywhere:
            raise CapabilityError("TensorRT builds for the GPU that it runs on; leave the chip out, or use tensorrt_rtx")
        if capability not in self.capabilities():
            known = ", ".join(f"sm_{c}" for c in self.capabilities())
            raise CapabilityError(
                f"TensorRT-RTX {self.version} has no sm_{capability}; it builds for {known}. For other chips use TensorRT on a "
                "machine that has one, or the package's own kernels: gaitcrafter-rt export kernels"
            )
        return getattr(self.module.ComputeCapability, f"SM{capability}")


def open_library(name: str = "tensorrt") -> Library:
    """Import ``name``. Raises InvalidRequestError for another name, MissingExtraError if it is absent or does not load, and
    CapabilityError for a version outside the pinned range."""
    if name not in RELEASES:
        raise InvalidRequestError(f"library is {name!r:.80}; allowed are {' and '.join(RELEASES)}")
    release = RELEASES[name]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise MissingExtraError.for_extra(release.extra, "building TensorRT engines", e.name) from e
    except ImportError as e:  # the bindings are there, and the library behind them does not load
        raise MissingExtraError(
            f"{name} does not load ({e}); install it anew: pip install 'gaitcrafter-rt[{release.extra}]'"
        ) from e
    check_version(name, version := str(module.__version__))
    return Library(name, version, module)


def check_version(name: str, version: str) -> None:
    """Raises CapabilityError unless ``version`` is one that this release takes."""
    release = RELEASES[name]
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    if not release.oldest <= number < release.newest:
        oldest, newest = (".".join(map(str, v)) for v in (release.oldest, release.newest))
        raise CapabilityError(
            f"{name} is {version}; this release takes {oldest} to below {newest}: pip install 'gaitcrafter-rt[{release.extra}]'"
        )
