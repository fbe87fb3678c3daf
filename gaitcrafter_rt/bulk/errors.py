"""Errors of the bulk job, each a kind of one in ``gaitcrafter_rt.errors`` with its code and exit code."""

from __future__ import annotations

import errno

from ..errors import DataFormatError, GaitcrafterError, InternalError, InvalidRequestError, OutputError, UnsupportedVersionError

# What reading a file of a job may end in: it is not one, is damaged, or was written by a newer release.
UNREADABLE = (DataFormatError, UnsupportedVersionError)
# Errors that stop a job which the same command finishes later (EX_TEMPFAIL of sysexits.h).
RESUMABLE = 75
# Some clips were quarantined; every other clip is there.
QUARANTINED = 3
_FULL = (errno.ENOSPC, errno.EDQUOT)


class PlanMismatchError(InvalidRequestError):
    """The folder holds another job than the one asked for; the message shows every difference."""


class DamagedError(DataFormatError):
    """A file of a job does not hold what it must: cut, flipped, swapped, or of another job."""


class NonDeterminismError(InternalError):
    """Two writers made different bits for the same clips. Both files are kept; the message says where."""


class DiskFullError(OutputError):
    """The disk or the quota is full. What is committed stays; the same command resumes when there is room."""

    exit_code = RESUMABLE


class TooManyFailedError(GaitcrafterError):
    """More clips failed than ``--max-failed`` allows: something is wrong with the job rather than with single clips."""


def output_error(what: object, error: OSError) -> OutputError:
    """The typed error for a failed system call."""
    if isinstance(error, OutputError):
        return error
    text = f"{what}: {error.strerror or error}"
    if error.errno in _FULL:
        return DiskFullError(f"{text}; everything committed so far is safe: make room and run the same command again")
    return OutputError(text)
