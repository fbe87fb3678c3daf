"""Training: the loss against its formulas, resuming bit for bit, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from gaitcrafter_rt.data.packed import PackedClips, PackedWriter  # noqa: E402
from gaitcrafter_rt.errors import CapabilityError, DataFormatError, InvalidRequestError, OutputError  # noqa: E402
from gaitcrafter_rt.nn.denoiser import load_unet  # noqa: E402
from gaitcrafter_rt.package import read_config  # noqa: E402
from gaitcrafter_rt.train import TrainSettings, forecast, loop, run  # noqa: E402
from gaitcrafter_rt.train.batches import Batches, DeviceBatches  # noqa: E402
from gaitcrafter_rt.train.diffusion import NoiseSchedule  # noqa: E402
from gaitcrafter_rt.train.settings import model_config  # noqa: E402
from gaitcrafter_rt.train.step import compiled  # noqa: E402

TINY = {
    "dim": 8, "dim_mults": [1, 2], "norm_groups": 4, "attention_heads": 2, "attention_dim_head": 4, "rotary_dim": 4,
    "spatial_linear_attention": [False, False], "temporal_attention": [False, True], "temporal_conv": [True, False],
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, a tall bar and a wide one, moving sideways."""
    folder = tmp_path_factory.mktemp("train") / "data"
    labels = {"identity": ["tall", "wide"], "view": ["090"], "covariate": ["nm"]}
    with PackedWriter(folder, labels=labels, source="rendered", frames=4, height=16, width=16) as writer:
        for sequence in range(6):
            for person, (height, width) in enumerate(((12, 3), (5, 8))):
                clip = np.zeros((4, 16, 16), np.uint8)
                for f in range(4):
                    left = (sequence + f) % (16 - width)
                    clip[f, 2 : 2 + height, left : left + width] = 1
                writer.append(clip, identity=person, view=0, covariate=0, sequence=sequence, split=int(sequence == 5))
    return folder


def settings(data: Path, out: Path, **changes: object) -> TrainSettings:
    base = {
        "data": str(data), "out": str(out), "steps": 6, "batch": 4, "threads": 1, "unet": TINY, "checkpoint_every": 2,
        "sample_every": 0, "sampler_steps": 3,
    }  # fmt: skip
    return TrainSettings.checked(**{**base, **changes})


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_unet(out / "model").state_dict()


def test_a_run_leaves_a_package_that_opens(data: Path, tmp_path: Path) -> None:
    reports = []
    model = run(settings(data, tmp_path / "run", sample_every=3), reports.append, ["gaitcrafter-rt", "train", "--data", "a b"])
    config = read_config(model)
    assert config.labels.identity == ["tall", "wide"]
    assert config.provenance.identities == "rendered"
    assert config.provenance.command == "gaitcrafter-rt train --data 'a b'"
    assert config.conditioning.guidance_trained
    assert "'a b'" in (model / "README.md").read_text()
    assert json.loads((model / "checksums.json").read_text())["format_version"] == 1
    assert [r["step"] for r in reports] == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "run" / "sheet-000003.png").stat().st_size > 100
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "run").values())


def test_resuming_gives_the_same_bits_as_not_stopping(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path / "whole"))

    class StopError(Exception):
        pass

    def stop_after_three(report: dict) -> None:
        if report["step"] == 3:
            raise StopError

    with pytest.raises(StopError):
        run(settings(data, tmp_path / "parts"), stop_after_three)
    run(settings(data, tmp_path / "parts"))  # from the checkpoint of step 2
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_resuming_with_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    run(settings(data, tmp_path / "run"))
    with pytest.raises(InvalidRequestError, match=r"batch was 4, now 2"):
        run(settings(data, tmp_path / "run", batch=2))


def test_a_folder_with_other_things_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputError, match="not empty"):
        run(settings(data, tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_damaged_checkpoint_is_a_typed_error(data: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(DataFormatError, match=r"checkpoint\.pt"):
        run(settings(data, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch": 0}, "batch"), ({"lr": -1.0}, "lr"), ({"preset": "huge"}, "preset"), ({"steps": "many"}, "steps")],
)
def test_bad_settings_name_the_field(data: Path, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        settings(data, tmp_path, **changes)


def test_a_network_that_does_not_fit_the_clips_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="multiple of"):
        run(settings(data, tmp_path / "run", unet={**TINY, "patch": 8, "dim_mults": [1, 2, 2, 2], **_levels(4)}))


def _levels(n: int) -> dict:
    return {k: [False] * n for k in ("spatial_linear_attention", "temporal_attention", "temporal_conv")}


def test_training_learns_the_bars(data: Path, tmp_path: Path) -> None:
    reports: list[dict] = []
    run(settings(data, tmp_path / "run", steps=60, batch=8, lr=3e-3, warmup=5), reports.append)
    assert reports[-1]["x0_error"] < 0.6 * reports[0]["x0_error"]


def test_every_epoch_shows_every_training_clip_once(data: Path, tmp_path: Path) -> None:
    packed = PackedClips.open(data)
    config = model_config(settings(data, tmp_path), packed.labels, _shape(packed), "rendered", "", "")
    batches = Batches(packed, config, 4, 7, {})
    rows = np.concatenate([batches._epoch_rows(step) for step in range(5)])  # 20 draws of 10 clips
    train = np.flatnonzero(packed.split == 0)
    assert sorted(rows[:10]) == sorted(train)
    assert sorted(rows[10:]) == sorted(train)
    assert list(rows[:10]) != list(rows[10:])


def test_dropout_hides_labels_at_its_rate(data: Path, tmp_path: Path) -> None:
    packed = PackedClips.open(data)
    config = model_config(settings(data, tmp_path), packed.labels, _shape(packed), "rendered", "", "")
    batches = Batches(packed, config, 50, 3, {"identity": 0.3})
    null = torch.cat([batches.at(s).labels["identity"][:, -1] for s in range(40)]).mean().item()
    assert abs(null - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5
    assert batches.at(0).labels["view"][:, -1].sum() == 0


def _shape(packed: PackedClips):
    from gaitcrafter_rt.config import ClipShape

    frames, height, width = packed.meta.shape
    return ClipShape(frames=frames, height=height, width=width)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_targets_and_x0_are_inverse(prediction: str) -> None:
    schedule = NoiseSchedule("cosine", 1000, torch.device("cpu"))
    x0, noise, t = torch.randn(5, 1, 2, 4, 4), torch.randn(5, 1, 2, 4, 4), torch.tensor([0, 10, 300, 700, 950])
    x_t = schedule.add_noise(x0, noise, t)
    back = schedule.x0_from(prediction, schedule.target(prediction, x0, noise, t), x_t, t)
    assert torch.allclose(back, x0, atol=2e-5)


def test_loss_weights_follow_their_formulas() -> None:
    """Hang et al. 2023: min(snr, 5) on the x0 error, which is min(snr, 5)/snr on eps and min(snr, 5)/(snr + 1) on v."""
    schedule = NoiseSchedule("cosine", 1000, torch.device("cpu"))
    t = torch.tensor([5, 200, 500, 900])
    ab = torch.tensor([np.cos((i + 1 + 8) / 1008 * np.pi / 2) ** 2 / np.cos(8 / 1008 * np.pi / 2) ** 2 for i in t.tolist()])
    snr = ab / (1 - ab)
    cases = {
        ("clamp_snr", "x0"): snr.clamp(1, 5), ("min_snr", "x0"): snr.clamp(max=5), ("min_snr", "eps"): snr.clamp(max=5) / snr,
        ("min_snr", "v"): snr.clamp(max=5) / (snr + 1), ("uniform", "eps"): torch.ones(4, dtype=torch.float64),
    }  # fmt: skip
    for (rule, prediction), expected in cases.items():
        got = schedule.weight(rule, prediction, 5.0, t)
        assert torch.allclose(got.double(), expected.double(), rtol=1e-4), (rule, prediction)


def test_forecast_writes_nothing(data: Path, tmp_path: Path) -> None:
    told = forecast(settings(data, tmp_path / "run", steps=1000), steps=1)
    assert told["hours"] == pytest.approx(1000 * told["seconds_per_step"] / 3600)
    assert not (tmp_path / "run").exists()


def test_batches_on_a_device_hold_the_clips_and_labels_of_their_rows(data: Path, tmp_path: Path) -> None:
    """The same clips in the same order as batches of the host, each with its own labels."""
    packed = PackedClips.open(data)
    config = model_config(settings(data, tmp_path), packed.labels, _shape(packed), "rendered", "", "")
    host = Batches(packed, config, 4, 7, {})
    device = DeviceBatches(packed, config, 4, 7, {}, torch.device("cpu"))
    for step in range(6):
        a, b = host.at(step), device.at(step)
        assert torch.equal(a.x0, b.x0)
        assert all(torch.equal(a.labels[axis], b.labels[axis]) for axis in a.labels)
        again = device.at(step)
        assert torch.equal(b.noise, again.noise) and torch.equal(b.t, again.t)
    assert not torch.equal(device.at(0).noise, device.at(1).noise)


def test_batches_on_a_device_hide_labels_and_draw_standard_noise(data: Path, tmp_path: Path) -> None:
    packed = PackedClips.open(data)
    config = model_config(settings(data, tmp_path), packed.labels, _shape(packed), "rendered", "", "")
    batches = DeviceBatches(packed, config, 50, 3, {"identity": 0.3}, torch.device("cpu"))
    made = [batches.at(s) for s in range(40)]
    null = torch.cat([b.labels["identity"][:, -1] for b in made]).mean().item()
    assert abs(null - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5
    assert sum(b.labels["view"][:, -1].sum() for b in made) == 0
    noise, t = torch.cat([b.noise for b in made]), torch.cat([b.t for b in made])
    assert abs(noise.mean()) < 0.005 and abs(noise.std() - 1) < 0.005
    assert 0 <= t.min() < 20 and 980 <= t.max() < 1000


def test_a_budget_of_minutes_ends_the_run_and_the_rate_falls_with_it(data: Path, tmp_path: Path) -> None:
    reports: list[dict] = []
    model = run(settings(data, tmp_path / "run", minutes=0.05, steps=1_000_000, check_every=2), reports.append)
    assert model.is_dir()
    assert reports[-1]["done"] >= 0.9
    assert all(r["step"] % 2 == 0 for r in reports[:-1])
    with pytest.raises(InvalidRequestError, match="exclude each other"):
        settings(data, tmp_path, minutes=1, hours=1)


def test_a_run_can_start_from_a_package(data: Path, tmp_path: Path) -> None:
    first = run(settings(data, tmp_path / "first", steps=40, batch=8, lr=3e-3, warmup=5))
    reports: list[dict] = []
    then = run(settings(data, tmp_path / "then", steps=2, init=str(first), lr=1e-6), reports.append)
    fresh: list[dict] = []
    run(settings(data, tmp_path / "fresh", steps=2, lr=1e-6), fresh.append)
    assert reports[0]["x0_error"] < 0.7 * fresh[0]["x0_error"]
    assert "Started from the weights of walker, sha256" in (then / "README.md").read_text()
    other = settings(data, tmp_path / "other", init=str(first), unet={**TINY, "attention_heads": 4})
    with pytest.raises(InvalidRequestError, match="unet differ"):
        run(other)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_step(data: Path, tmp_path: Path, monkeypatch) -> None:
    real = loop.train_step

    def broken(state, batch):
        loss, error = real(state, batch)
        return (loss * float("nan"), error) if state.step == 2 else (loss, error)

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(InvalidRequestError, match="nan at step 2"):
        run(settings(data, tmp_path / "run", check_every=4))


def test_a_compiler_that_fails_is_done_without(data: Path, tmp_path: Path, monkeypatch) -> None:
    def broken(model, **options):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(torch, "compile", lambda model, **options: broken)
    with pytest.raises(CapabilityError, match="--compile off"):
        run(settings(data, tmp_path / "on", compile="on"))
    on_gpu = torch.device("cuda")
    model = torch.nn.Linear(1, 1)
    with pytest.warns(UserWarning, match="goes on without it"):
        assert compiled(model, "auto", on_gpu, lambda forward: forward(model)) is model


def test_trying_the_compiled_network_out_leaves_no_trace(data: Path, tmp_path: Path, monkeypatch) -> None:
    run(settings(data, tmp_path / "plain"))
    monkeypatch.setattr(torch, "compile", lambda model, **options: model.forward)
    run(settings(data, tmp_path / "tried", compile="on"))
    plain, tried = weights(tmp_path / "plain"), weights(tmp_path / "tried")
    assert all(torch.equal(plain[k], tried[k]) for k in plain)
