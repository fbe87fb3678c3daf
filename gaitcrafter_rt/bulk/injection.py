"""For tests alone: kill this process at a named step of the protocol.

``GAITCRAFTER_KILL_AT=receipt.linked:2`` kills the process (SIGKILL) when it has linked a receipt for the second time. A point is
what is committed and the step that was just done; docs/reliability.md lists them. Each process counts for itself. Without the
variable a step costs a look at the environment.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

VARIABLE = "GAITCRAFTER_KILL_AT"
KINDS = ("plan", "table", "extent", "block", "shard", "receipt")
STEPS = ("created", "written", "synced", "linked", "unlinked", "durable")
# What happens between commits: a file moved out of the way; a sealed shard's blocks removed; what others left made durable.
OTHERS = ("aside.moved", "aside.durable", "blocks.removed", "job.settled", "job.done")
POINTS = (*(f"{kind}.{step}" for kind in KINDS for step in STEPS), *OTHERS)
_PARENTS = {"conditions": "table", "extents": "extent", "shards": "shard", "receipts": "receipt"}
_seen: dict[str, int] = {}


def reached(point: str) -> None:
    """This point was reached; the process dies here if the environment says so."""
    wanted = os.environ.get(VARIABLE)
    if wanted is not None and wanted.partition(":")[0] == point:
        _seen[point] = _seen.get(point, 0) + 1
        if _seen[point] == int(wanted.partition(":")[2] or 1):
            os.kill(os.getpid(), signal.SIGKILL)


def committing(target: Path, step: str) -> None:
    """The same for a step of committing ``target``."""
    if VARIABLE in os.environ:
        kind = "plan" if target.name == "plan.json" else "block" if target.name.startswith("block-") else ""
        reached(f"{kind or _PARENTS.get(target.parent.name, 'file')}.{step}")
