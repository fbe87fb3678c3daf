"""A job as a step of a datatrove pipeline: any of its executors then hands out the ranks.

    pip install datatrove 'gaitcrafter-rt[bulk]'
    python examples/datatrove_step.py
"""

from __future__ import annotations

from collections.abc import Iterable

from gaitcrafter_rt.cli.main import main

COMMAND = ["generate", "/shared/train", "--identities", "all", "--views", "all", "--n", "1000000", "--seed", "7", "--workers", "1"]


def generate(data: Iterable[object] | None = None, rank: int = 0, world_size: int = 1) -> Iterable[object]:
    """What datatrove calls once per task. Raises if the job is not complete, so that the task is not marked as done."""
    code = main([*COMMAND, "--rank", str(rank), "--world-size", str(world_size)])
    if code:
        raise RuntimeError(f"gaitcrafter-rt left with {code} (docs/cli.md says what that means)")
    return data or ()


if __name__ == "__main__":
    from datatrove.executor import LocalPipelineExecutor

    LocalPipelineExecutor(pipeline=[generate], tasks=8, workers=8, logging_dir="/shared/logs").run()
