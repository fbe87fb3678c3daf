"""What a training run is made of; every field is an option of ``gaitcrafter-rt train``. Needs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..config import (
    AXES,
    ClipShape,
    Conditioning,
    Diffusion,
    Labels,
    ModelConfig,
    Provenance,
    SamplerDefaults,
    UNetConfig,
    paper_preset,
    walker_preset,
)
from ..errors import InvalidRequestError


class TrainSettings(BaseModel):
    """Settings of one run. A resumed run must have the same settings, except how long it goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    out: str
    name: str = "walker"
    preset: Literal["walker", "paper"] = "walker"
    unet: dict[str, Any] = {}  # changes to the preset, fields of config.UNetConfig
    identity: Literal["block_table", "input_map", "none"] = "block_table"
    view: Literal["block_table", "input_map", "none"] = "block_table"
    covariate: Literal["block_table", "input_map", "none"] = "block_table"
    prediction: Literal["x0", "eps", "v"] = "x0"
    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: Annotated[int, Field(ge=10, le=100_000)] = 1000
    loss_weight: Literal["clamp_snr", "min_snr", "uniform"] = "clamp_snr"
    snr_cap: Annotated[float, Field(gt=0)] = 5.0
    steps: Annotated[int, Field(ge=1)] = 20_000
    hours: Annotated[float, Field(gt=0)] | None = None  # of CPU time; the learning rate then follows the clock
    minutes: Annotated[float, Field(gt=0)] | None = None  # the same by the clock on the wall, from the start of the program
    init: str | None = None  # a model package of the same shape whose weights the run starts from
    batch: Annotated[int, Field(ge=1, le=4096)] = 8
    lr: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    table_lr: Annotated[float, Field(gt=0, le=100)] = 5.0  # times lr, for the label tables
    warmup: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    dropout: dict[Literal["dataset", "identity", "view", "covariate"], float] = {
        "dataset": 0.1, "identity": 0.1, "view": 0.05, "covariate": 0.05,
    }  # fmt: skip
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; auto: on a GPU, and without it where it fails
    check_every: Annotated[int, Field(ge=1)] | None = None  # steps from one look at the loss to the next; none: 1, on a GPU 25
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    checkpoint_every: Annotated[int, Field(ge=1)] = 250
    sample_every: Annotated[int, Field(ge=0)] = 1000
    sampler_steps: Annotated[int, Field(ge=1, le=1000)] = 20
    guidance: Annotated[float, Field(ge=1, le=100)] = 1.0  # the model's default; needs dropout
    notes: Annotated[str, Field(max_length=4096)] = ""
    device: str = "cpu"

    @model_validator(mode="after")
    def _one_budget(self) -> TrainSettings:
        if self.hours and self.minutes:
            raise ValueError("hours and minutes exclude each other; give one of them, or steps")
        return self

    @classmethod
    def checked(cls, **fields: Any) -> TrainSettings:
        """Like the constructor, with an InvalidRequestError that names the field."""
        try:
            return cls(**fields)
        except ValidationError as e:
            first = e.errors()[0]
            where = ".".join(str(p) for p in first["loc"])
            raise InvalidRequestError(f"train: {where}: {first['msg']} (got {first.get('input')!r})") from e


def model_config(
    settings: TrainSettings, labels: Labels, clip: ClipShape, source: str, terms: str, command: str
) -> ModelConfig:
    """The config of the model that a run will write. Raises InvalidRequestError where settings and data do not fit."""
    preset = walker_preset if settings.preset == "walker" else paper_preset
    wiring = {a: getattr(settings, a, "none") if getattr(labels, a) else "none" for a in AXES}
    wiring["dataset"] = "block_table" if labels.dataset else "none"
    try:
        return ModelConfig(
            name=settings.name,
            clip=clip,
            unet=_with_levels(preset, settings.unet),
            conditioning=Conditioning.model_validate(
                {**wiring, "guidance_trained": any(v > 0 for v in settings.dropout.values())}
            ),
            labels=labels,
            diffusion=Diffusion(
                prediction=settings.prediction, schedule=settings.schedule, timesteps=settings.timesteps
            ),
            sampler=SamplerDefaults(steps=min(settings.sampler_steps, settings.timesteps), guidance=settings.guidance),
            provenance=Provenance(
                training_data=f"{source} clips: {settings.data}",
                training_data_terms=terms,
                identities="rendered" if source == "rendered" else "real",
                command=command,
                notes=settings.notes,
            ),
        )
    except ValidationError as e:
        first = e.errors()[0]
        raise InvalidRequestError(f"train: {'.'.join(str(p) for p in first['loc'])}: {first['msg']}") from e


def _with_levels(preset: Any, changes: dict[str, Any]) -> UNetConfig:
    """A change of ``dim`` brings ``init_dim`` along unless it is given too."""
    if "dim" in changes and "init_dim" not in changes:
        changes = {**changes, "init_dim": changes["dim"]}
    return preset(**changes)
