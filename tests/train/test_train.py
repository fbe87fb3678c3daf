"""Training: the loss against its formulas, resuming bit for bit, and what a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from gaitcrafter_rt.data.packed import PackedClips, PackedWriter  # noqa: E402
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError  # noqa: E402
from gaitcrafter_rt.nn.denoiser import load_unet  # noqa: E402
from gaitcrafter_rt.package import read_config  # noqa: E402
from gaitcrafter_rt.train import TrainSettings, forecast, run  # noqa: E402
from gaitcrafter_rt.train.batches import Batches  # noqa: E402
from gaitcrafter_rt.train.diffusion import NoiseSchedule  # noqa: E402
from gaitcrafter_rt.train.settings import model_config  # noqa: E402

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
