"""This machine: processors that a job may use, and the instruction sets it offers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import CapabilityError
from .plan import Plan

TIERS = ("portable", "avx2", "avx512")


def processors() -> int:
    """Processors of the affinity mask, within the quota of the cgroup (containers); at least 1."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return max(1, count)


def open_engine(
    model: str | os.PathLike[str], plan: Plan | None, *, device: str = "cpu", precision: str = "auto", isa: str | None = None,
    threads: int = 1,
) -> Any:  # fmt: skip
    """An engine for a job: with the plan's device, precision and instruction set if there is a plan and nothing else is asked for.

    Raises CapabilityError, before any shard is touched, if this machine cannot make the plan's bits; the message names the tier
    that every machine of the job would have to have, and the one that would do for this machine.
    """
    from ..engine import Engine
    from ..models import resolve_model

    if plan is not None:
        build = plan.spec.engine
        device = build.device if device in ("auto", "cpu") else device
        precision = build.precision if precision == "auto" else precision
        forced = os.environ.get("GAITCRAFTER_ISA") if build.isa in TIERS else None
        isa = isa or forced or build.isa
    try:
        engine = Engine(resolve_model(model), device=device, precision=precision, threads=threads, isa=isa)
    except CapabilityError as e:
        if plan is None:
            raise
        raise CapabilityError(f"{_wanted(plan)}, which this machine cannot do ({e}). {_way_out(plan)}") from e
    if plan is not None:
        refuse_other_tier(plan, engine)
    return engine


def refuse_other_tier(plan: Plan, engine: Any) -> None:
    """Raises CapabilityError if the engine makes other bits than the plan's: device, precision, or instruction set differ."""
    build, info = plan.spec.engine, engine.info
    if (info["device"], info["precision"], info["isa"]) != (build.device, build.precision, build.isa):
        raise CapabilityError(
            f"{_wanted(plan)}; this worker would use {info['isa']} in {info['precision']} on {info['device']}, whose "
            f"clips may differ in single pixels. {_way_out(plan)}"
        )


def _wanted(plan: Plan) -> str:
    build = plan.spec.engine
    return f"the clips of this job are made with the instruction set {build.isa} in {build.precision} on {build.device}"


def _way_out(plan: Plan) -> str:
    build, here = plan.spec.engine, offered()
    if build.isa not in TIERS:
        return f"Use a worker with such a device, or plan another job for this machine, as {build.device} stands for {build.isa}"
    there = TIERS.index(build.isa) if build.isa in TIERS else len(TIERS)
    best = max((tier for tier in here if TIERS.index(tier) <= there), key=TIERS.index, default=TIERS[0])
    precision = "" if build.precision == "fp32" else " --precision fp32"
    return (
        f"This processor offers {', '.join(here) or 'none of them'}: use a worker that runs {build.precision} with {build.isa}, "
        f"or plan another job with --isa {best}{precision}, which this machine can work on too"
    )


def offered() -> list[str]:
    """Instruction sets that this processor offers, the narrowest first."""
    from ..install import native

    module = native()
    return [tier for tier in TIERS if module.isa_supported(tier)]
