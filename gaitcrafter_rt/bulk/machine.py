"""This machine: processors that a job may use, and the instruction sets it offers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import CapabilityError
from .errors import PlanMismatchError
from .plan import Build, Network, Plan

TIERS = ("portable", "avx2", "avx512", "avx512_amx")


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
    threads: int = 1, backend: str | None = None, batch: int | None = None,
) -> Any:  # fmt: skip
    """An engine for a job: as the plan has it, if there is a plan, where nothing else is asked for.

    Raises CapabilityError, before any shard is touched, if this machine cannot make the plan's bits; the message names the tier
    that every machine of the job would have to have, and the one that would do for this machine. Another ``backend`` than the
    plan's is opened: comparing the plans shows every difference.
    """
    from ..engine import Engine
    from ..models import resolve_model

    if plan is not None:
        build = plan.spec.engine
        device = build.device if device in ("auto", "cpu") else device
        precision = build.precision if precision == "auto" else precision
        backend, batch, isa = _as_planned(build, backend, batch, isa)
    try:
        engine = Engine(
            resolve_model(model), device=device, precision=precision, threads=threads, isa=isa, backend=backend, batch=batch
        )
    except CapabilityError as e:
        if plan is None:
            raise
        raise CapabilityError(f"{_wanted(plan)}, which this machine cannot do ({e}). {_way_out(plan)}") from e
    if plan is not None and _backend(Network.of(engine.info)) == _backend(plan.spec.engine.network):
        refuse_other_tier(plan, engine)
    return engine


def _backend(network: Network | None) -> str:
    return "native" if network is None else network.backend


def _as_planned(build: Build, backend: str | None, batch: int | None, isa: str | None) -> tuple[str | None, int | None, str | None]:
    """Backend, batch and instruction set: those of the plan where no other backend is asked for."""
    if backend not in (None, _backend(build.network)):
        return backend, batch, isa
    if build.network is None:
        forced = os.environ.get("GAITCRAFTER_ISA") if build.isa in TIERS else None
        return backend, batch, isa or forced or build.isa
    if build.network.backend == "torch":  # its isa names the batch
        return "torch", batch, isa or (build.isa if batch is None else None)
    return build.network.backend, batch or build.network.batch, isa


def refuse_other_tier(plan: Plan, engine: Any) -> None:
    """Raises CapabilityError if the engine makes other bits than the plan's: device, precision, or instruction set differ."""
    build, info = plan.spec.engine, engine.info
    if (info["device"], info["precision"], info["isa"]) != (build.device, build.precision, build.isa):
        raise CapabilityError(
            f"{_wanted(plan)}; this worker would use {info['isa']} in {info['precision']} on {info['device']}, whose "
            f"clips may differ in single pixels. {_way_out(plan)}"
        )


def refuse_other_engine(plan: Plan, engine: Any) -> None:
    """Raises PlanMismatchError if model, build or backend are not those that make the plan's bits."""
    there, network = plan.spec.engine, Network.of(engine.info)
    theirs, ours = (plan.spec.model.sha256, there.build), (engine.info["model_sha256"], engine.build)
    if theirs != ours:
        raise PlanMismatchError(
            f"the plan's clips are of model {theirs[0][:12]} and build {theirs[1][:12]}, here are {ours[0][:12]} and "
            f"{ours[1][:12]}: take the model and the wheel that made the job on every machine"
        )
    if network != there.network:
        raise PlanMismatchError(
            f"the plan's clips are made by {_told(there.network)}, here is {_told(network)}: take the model folder and versions "
            "that made the job, the same on every machine"
        )


def _told(network: Network | None) -> str:
    if network is None:
        return "the native engine"
    return f"backend {network.backend} ({network.runtime}, {network.batch} clips a call, files {network.sha256[:12]})"


def _wanted(plan: Plan) -> str:
    build = plan.spec.engine
    if build.network is not None:
        return f"the clips of this job are made by {_told(build.network)} as {build.isa} in {build.precision} on {build.device}"
    return f"the clips of this job are made with the instruction set {build.isa} in {build.precision} on {build.device}"


def _way_out(plan: Plan) -> str:
    build, here = plan.spec.engine, offered()
    if build.isa not in TIERS:
        return "Use a worker that has such a device and backend, or plan another job for this machine"
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
