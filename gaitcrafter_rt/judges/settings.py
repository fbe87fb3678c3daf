"""Settings of a judge's training, and what its folder says about it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InvalidRequestError

FORMAT: Final = "gaitcrafter-judge"
FORMAT_VERSION: Final = 1
Kind = Literal["set", "temporal"]


class JudgeSettings(BaseModel):
    """How a judge is trained. ``steps`` batches of ``people`` x ``clips`` clips (P x K)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: Kind = "set"
    width: Annotated[int, Field(ge=4, le=256)] = 16
    embedding: Annotated[int, Field(ge=8, le=1024)] = 64
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1000
    people: Annotated[int, Field(ge=2, le=512)] = 8
    clips: Annotated[int, Field(ge=2, le=512)] = 8
    frames: Annotated[int, Field(ge=1, le=512)] = 10
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    margin: Annotated[float, Field(gt=0, le=10)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    # Of the convolutions while it is trained; judging is fp32 always.
    precision: Literal["fp32", "bf16"] = "fp32"

    @classmethod
    def checked(cls, **values: Any) -> JudgeSettings:
        """Settings, or InvalidRequestError naming the first field that is not allowed."""
        try:
            return cls(**values)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise InvalidRequestError(f"{where} is {first.get('input')!r:.60}: {first['msg']}") from e


class JudgeConfig(BaseModel):
    """``judge.json``: what the network is, and what it was trained on.

    ``identities`` names the people it saw: a judge is fair only about others. ``height`` and ``width`` are of the clips it takes.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Literal["gaitcrafter-judge"] = FORMAT
    format_version: Literal[1] = FORMAT_VERSION
    settings: JudgeSettings
    identities: Annotated[list[Annotated[str, Field(max_length=256)]], Field(min_length=2, max_length=1 << 20)]
    source: Literal["rendered", "real"]
    made_by: Annotated[str, Field(max_length=16384)] = ""
    clips_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    height: Annotated[int, Field(ge=16, le=512)]
    width: Annotated[int, Field(ge=16, le=512)]
    command: Annotated[str, Field(max_length=16384)] = ""
