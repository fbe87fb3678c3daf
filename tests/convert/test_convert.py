"""Conversion of checkpoints that the base network's own classes wrote, judged by its own forward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from base_checkpoints import COND, FRAMES, SIZE, diffusion, perturbed, saved, saved_by_trainer, unet_state
from peers import in_double, relative_l2

from gaitcrafter_rt.cli.main import main
from gaitcrafter_rt.config import ModelConfig
from gaitcrafter_rt.convert import convert_checkpoint
from gaitcrafter_rt.errors import InvalidRequestError, OutputError
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import read_config, read_weights

CLIP = {"frames": FRAMES, "size": SIZE}
LABELS = {"identity": {"001": 0, "002": 1, "003": 2}, "view": {"000": 4, "090": 3}, "covariate": {"nm": 5}}


def network(package: Path) -> UNet3D:
    net = UNet3D(read_config(package))
    net.load_state_dict({k: torch.from_numpy(v) for k, v in read_weights(package).items()})
    return net


def same_weights(package: Path, model: torch.nn.Module) -> bool:
    """Bit for bit the values of a U-Net, whatever their names and shapes."""
    ours = sorted(tuple(v.ravel().tolist()) for v in read_weights(package).values())
    state = model.denoise_fn.state_dict()
    theirs = sorted(tuple(v.flatten().tolist()) for k, v in state.items() if not k.endswith("freqs"))
    return ours == theirs


@pytest.mark.parametrize("norm", ["group_norm", "rms_norm"])
@pytest.mark.parametrize("options", [{}, {"cond_dim": None, "channels": 2}, {"use_sparse_linear_attn": False}], ids=str)
def test_converted_model_computes_the_same(tmp_path: Path, norm: str, options: dict) -> None:
    base = diffusion(norm, **options)
    file = saved_by_trainer(tmp_path, base, base, norm)
    package = convert_checkpoint(file, tmp_path / "package", **CLIP)
    assert same_weights(package, base)
    net = network(package)
    assert net.config.unet.norm == norm
    x = torch.randn(2, base.channels, FRAMES, SIZE, SIZE)
    t = torch.tensor([999, 3])
    cond = torch.randn(2, COND) if base.denoise_fn.has_cond else None
    with torch.no_grad():
        want = in_double(base.denoise_fn)(x.double(), t, cond=None if cond is None else cond.double())
        assert relative_l2(net(x, t, cond=cond), want) < 5e-6


def test_what_is_read_and_what_is_assumed(tmp_path: Path) -> None:
    file = saved_by_trainer(tmp_path, diffusion(timesteps=250, attn_heads=4), diffusion(timesteps=250, attn_heads=4))
    config = read_config(convert_checkpoint(file, tmp_path / "package", name="mine", training_data="CASIA-B", identities="real"))
    assert (config.clip.frames, config.clip.height, config.clip.width) == (30, 64, 64)
    assert (config.diffusion.prediction, config.diffusion.schedule, config.diffusion.timesteps) == ("eps", "cosine", 250)
    assert (config.unet.dim, config.unet.dim_mults, config.unet.channels) == (8, [1, 2], 1)
    assert (config.unet.attention_heads, config.unet.attention_dim_head, config.unet.linear_heads) == (4, 32, 4)
    assert (config.unet.init_kernel, config.unet.rotary_dim, config.unet.position_buckets) == (7, 32, 32)
    assert config.conditioning.cond_dim == COND
    assert config.conditioning.cond_columns is None
    assert config.sampler.thresholding == "clip"
    assert not config.conditioning.guidance_trained
    assert config.name == "mine"
    assert config.provenance.training_data == "CASIA-B"
    notes = config.provenance.notes
    assert "model-7.pt" in notes
    assert "'ema', step 7123" in notes
    assert "frames 30, size 64, norm_groups 8." in notes
    card = (tmp_path / "package" / "README.md").read_text()
    assert notes in card
    assert "raw vectors only" in card
    assert "CASIA-B" in card


def test_nothing_is_assumed_where_all_is_said(tmp_path: Path) -> None:
    file = saved(tmp_path, unet_state())
    config = read_config(
        convert_checkpoint(file, tmp_path / "p", **CLIP, norm_groups=8, timesteps=500, schedule="linear", thresholding="dynamic")
    )
    assert "Assumed" not in config.provenance.notes
    assert (config.diffusion.schedule, config.diffusion.timesteps) == ("linear", 500)
    assert config.sampler.thresholding == "dynamic"


def test_bare_network_assumes_the_schedule_too(tmp_path: Path) -> None:
    config = read_config(convert_checkpoint(saved(tmp_path, unet_state(norm="rms_norm")), tmp_path / "p", **CLIP))
    assert "does not tell: schedule cosine, timesteps 1000." in config.provenance.notes  # an RMS norm has no groups to assume


@pytest.mark.parametrize(
    ("which", "expected"), [("auto", "ema"), ("ema", "ema"), ("model", "model")], ids=["auto", "ema", "model"]
)
def test_model_or_ema(tmp_path: Path, which: str, expected: str) -> None:
    states = {"model": diffusion(), "ema": perturbed(diffusion(), null_too=True)}
    file = saved_by_trainer(tmp_path, states["model"], states["ema"])
    package = convert_checkpoint(file, tmp_path / "package", which=which, **CLIP)
    assert same_weights(package, states[expected])
    assert not same_weights(package, states["ema" if expected == "model" else "model"])
    assert f"'{expected}'" in read_config(package).provenance.notes


def _prefixed(state: dict, prefix: str) -> dict:
    return {prefix + k: v for k, v in state.items()}


FORMS = {
    "diffusion": lambda d: d.state_dict(),
    "data parallel": lambda d: _prefixed(d.state_dict(), "module."),
    "data parallel inside": lambda d: {"denoise_fn." + k: v for k, v in _prefixed(d.denoise_fn.state_dict(), "module.").items()},
    "compiled": lambda d: _prefixed(d.state_dict(), "_orig_mod."),
    "bare": lambda d: d.denoise_fn.state_dict(),
    "own loop": lambda d: {"epoch": 3, "loss": 0.5, "net": d.denoise_fn.state_dict(), "args": {"lr": 1e-4}},
    "model without ema": lambda d: {"model": d.state_dict(), "step": 4},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_state_dicts(tmp_path: Path, form: str) -> None:
    base = diffusion()
    package = convert_checkpoint(saved(tmp_path, FORMS[form](base)), tmp_path / "package", **CLIP)
    assert same_weights(package, base)


def test_several_state_dicts_need_a_choice(tmp_path: Path) -> None:
    file = saved(tmp_path, {"student": unet_state(), "teacher": unet_state(seed=1)})
    with pytest.raises(InvalidRequestError, match="student, teacher"):
        convert_checkpoint(file, tmp_path / "a", **CLIP)
    convert_checkpoint(file, tmp_path / "a", which="teacher", **CLIP)
    assert same_weights(tmp_path / "a", diffusion(seed=1))
    with pytest.raises(InvalidRequestError, match=r"no state dict 'ema'.*student, teacher"):
        convert_checkpoint(file, tmp_path / "b", which="ema", **CLIP)


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float64, "F32")])
def test_types_of_weights(tmp_path: Path, dtype: torch.dtype, kept: str) -> None:
    state = {k: v.to(dtype) if not k.endswith("freqs") else v for k, v in unet_state().items()}
    package = convert_checkpoint(saved(tmp_path, state), tmp_path / "package", **CLIP)
    header = (package / "model.safetensors").read_bytes()
    header = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    assert {v["dtype"] for k, v in header.items() if k != "__metadata__"} == {kept}
    weights = read_weights(package)
    assert torch.equal(torch.from_numpy(weights["init_conv.bias"]), state["init_conv.bias"].float())


def test_labels_become_columns(tmp_path: Path) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(LABELS))
    file = saved(tmp_path, unet_state())
    configs = [
        read_config(convert_checkpoint(file, tmp_path / name, labels=source, **CLIP))
        for name, source in (("file", labels), ("mapping", LABELS))
    ]
    assert configs[0] == configs[1]
    config = configs[0]
    assert config.labels.identity == ["001", "002", "003"]
    assert config.conditioning.cond_columns == {"identity": [0, 1, 2], "view": [4, 3], "covariate": [5]}
    assert "cond vector of 6: 3 of identity, 2 of view, 1 of covariate" in (tmp_path / "file" / "README.md").read_text()
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"identity": {"001": 6}}, r"identity\.001 is 6; this checkpoint's cond vector has the columns 0\.\.5"),
        ({"identity": {"001": -1}}, "identity.001 is -1"),
        ({"identity": {"001": True}}, "identity.001 is True"),
        ({"identity": {"001": "0"}}, "identity.001 is '0'"),
        ({"identity": {"001": 0}, "view": {"090": 0}}, "view.090 has column 0, which identity.001 has already"),
        ({"id": {"001": 0}}, "unknown axis 'id'; allowed are dataset, identity, view, covariate"),
        ({"identity": ["001"]}, "identity must be a non-empty object"),
        ({"identity": {}}, "identity must be a non-empty object"),
        ({}, "expected an object like"),
        ([1], "expected an object like"),
        ({"identity": {"": 0}}, "labels.identity"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: object, message: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(labels))
    with pytest.raises(InvalidRequestError, match=message):
        convert_checkpoint(saved(tmp_path, unet_state()), tmp_path / "package", labels=path, **CLIP)
    assert not (tmp_path / "package").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"), (b'{"view": {"a": 1, "a": 2}}', "stands twice"), (b"\xff", "not UTF-8"), (None, "cannot be read"),
        (b"[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_labels_files_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "labels.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=message):
        convert_checkpoint(saved(tmp_path, unet_state()), tmp_path / "package", labels=path, **CLIP)


def test_guidance_of_a_trained_null_condition(tmp_path: Path) -> None:
    file = saved_by_trainer(tmp_path, diffusion(), perturbed(diffusion(), null_too=True))
    assert read_config(convert_checkpoint(file, tmp_path / "p", guidance_trained=True, **CLIP)).conditioning.guidance_trained


def test_guidance_of_a_null_condition_that_never_moved(tmp_path: Path) -> None:
    """What the base network's own trainer leaves behind."""
    file = saved_by_trainer(tmp_path, diffusion(), perturbed(diffusion(), null_too=False))
    with pytest.raises(InvalidRequestError, match="never trained"):
        convert_checkpoint(file, tmp_path / "p", guidance_trained=True, **CLIP)
    assert not read_config(convert_checkpoint(file, tmp_path / "p", **CLIP)).conditioning.guidance_trained


def test_guidance_cannot_be_checked_where_all_is_equal(tmp_path: Path) -> None:
    """Before step 2000 the trainer copies the model into the average, so that equality tells nothing."""
    file = saved_by_trainer(tmp_path, diffusion(), diffusion())
    config = read_config(convert_checkpoint(file, tmp_path / "p", guidance_trained=True, **CLIP))
    assert config.conditioning.guidance_trained
    assert "nothing could be checked" in config.provenance.notes


def test_guidance_without_conditions(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="no conditions"):
        convert_checkpoint(saved(tmp_path, unet_state(cond_dim=None)), tmp_path / "p", guidance_trained=True, **CLIP)


def test_text_conditions_are_raw_vectors(tmp_path: Path) -> None:
    file = saved(tmp_path, unet_state(cond_dim=None, use_bert_text_cond=True))
    config = read_config(convert_checkpoint(file, tmp_path / "p", **CLIP))
    assert config.conditioning.cond_dim == 768
    assert config.conditioning.cond_columns is None
    assert "text is not read" in config.provenance.notes


def test_files_of_a_package_are_as_readable_as_others(tmp_path: Path) -> None:
    (tmp_path / "like others").touch()
    package = convert_checkpoint(saved(tmp_path, unet_state()), tmp_path / "package", **CLIP)
    usual = (tmp_path / "like others").stat().st_mode
    assert {p.name: p.stat().st_mode for p in package.iterdir()} == dict.fromkeys(
        ["README.md", "checksums.json", "config.json", "model.safetensors"], usual
    )


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    file = saved_by_trainer(tmp_path, diffusion(), diffusion())
    command = ["convert", str(file), str(tmp_path / "package"), "--labels", str(tmp_path / "labels.json"), "--json"]
    command += ["--frames", str(FRAMES), "--size", str(SIZE)]
    assert main(command) == 0
    assert read_config(json.loads(capsys.readouterr().out)["model"]).labels.identity == ["001", "002", "003"]
    assert same_weights(tmp_path / "package", diffusion())
    assert main(command) == OutputError.exit_code  # the package is there already
