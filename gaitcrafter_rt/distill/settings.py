"""What a distillation is made of; every field is an option of ``gaitcrafter-rt distill``. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InvalidRequestError

Calls = Annotated[int, Field(ge=1, le=64)]


class DistillSettings(BaseModel):
    """Settings of one run: a student for every entry of ``calls``, one after another, each starting from the one before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str
    data: str = ""  # packed set; empty where the student starts from noise
    out: str
    start: Literal["data", "noise"] = "data"  # trajectory.py or rollout.py
    trajectories: Annotated[int, Field(ge=1, le=1_000_000)] = 4096  # of the teacher, from noise
    init: str = ""  # package whose weights the first student starts from; empty: the teacher's
    init_teacher: str = ""  # the teacher that init learned from, where this run's teacher was fine-tuned from it
    keep: str = ""  # folder of the trajectories; empty: OUT with .trajectories behind it
    calls: Annotated[tuple[Calls, ...], Field(min_length=1, max_length=8)] = (4,)
    share: tuple[Annotated[float, Field(gt=0)], ...] = ()  # of steps or minutes, one per entry of calls; empty: equal
    guidance: Annotated[float, Field(ge=0, le=100)] | None = None  # None: the teacher's default
    teacher_steps: Annotated[int, Field(ge=1, le=1000)] = 12  # of the teacher over the whole trajectory
    sampler: Literal["ddim", "unipc"] = "ddim"  # that a student gets as its default; it learns along ddim
    progressive: bool = True  # a student with half the calls of an earlier one learns from that student
    steps: Annotated[int, Field(ge=1)] = 2000  # optimiser steps of all students together
    minutes: Annotated[float, Field(gt=0)] | None = None  # wall-clock minutes in place of steps
    batch: Annotated[int, Field(ge=1, le=4096)] = 16
    lr: Annotated[float, Field(gt=0, lt=1)] = 5e-4
    warmup: Annotated[int, Field(ge=0)] = 50
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    snr_cap: Annotated[float, Field(gt=0)] = 5.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    name: str = ""  # of the students; empty: the teacher's name with the number of calls

    @model_validator(mode="after")
    def _consistent(self) -> DistillSettings:
        if self.start == "data" and not self.data:
            raise ValueError("a student that starts from data needs data: the packed set that its teacher was trained on")
        if self.init_teacher and not self.init:
            raise ValueError("init_teacher says what init learned from, and there is no init; give both")
        if self.share and len(self.share) != len(self.calls):
            raise ValueError(f"share has {len(self.share)} entries, calls {len(self.calls)}; give one share per student")
        if max(self.calls) > self.teacher_steps:
            raise ValueError(f"teacher_steps is {self.teacher_steps}, fewer than the {max(self.calls)} calls of a student")
        if len(set(self.calls)) != len(self.calls):
            raise ValueError(f"calls names a number twice: {self.calls}")
        return self

    @classmethod
    def checked(cls, **fields: Any) -> DistillSettings:
        """Like the constructor, with an InvalidRequestError that names the field."""
        try:
            return cls(**fields)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise InvalidRequestError(f"distill: {where}: {first['msg']} (got {first.get('input')!r:.200})") from e

    def part(self, index: int) -> float:
        """Share of the whole run that student ``index`` gets, 0 to 1."""
        shares = self.share or (1.0,) * len(self.calls)
        return shares[index] / sum(shares)
