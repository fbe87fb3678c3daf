"""Distillation: targets against the teacher's own trajectory, and students that run in the engine's sampler."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from gaitcrafter_rt.config import Diffusion, ModelConfig, SamplerDefaults  # noqa: E402
from gaitcrafter_rt.data.packed import PackedWriter  # noqa: E402
from gaitcrafter_rt.distill import DistillSettings, run  # noqa: E402
from gaitcrafter_rt.distill.trajectory import Segments, student_sampler  # noqa: E402
from gaitcrafter_rt.errors import InvalidRequestError, OutputError  # noqa: E402
from gaitcrafter_rt.nn.denoiser import load_unet  # noqa: E402
from gaitcrafter_rt.package import read_config  # noqa: E402
from gaitcrafter_rt.samplers.reference import sample  # noqa: E402
from gaitcrafter_rt.samplers.table import compile_rows, compile_segment, run_rows  # noqa: E402
from gaitcrafter_rt.train import TrainSettings  # noqa: E402
from gaitcrafter_rt.train import run as train  # noqa: E402

TINY = {
    "dim": 8, "dim_mults": [1, 2], "norm_groups": 4, "attention_heads": 2, "attention_dim_head": 4, "rotary_dim": 4,
    "spatial_linear_attention": [False, False], "temporal_attention": [False, True], "temporal_conv": [True, False],
}  # fmt: skip
CONFIG = ModelConfig(diffusion=Diffusion(prediction="x0", schedule="cosine"))
CLIP = (1, 1, 2, 4, 4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people, a tall bar and a wide one, moving sideways."""
    folder = tmp_path_factory.mktemp("distill") / "data"
    labels = {"identity": ["tall", "wide"], "view": ["090"], "covariate": ["nm"]}
    with PackedWriter(folder, labels=labels, source="rendered", frames=4, height=16, width=16) as writer:
        for sequence in range(5):
            for person, (height, width) in enumerate(((12, 3), (5, 8))):
                clip = np.zeros((4, 16, 16), np.uint8)
                for f in range(4):
                    left = (sequence + f) % (16 - width)
                    clip[f, 2 : 2 + height, left : left + width] = 1
                writer.append(clip, identity=person, view=0, covariate=0, sequence=sequence, split=0)
    return folder


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = TrainSettings.checked(
        data=str(data), out=str(tmp_path_factory.mktemp("teacher") / "run"), steps=150, batch=8, threads=1, unet=TINY, lr=3e-3,
        warmup=5, sample_every=0, guidance=2.0, precision="fp32", ema=0.9,
    )  # fmt: skip
    return train(settings)


def settings(teacher: Path, data: Path, out: Path, **changes: object) -> DistillSettings:
    base = {
        "teacher": str(teacher), "data": str(data), "out": str(out), "calls": (4,), "steps": 8, "batch": 4, "threads": 1,
        "precision": "fp32",
    }  # fmt: skip
    return DistillSettings.checked(**{**base, **changes})


def shrinking(x: torch.Tensor, t: torch.Tensor, labels: dict) -> torch.Tensor:
    """A denoiser whose answer depends on clip and time, inside -1..1."""
    return torch.tanh(1.3 * x + (t.float() / 700 - 0.5).view(-1, 1, 1, 1, 1))


def guided(x: np.ndarray, t: int) -> np.ndarray:
    """The same with the null lane below at guidance 2."""
    tensor, when = torch.from_numpy(x), torch.tensor([t])
    return (2 * shrinking(tensor, when, {}) - 0.5 * shrinking(tensor, when, {})).numpy()


def test_a_whole_trajectory_is_dpm_solver() -> None:
    x = torch.randn(CLIP, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    wanted = SamplerDefaults(kind="dpmpp_2m", steps=10, guidance=1.0)
    rows = compile_rows(wanted, CONFIG.diffusion)
    segment = compile_segment([row.t for row in rows], -1, CONFIG.diffusion)
    ours = run_rows(segment, guided, x, lambda t: x, wanted)
    assert np.allclose(ours, sample(guided, x, wanted, CONFIG.diffusion, lambda t: x), rtol=1e-12)


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_one_step_with_the_target_lands_where_the_teacher_does(calls: int) -> None:
    """The student's DDIM row with the target as x0 gives the teacher's clip after its steps, guidance included."""
    segments = Segments(CONFIG, calls, 12, torch.device("cpu"))
    rows = compile_rows(student_sampler(calls), CONFIG.diffusion)
    for number, row in enumerate(rows):
        x = torch.randn(CLIP, generator=torch.Generator().manual_seed(number))
        label, null = {"identity": torch.tensor([[1.0, 0.0]])}, {"identity": torch.tensor([[0.0, 1.0]])}

        def lanes(both: torch.Tensor, t: torch.Tensor, labels: dict) -> torch.Tensor:
            strength = torch.where(labels["identity"][:, 1] == 1, 0.5, 1.25).view(-1, 1, 1, 1, 1)
            return strength * shrinking(both, t, labels)

        target = segments.target(lanes, x, torch.tensor([number]), label, null, 2.0)
        end = rows[number + 1].t if number + 1 < calls else -1
        times = [int(t) for t in segments.times[number] if t > end]
        path = compile_segment(times, end, CONFIG.diffusion)
        clip = SamplerDefaults(thresholding="clip")

        def answer(v: np.ndarray, t: int) -> np.ndarray:
            return (2.0 * shrinking(torch.from_numpy(v), torch.tensor([t]), {})).numpy()  # 0.5 + (1.25 - 0.5) * 2

        wanted = run_rows(path, answer, x.numpy(), lambda t: np.zeros(CLIP), clip)
        landed = row.c_x * x + row.c_x0 * target
        assert len(times) == 12 // calls
        assert np.allclose(landed.numpy(), wanted, atol=2e-5)


def test_half_the_calls_are_two_steps_of_the_student_before() -> None:
    segments = Segments(CONFIG, 2, 4, torch.device("cpu"), halved=True)
    assert segments.times.tolist() == [[999, 749], [499, 249]]
    x = torch.randn(CLIP, generator=torch.Generator().manual_seed(1))
    target = segments.target(shrinking, x, torch.tensor([1]), {}, {}, 1.0)
    rows = compile_rows(student_sampler(4), CONFIG.diffusion)[2:]

    def answer(v: np.ndarray, t: int) -> np.ndarray:
        return shrinking(torch.from_numpy(v), torch.tensor([t]), {}).numpy()

    wanted = run_rows(rows, answer, x.numpy(), lambda t: x.numpy(), student_sampler(4))
    assert np.allclose(target.numpy(), wanted, atol=1e-5)


def test_students_are_packages_that_say_what_they_are(teacher: Path, data: Path, tmp_path: Path) -> None:
    reports: list[dict] = []
    made = settings(teacher, data, tmp_path / "out", calls=(4, 2), share=(3, 1))
    folders = run(made, reports.append, ["gaitcrafter-rt", "distill", "a b"])
    assert [f.name for f in folders] == ["calls-4", "calls-2"]
    assert [r["calls"] for r in reports] == [4] * 6 + [2] * 2
    for folder, calls in zip(folders, (4, 2), strict=True):
        config = read_config(folder)
        assert (config.sampler.kind, config.sampler.steps, config.sampler.guidance) == ("ddim", calls, 1.0)
        assert not config.conditioning.guidance_trained
        assert "guidance 2 baked in" in config.provenance.notes
        assert config.provenance.command == "gaitcrafter-rt distill 'a b'"
        assert all(torch.isfinite(p).all() for p in load_unet(folder).parameters())
    assert "the student of 4 calls" in (folders[1] / "README.md").read_text()


def test_distillation_brings_the_student_nearer_to_its_teacher(teacher: Path, data: Path, tmp_path: Path) -> None:
    reports: list[dict] = []
    run(settings(teacher, data, tmp_path / "out", calls=(2,), steps=120, batch=16, lr=2e-3), reports.append)
    errors = [r["error"] for r in reports]
    assert np.mean(errors[-20:]) < 0.7 * np.mean(errors[:5])


def test_the_same_settings_give_the_same_student(teacher: Path, data: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(settings(teacher, data, tmp_path / name, steps=3))
    a, b = (load_unet(tmp_path / name / "calls-4").state_dict() for name in ("a", "b"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_bad_requests_are_refused(teacher: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="share has 1 entries"):
        settings(teacher, data, tmp_path, calls=(4, 2), share=(1,))
    with pytest.raises(InvalidRequestError, match="fewer than the 4 calls"):
        settings(teacher, data, tmp_path, teacher_steps=3)
    other = tmp_path / "other"
    with PackedWriter(other, labels={"identity": ["x"]}, source="rendered", frames=4, height=16, width=16) as writer:
        writer.append(np.ones((4, 16, 16), np.uint8), identity=0)
    with pytest.raises(InvalidRequestError, match="other labels"):
        run(settings(teacher, other, tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("precious")
    with pytest.raises(OutputError):
        run(settings(teacher, data, tmp_path / "full"))
