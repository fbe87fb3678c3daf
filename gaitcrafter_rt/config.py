"""``config.json`` of a model package: every field, its allowed range, and the two presets.

The C++ core reads the same file with the same limits (``csrc/model/config.cc``); tests/model holds one corpus of
good and bad files that both must judge alike. Sizes are bounded here so that a hostile file cannot ask for memory.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from .documents import read_object, validated
from .errors import ModelFormatError

FORMAT = "gaitcrafter-model"
FORMAT_VERSION = 2
AXES = ("dataset", "identity", "view", "covariate")


def _plain_integer(value: object) -> object:
    """Literal[1] alone would take true and 1.0, because they compare equal."""
    if type(value) is not int:
        raise ValueError("must be an integer")
    return value


Strictly = BeforeValidator(_plain_integer)
Count = Annotated[int, Field(ge=1, le=4096)]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Wiring = Literal["none", "block_table", "input_map"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ClipShape(_Strict):
    """One clip is ``frames`` x ``height`` x ``width`` pixels."""

    frames: Annotated[int, Field(ge=1, le=512)] = 30
    height: Annotated[int, Field(ge=4, le=512)] = 64
    width: Annotated[int, Field(ge=4, le=512)] = 64


class UNetConfig(_Strict):
    """Shapes of the 3-D U-Net (docs/architecture.md, "The network").

    Per-level lists run from the finest level to the coarsest and hold for the way down and the way up alike.
    """

    channels: Annotated[int, Field(ge=1, le=16)] = 1
    dim: Annotated[int, Field(ge=4, le=1024)] = 64
    init_dim: Annotated[int, Field(ge=4, le=1024)] = 64
    dim_mults: Annotated[list[Annotated[int, Field(ge=1, le=64)]], Field(min_length=1, max_length=8)] = [1, 2, 4, 8]
    blocks_per_level: Annotated[int, Field(ge=1, le=2)] = 2
    patch: Annotated[Literal[1, 2, 4, 8], Strictly] = 1
    init_kernel: Annotated[Literal[1, 3, 5, 7], Strictly] = 7
    norm: Literal["group_norm", "rms_norm"] = "group_norm"
    norm_scope: Literal["clip", "frame"] = "clip"
    norm_groups: Annotated[int, Field(ge=1, le=256)] = 8
    attention_heads: Annotated[int, Field(ge=1, le=64)] = 8
    attention_dim_head: Annotated[int, Field(ge=2, le=256)] = 32
    linear_heads: Annotated[int, Field(ge=1, le=64)] = 8
    linear_dim_head: Annotated[int, Field(ge=2, le=256)] = 32
    spatial_linear_attention: list[bool] = [True, True, True, True]
    temporal_attention: list[bool] = [True, True, True, True]
    temporal_conv: list[bool] = [False, False, False, False]
    init_temporal_attention: bool = True
    mid_spatial_attention: bool = True
    mid_temporal_attention: bool = True
    rotary_dim: Annotated[int, Field(ge=0, le=256)] = 32
    position_buckets: Annotated[int, Field(ge=0, le=256)] = 32
    position_max_distance: Annotated[int, Field(ge=1, le=4096)] = 32
    positional_embedding: bool = False

    @property
    def level_dims(self) -> list[int]:
        """Output width of each level, finest first."""
        return [self.dim * m for m in self.dim_mults]

    @model_validator(mode="after")
    def _consistent(self) -> UNetConfig:
        levels = len(self.dim_mults)
        for name in ("spatial_linear_attention", "temporal_attention", "temporal_conv"):
            got = len(getattr(self, name))
            if got != levels:
                raise ValueError(f"{name} has {got} entries, dim_mults has {levels}; give one per level")
        if self.dim % 2:
            raise ValueError(f"dim is {self.dim}; the sinusoidal time embedding needs an even number")
        if max(self.level_dims) > 4096:
            raise ValueError(f"dim * max(dim_mults) is {max(self.level_dims)}; at most 4096 is allowed")
        if self.norm == "group_norm":
            for c in {self.dim, self.init_dim, *self.level_dims}:
                if c % self.norm_groups:
                    raise ValueError(f"norm_groups {self.norm_groups} does not divide the width {c}")
        if self.rotary_dim % 2 or self.rotary_dim > self.attention_dim_head:
            raise ValueError(f"rotary_dim {self.rotary_dim} must be even and at most {self.attention_dim_head}")
        if self.position_buckets % 4:
            raise ValueError(f"position_buckets is {self.position_buckets}; it must be a multiple of 4 (0 = no bias)")
        if self.position_buckets and self.position_max_distance <= self.position_buckets // 4:
            raise ValueError("position_max_distance must exceed position_buckets / 4")
        return self


class Conditioning(_Strict):
    """Where each label enters the network, and what the base network's ``cond`` vector means.

    ``block_table``: a bias-free table in every ResNet block, its row added to the FiLM scale and shift.
    ``input_map``: an encoder makes a 2-D map per label, repeated over time and added to the input tensor.
    ``cond_dim`` > 0: the base network's wiring, a vector concatenated to the time embedding. ``cond_columns``
    then says which column stands for which label; without it only raw cond vectors are accepted.
    """

    dataset: Wiring = "none"
    identity: Wiring = "none"
    view: Wiring = "none"
    covariate: Wiring = "none"
    encoder_dim: Annotated[int, Field(ge=1, le=1024)] = 64
    cond_dim: Annotated[int, Field(ge=0, le=65536)] = 0
    cond_columns: dict[Literal["dataset", "identity", "view", "covariate"], list[int]] | None = None
    guidance_trained: bool = False


class Labels(_Strict):
    """Ordered vocabulary per axis; an empty list means that the axis is absent."""

    dataset: Annotated[list[Label], Field(max_length=1024)] = []
    identity: Annotated[list[Label], Field(max_length=65536)] = []
    view: Annotated[list[Label], Field(max_length=4096)] = []
    covariate: Annotated[list[Label], Field(max_length=4096)] = []

    @model_validator(mode="after")
    def _unique(self) -> Labels:
        for axis in AXES:
            names = getattr(self, axis)
            if len(set(names)) != len(names):
                raise ValueError(f"labels.{axis} holds the same name twice")
        return self


class Diffusion(_Strict):
    """What the network predicts and the noise schedule it was trained on."""

    prediction: Literal["x0", "eps", "v"] = "eps"
    schedule: Literal["cosine", "linear"] = "cosine"
    timesteps: Annotated[int, Field(ge=1, le=100_000)] = 1000


class SamplerDefaults(_Strict):
    """The sampler used when a request names none. Fields and names as in docs/architecture.md, "The sampler"."""

    kind: Literal["ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "unipc"] = "ddim"
    steps: Annotated[int, Field(ge=1, le=100_000)] = 20
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    spacing: Literal["leading", "trailing", "linspace"] = "trailing"
    thresholding: Literal["none", "clip", "dynamic"] = "clip"
    dynamic_percentile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    rederive_eps: bool = True
    guidance: Annotated[float, Field(ge=0, le=100)] = 1.0


class Provenance(_Strict):
    """Where the weights come from; printed by ``inspect`` and copied into every output."""

    training_data: Annotated[str, Field(max_length=4096)] = "unknown"
    training_data_terms: Annotated[str, Field(max_length=4096)] = "unknown"
    identities: Literal["real", "blended", "rendered", "unknown"] = "unknown"
    command: Annotated[str, Field(max_length=16384)] = ""
    notes: Annotated[str, Field(max_length=16384)] = ""


class Quantisation(_Strict):
    """Which 3x3 convolutions of the ResNet blocks carry calibrated input ranges, and how those were found.

    For each of ``layers`` the weights hold two more tensors, ``LAYER.input_low`` and ``LAYER.input_high``, one value per
    input channel; quantisation.py says what they must satisfy. ``clips`` is how many clips were measured, 0 if unknown.
    """

    layers: Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(min_length=1, max_length=128)]
    clips: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    method: Annotated[str, Field(max_length=1024)] = ""

    @model_validator(mode="after")
    def _unique(self) -> Quantisation:
        if len(set(self.layers)) != len(self.layers):
            raise ValueError("layers holds the same name twice")
        return self


class ModelConfig(_Strict):
    """The whole of ``config.json``. ``quantisation`` came with format version 2; without it version 1 is written."""

    format: Literal["gaitcrafter-model"] = "gaitcrafter-model"
    format_version: Annotated[Literal[1, 2], Strictly] = 1
    name: Annotated[str, Field(min_length=1, max_length=128)] = "unnamed"
    clip: ClipShape = ClipShape()
    unet: UNetConfig = UNetConfig()
    conditioning: Conditioning = Conditioning()
    labels: Labels = Labels()
    diffusion: Diffusion = Diffusion()
    sampler: SamplerDefaults = SamplerDefaults()
    provenance: Provenance = Provenance()
    quantisation: Quantisation | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        shrink = self.unet.patch * 2 ** (len(self.unet.dim_mults) - 1)
        for name in ("height", "width"):
            if getattr(self.clip, name) % shrink:
                raise ValueError(
                    f"clip.{name} is {getattr(self.clip, name)}; patch and levels need a multiple of {shrink}"
                )
        if self.sampler.steps > self.diffusion.timesteps:
            raise ValueError(f"sampler.steps {self.sampler.steps} exceeds diffusion.timesteps")
        cond = self.conditioning
        for axis in AXES:
            if getattr(cond, axis) != "none" and not getattr(self.labels, axis):
                raise ValueError(f"conditioning.{axis} is {getattr(cond, axis)!r} but labels.{axis} is empty")
        if cond.cond_dim and any(getattr(cond, axis) != "none" for axis in AXES):
            raise ValueError("cond_dim and label wiring exclude each other")
        for axis, columns in (cond.cond_columns or {}).items():
            if len(columns) != len(getattr(self.labels, axis)):
                raise ValueError(f"cond_columns.{axis} needs one column per label of labels.{axis}")
            if any(c < 0 or c >= cond.cond_dim for c in columns):
                raise ValueError(f"cond_columns.{axis} has a column outside 0..{cond.cond_dim - 1}")
        self._check_quantisation()
        return self

    def _check_quantisation(self) -> None:
        if self.quantisation is None:
            return
        if self.format_version < 2:
            raise ValueError("quantisation needs format_version 2")
        known = resnet_convolutions(self.unet)
        for layer in self.quantisation.layers:
            if layer not in known:
                raise ValueError(f"quantisation.layers: this network has no ResNet convolution {layer!r:.140}")

    @classmethod
    def from_json(cls, text: str | bytes, source: str = "config.json") -> ModelConfig:
        """Parse and validate. Raises UnsupportedVersionError for a newer version, ModelFormatError otherwise."""
        if len(text) > 16 << 20:
            raise ModelFormatError(f"{source}: {len(text)} bytes; a config is at most 16 MiB")
        raw = read_object(text, source, FORMAT_VERSION, ModelFormatError, FORMAT)
        if "quantisation" in raw and raw.get("format_version", 1) == 1:
            raise ModelFormatError(f"{source}: unknown field 'quantisation' in format_version 1; version 2 has it")
        return validated(cls, text, source, ModelFormatError)

    def to_json(self) -> str:
        """Canonical text: indented, every field present, in the oldest format version that can say it."""
        plain = self.quantisation is None
        versioned = self.model_copy(update={"format_version": 1 if plain else 2})
        return versioned.model_dump_json(indent=2, exclude={"quantisation"} if plain else None) + "\n"


def resnet_convolutions(unet: UNetConfig) -> dict[str, int]:
    """Every 3x3 convolution of a ResNet block with its number of input channels, in the order of the network."""
    dims = [unet.init_dim, *unet.level_dims]
    levels = range(len(dims) - 1)
    convolutions: dict[str, int] = {}

    def block(name: str, width_in: int, width: int) -> None:
        convolutions[f"{name}.conv1"] = width_in
        convolutions[f"{name}.conv2"] = width

    def level(name: str, width_in: int, width: int) -> None:
        for k in range(unet.blocks_per_level):
            block(f"{name}.blocks.{k}", width if k else width_in, width)

    for i in levels:
        level(f"downs.{i}", dims[i], dims[i + 1])
    block("mid_block1", dims[-1], dims[-1])
    block("mid_block2", dims[-1], dims[-1])
    for j, i in enumerate(reversed(levels)):
        level(f"ups.{j}", 2 * dims[i + 1], dims[i])
    block("final_block", 2 * unet.init_dim, unet.dim)
    return convolutions


def paper_preset(**changes: object) -> UNetConfig:
    """The base network at the paper's size: pixel space, dim 64, multipliers 1-2-4-8."""
    return UNetConfig.model_validate(changes)


def walker_preset(**changes: object) -> UNetConfig:
    """What trains and runs fast on a CPU: pixel-unshuffle stem, circular temporal convolution on the top level."""
    base: dict[str, object] = dict(
        dim=32, init_dim=32, dim_mults=[1, 2, 4], blocks_per_level=1, patch=4, init_kernel=3,
        norm_scope="frame", attention_heads=4, attention_dim_head=16, linear_heads=4, linear_dim_head=16,
        spatial_linear_attention=[False, False, False], temporal_attention=[False, True, True],
        temporal_conv=[True, False, False], init_temporal_attention=False, rotary_dim=16,
        positional_embedding=True,
    )  # fmt: skip
    return UNetConfig.model_validate(base | changes)
