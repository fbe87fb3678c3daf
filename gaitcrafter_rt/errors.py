"""Typed errors. Every one says what came, what is allowed and how to fix it.

The numeric ``code`` is the status of the C ABI (``gc_status`` in ``csrc/include/gaitcrafter/gaitcrafter.h``)
and ``exit_code`` is what the command line returns; docs/errors.md lists both.
"""

from __future__ import annotations

__all__ = [
    "CancelledError",
    "CapabilityError",
    "DataFormatError",
    "GaitcrafterError",
    "InternalError",
    "InvalidRequestError",
    "MissingExtraError",
    "ModelFormatError",
    "OutOfMemoryError",
    "OutputError",
    "UnsupportedVersionError",
    "error_for_code",
]


class GaitcrafterError(Exception):
    """Base of all errors that this package raises on purpose."""

    code = 1
    exit_code = 1


class InvalidRequestError(GaitcrafterError, ValueError):
    """An argument is outside what the model or the sampler allows; nothing was allocated or written."""

    code = 2
    exit_code = 2


class ModelFormatError(GaitcrafterError, ValueError):
    """A model folder is malformed: config, weights, checksums, or a pickle where none is allowed."""

    code = 3
    exit_code = 4


class UnsupportedVersionError(ModelFormatError):
    """A file was written by a newer format version than this release reads."""

    code = 4
    exit_code = 4


class DataFormatError(GaitcrafterError, ValueError):
    """A data tree or data file is malformed or hostile."""

    code = 5
    exit_code = 4


class OutputError(GaitcrafterError, OSError):
    """An output place is not writable, not empty, or full."""

    code = 6
    exit_code = 5


class CapabilityError(GaitcrafterError, RuntimeError):
    """This machine or build cannot do what was asked (instruction set, device, precision)."""

    code = 7
    exit_code = 6


class MissingExtraError(GaitcrafterError, ImportError):
    """An optional dependency is absent; the message names the extra to install."""

    code = 8
    exit_code = 6

    @classmethod
    def for_extra(cls, extra: str, what: str, module: str | None = None) -> MissingExtraError:
        """The one sentence that a user needs: what was asked, what is absent, and the command that brings it."""
        absent = f" (the module {module!r} is absent)" if module else ""
        return cls(f"{what} needs the extra {extra!r}{absent}: pip install 'gaitcrafter-rt[{extra}]'")


class CancelledError(GaitcrafterError):
    """A progress callback asked to stop; finished clips of the call are discarded."""

    code = 9
    exit_code = 75


class OutOfMemoryError(GaitcrafterError, MemoryError):
    """The working memory for this model, batch and thread count could not be had."""

    code = 10
    exit_code = 7


class InternalError(GaitcrafterError):
    """A broken promise inside the engine: please report it with the message."""

    code = 11
    exit_code = 70


_BY_CODE = {
    c.code: c
    for c in (
        InvalidRequestError,
        ModelFormatError,
        UnsupportedVersionError,
        DataFormatError,
        OutputError,
        CapabilityError,
        MissingExtraError,
        CancelledError,
        OutOfMemoryError,
        InternalError,
    )
}


def error_for_code(code: int, message: str) -> GaitcrafterError:
    """The Python error of a C ABI status code."""
    return _BY_CODE.get(code, GaitcrafterError)(message)
