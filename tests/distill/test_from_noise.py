"""Students that learn along their own way from noise: the teacher's trajectories, and being held to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra 'train' is not installed")

from gaitcrafter_rt.config import (  # noqa: E402
    ClipShape,
    Conditioning,
    Diffusion,
    Labels,
    ModelConfig,
    SamplerDefaults,
    UNetConfig,
)
from gaitcrafter_rt.distill import DistillSettings, run  # noqa: E402
from gaitcrafter_rt.distill.networks import from_host, frozen, native, sparse_rows  # noqa: E402
from gaitcrafter_rt.distill.rollout import Rollout  # noqa: E402
from gaitcrafter_rt.distill.teacher_runs import TeacherRuns, teacher_sampler  # noqa: E402
from gaitcrafter_rt.distill.trajectory import Network, student_sampler  # noqa: E402
from gaitcrafter_rt.errors import DataFormatError, InvalidRequestError, OutputError  # noqa: E402
from gaitcrafter_rt.nn.denoiser import load_unet  # noqa: E402
from gaitcrafter_rt.nn.unet import UNet3D  # noqa: E402
from gaitcrafter_rt.package import read_config, write_package  # noqa: E402
from gaitcrafter_rt.samplers.noise_reference import normals  # noqa: E402
from gaitcrafter_rt.samplers.reference import sample  # noqa: E402
from gaitcrafter_rt.samplers.table import compile_rows, run_rows  # noqa: E402

SHAPE = (1, 4, 16, 16)
CONFIG = ModelConfig(
    name="tiny",
    clip=ClipShape(frames=4, height=16, width=16),
    unet=UNetConfig(
        dim=8, dim_mults=[1, 2], norm_groups=4, attention_heads=2, attention_dim_head=4, rotary_dim=4,
        spatial_linear_attention=[False, False], temporal_attention=[False, True], temporal_conv=[True, False],
    ),
    conditioning=Conditioning(identity="block_table", view="block_table", guidance_trained=True),
    labels=Labels(identity=["a", "b", "c"], view=["000", "090"]),
    diffusion=Diffusion(prediction="x0", schedule="cosine"),
    sampler=SamplerDefaults(guidance=2.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("noise") / "teacher"
    model = UNet3D(CONFIG)
    with torch.no_grad():  # a fresh network says next to nothing
        for p in model.parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    write_package(folder, CONFIG, {k: v.numpy() for k, v in model.state_dict().items()}, "A teacher of chance.\n")
    return folder


def runs(teacher: Path, **changes: object) -> TeacherRuns:
    wanted: dict = {"count": 6, "calls": (3,), "steps": 6, "guidance": 2.0, "seed": 5, **changes}
    return TeacherRuns(read_config(teacher), "0" * 64, **wanted)


def opened(teacher: Path, folder: Path, batch: int = 4, **changes: object) -> TeacherRuns:
    made = runs(teacher, **changes)
    made.open(folder, frozen(load_unet(teacher), "fp32", torch.device("cpu")), batch)
    return made


def distilled(teacher: Path, out: Path, **changes: object) -> list[dict]:
    reports: list[dict] = []
    base = {
        "teacher": str(teacher), "out": str(out), "start": "noise", "trajectories": 8, "calls": (3,), "teacher_steps": 6,
        "steps": 4, "batch": 4, "threads": 1, "precision": "fp32",
    }  # fmt: skip
    run(DistillSettings.checked(**{**base, **changes}), reports.append, ["gaitcrafter-rt", "distill"])
    return reports


def test_a_trajectory_is_unipc_from_the_engines_noise(teacher: Path, tmp_path: Path) -> None:
    """Against the sampler that was written from the paper, and the noise generator that was."""
    made = opened(teacher, tmp_path / "runs")
    model = load_unet(teacher)
    assert made.times == [666, 332, -1]
    for i in (0, 5):
        labels = made.labels([i])
        x = normals(5, i, 0, int(np.prod(SHAPE))).reshape(1, *SHAPE)
        assert np.array_equal(made.noise([i]).numpy(), x)

        @torch.no_grad()
        def guided(v: np.ndarray, t: int, labels: dict = labels) -> np.ndarray:
            one = model(torch.from_numpy(v), torch.tensor([t]), labels).numpy()
            null = model(torch.from_numpy(v), torch.tensor([t]), {}).numpy()
            return null + np.float32(2) * (one - null)

        wanted = sample(guided, x, teacher_sampler(6, 2.0), CONFIG.diffusion, np.zeros_like)
        assert np.allclose(made.at([i], -1).numpy(), wanted, atol=2e-3)


def test_labels_are_drawn_evenly_and_never_null(teacher: Path) -> None:
    drawn = runs(teacher, count=600).labels(range(600))
    assert sorted(drawn) == ["identity", "view"]
    assert drawn["identity"].shape == (600, 4) and drawn["view"].shape == (600, 3)
    for axis, n in (("identity", 3), ("view", 2)):
        counts = drawn[axis].sum(0).tolist()
        assert counts[-1] == 0 and sum(counts) == 600
        assert all(abs(c - 600 / n) < 5 * (600 / n) ** 0.5 for c in counts[:-1])


def test_the_native_teacher_is_the_network(teacher: Path) -> None:
    """Guided and null lanes in one batch, as a trajectory calls it, against torch."""
    g = torch.Generator().manual_seed(1)
    x, t = torch.randn(4, *SHAPE, generator=g), torch.tensor([999, 500, 20, 0])
    one_hot = torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    view = torch.tensor([[0.0, 0, 1]] * 4)
    with torch.no_grad():
        wanted = load_unet(teacher)(x, t, {"identity": one_hot, "view": view})
    got = native(str(teacher), "fp32", 1)(x, t, {"identity": one_hot, "view": view})
    assert torch.allclose(got, wanted, rtol=1e-4, atol=1e-4)
    assert sparse_rows(view) is None
    offsets, labels, weights = sparse_rows(one_hot) or pytest.fail("labels are there")
    assert (offsets.tolist(), labels.tolist(), weights.tolist()) == ([0, 1, 3, 3, 4], [0, 1, 2, 2], [1, 0.5, 0.5, 1])


def test_a_networks_inputs_go_to_its_device_and_its_answer_comes_back() -> None:
    """The meta device stands in for a GPU: a tensor that was left on the host would be refused there."""
    seen: list[torch.device] = []

    def network(x: torch.Tensor, t: torch.Tensor, labels: dict) -> torch.Tensor:
        seen.extend(v.device for v in (x, t, *labels.values()))
        return torch.ones(x.shape, dtype=torch.bfloat16)

    out = from_host(network, torch.device("meta"))(torch.zeros(2, *SHAPE), torch.zeros(2), {"view": torch.zeros(2, 3)})
    assert [d.type for d in seen] == ["meta"] * 3
    assert (out.device.type, out.dtype) == ("cpu", torch.float32)


def test_a_folder_is_resumed_with_the_same_bits(teacher: Path, tmp_path: Path) -> None:
    """Whatever the batch, in the native engine: a clip's bits do not depend on the clips beside it."""
    network = native(str(teacher), "fp32", 1)
    made = [runs(teacher), runs(teacher)]
    for own, name in zip(made, ("whole", "part"), strict=True):
        own.open(tmp_path / name, network, 4)
    whole = np.array(made[0].states)
    about = tmp_path / "part" / "about.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "made": 3}))
    states = np.load(tmp_path / "part" / "states.npy", mmap_mode="r+")
    states[3:] = 0
    states.flush()
    seen: list[int] = []
    again = runs(teacher)
    again.open(tmp_path / "part", network, 2, lambda done, of: seen.append(done))
    assert seen == [5, 6]
    assert np.array_equal(again.states, whole)


def test_a_folder_serves_a_run_that_asks_for_fewer(teacher: Path, tmp_path: Path) -> None:
    more = opened(teacher, tmp_path / "runs")
    fewer = runs(teacher, count=4)
    fewer.open(tmp_path / "runs", lambda *_: pytest.fail("nothing is to be made"), 4)
    assert torch.equal(fewer.at([1, 3], -1), more.at([1, 3], -1))
    assert sorted(i for step in range(2) for i in Rollout(fewer, 3, 2, 1, torch.device("cpu")).indices(step)) == [0, 1, 2, 3]
    with pytest.raises(InvalidRequestError, match=r"other trajectories \(count differ"):
        opened(teacher, tmp_path / "runs", count=8)


def test_states_of_other_students_are_no_hindrance(teacher: Path, tmp_path: Path) -> None:
    both = opened(teacher, tmp_path / "runs", calls=(3, 2))
    assert both.times == [666, 499, 332, -1]
    one = opened(teacher, tmp_path / "runs", calls=(3,))
    assert torch.equal(one.at([2, 4], 332), both.at([2, 4], 332))
    rollout = Rollout(one, 3, 2, 1, torch.device("cpu"))
    rollout.backward(0, lambda x, t, labels: x.clone().requires_grad_(), lambda t: torch.ones(len(t)))
    opened(teacher, tmp_path / "three", calls=(3,))
    with pytest.raises(InvalidRequestError, match=r"other trajectories \(times differ"):
        opened(teacher, tmp_path / "three", calls=(3, 2))


def test_other_trajectories_and_damage_are_refused(teacher: Path, tmp_path: Path) -> None:
    opened(teacher, tmp_path / "runs")
    with pytest.raises(InvalidRequestError, match=r"other trajectories \(seed differ"):
        opened(teacher, tmp_path / "runs", seed=6)
    with pytest.raises(InvalidRequestError, match=r"other trajectories \(precision differ"):
        opened(teacher, tmp_path / "runs", precision="bf16")
    about = tmp_path / "runs" / "about.json"
    good = about.read_text()
    about.write_text(good.replace('"made": 6', '"made": 7'))
    with pytest.raises(DataFormatError, match="made is 7"):
        opened(teacher, tmp_path / "runs")
    about.write_text(good)
    (tmp_path / "runs" / "states.npy").write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(DataFormatError, match="not readable"):
        opened(teacher, tmp_path / "runs")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="holds no trajectories"):
        opened(teacher, tmp_path / "mine")
    with pytest.raises(OutputError, match="ask for fewer"):
        opened(teacher, tmp_path / "big", count=1_000_000_000)
    assert not list((tmp_path / "big").iterdir())


def test_targets_lead_from_where_the_student_is_to_where_the_teacher_goes(teacher: Path, tmp_path: Path) -> None:
    """A student that answers with its targets lands on the teacher's clip; a call answered wrong is mended by the next."""
    made = opened(teacher, tmp_path / "runs")
    rollout = Rollout(made, 3, 6, 1, torch.device("cpu"))
    indices = rollout.indices(0)
    stands: dict[int, torch.Tensor] = {}

    def predict(x: torch.Tensor, t: torch.Tensor, labels: dict) -> torch.Tensor:
        number = [row.t for row in rollout.rows].index(int(t[0]))
        stands[int(t[0])] = x
        row, end = rollout.rows[number], [666, 332, -1][number]
        wanted = (made.at(indices, end) - row.c_x * x) / row.c_x0
        return (wanted + (0.1 if number == 0 else 0)).requires_grad_()

    loss, error = rollout.backward(0, predict, lambda t: torch.ones(len(t)))
    assert error < 1e-10 and loss.item() == pytest.approx(0.01 / 3, rel=1e-3)
    apart = stands[666] - made.at(indices, 666)
    assert apart.abs().max() > 0.01  # what was left there
    final = rollout.rows[-1]
    assert final.c_x == 0 and final.c_x0 == 1


def test_every_trajectory_is_seen_once_in_an_epoch(teacher: Path) -> None:
    rollout = Rollout(runs(teacher, count=12), 3, 4, 9, torch.device("cpu"))
    epochs = [[i for step in range(3 * e, 3 * e + 3) for i in rollout.indices(step)] for e in range(2)]
    assert [sorted(e) for e in epochs] == [list(range(12))] * 2
    assert epochs[0] != epochs[1]
    assert list(rollout.indices(1)) == epochs[0][4:8]  # a function of the step, not of the steps before


def test_a_student_comes_nearer_to_its_teachers_clips(teacher: Path, tmp_path: Path) -> None:
    reports = distilled(teacher, tmp_path / "out", steps=30, trajectories=16, batch=8, lr=5e-3, warmup=3)
    assert [r["trajectories"] for r in reports if "trajectories" in r] == [8, 16]
    errors = [r["error"] for r in reports if "error" in r]
    assert np.mean(errors[-5:]) < 0.5 * np.mean(errors[:3])
    folder = tmp_path / "out" / "calls-3"
    config = read_config(folder)
    assert (config.sampler.kind, config.sampler.steps, config.sampler.guidance) == ("ddim", 3, 1.0)
    assert "16 of the teacher's trajectories from noise, 6 steps of unipc, guidance 2" in (folder / "README.md").read_text()
    # By the table that the engine runs, from the noise of the trajectories: its clips are nearer to the teacher's.
    made = runs(teacher, seed=0, count=16)
    made.open(tmp_path / "runs", native(str(teacher), "fp32", 1), 8)
    rows = compile_rows(student_sampler(3), CONFIG.diffusion)
    labels, x = made.labels(range(16)), made.noise(range(16)).numpy()
    error = {}
    for name, path in (("student", folder), ("untaught", teacher)):
        network = native(str(path), "fp32", 1)

        def denoise(v: np.ndarray, t: int, network: Network = network) -> np.ndarray:
            return network(torch.from_numpy(v), torch.full((16,), t), labels).numpy()

        clips = run_rows(rows, denoise, x, np.zeros_like, student_sampler(3))
        error[name] = float(np.square(clips - made.at(range(16), -1).numpy()).mean())
    assert error["student"] < 0.8 * error["untaught"]


def test_the_trajectories_are_kept_and_the_student_is_the_same(teacher: Path, tmp_path: Path) -> None:
    distilled(teacher, tmp_path / "a", keep=str(tmp_path / "kept"))
    reports = distilled(teacher, tmp_path / "b", keep=str(tmp_path / "kept"))
    assert not [r for r in reports if "trajectories" in r]  # nothing was made
    a, b = (load_unet(tmp_path / name / "calls-3").state_dict() for name in ("a", "b"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_student_may_start_from_another(teacher: Path, tmp_path: Path) -> None:
    distilled(teacher, tmp_path / "first", keep=str(tmp_path / "kept"), steps=20, lr=3e-3)
    first = tmp_path / "first" / "calls-3"
    distilled(
        teacher, tmp_path / "second", keep=str(tmp_path / "kept"), init=str(first), steps=1, lr=1e-8, warmup=0, sampler="unipc"
    )
    assert [read_config(f).sampler.kind for f in (first, tmp_path / "second" / "calls-3")] == ["ddim", "unipc"]
    given, taken = (load_unet(f).state_dict() for f in (first, tmp_path / "second" / "calls-3"))
    assert all(torch.allclose(given[k], taken[k], atol=1e-6) for k in given)
    assert "Started from the weights of tiny-3" in (tmp_path / "second" / "calls-3" / "README.md").read_text()


def test_a_student_follows_its_fine_tuned_teacher(teacher: Path, tmp_path: Path) -> None:
    """The student begins where the old one stood, plus what the teacher's weights changed by."""
    distilled(teacher, tmp_path / "first", keep=str(tmp_path / "kept"), steps=2, lr=3e-3)
    tuned = UNet3D(CONFIG)
    tuned.load_state_dict(load_unet(teacher).state_dict())
    with torch.no_grad():
        for p in tuned.parameters():
            p.mul_(1.01)
    write_package(tmp_path / "tuned", CONFIG, {k: v.numpy() for k, v in tuned.state_dict().items()}, "Tuned.\n")
    first = tmp_path / "first" / "calls-3"
    distilled(tmp_path / "tuned", tmp_path / "second", init=str(first), init_teacher=str(teacher), steps=1, lr=1e-8, warmup=0)
    old, before, after = (load_unet(f).state_dict() for f in (first, teacher, tmp_path / "second" / "calls-3"))
    assert all(torch.allclose(after[k], old[k] + 0.01 * before[k], atol=1e-5) for k in old)
    assert "Moved by what fine-tuning changed" in (tmp_path / "second" / "calls-3" / "README.md").read_text()
    with pytest.raises(InvalidRequestError, match="there is no init"):
        DistillSettings.checked(teacher="t", out="o", start="noise", init_teacher="w")


def test_requests_that_do_not_fit_are_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="needs data"):
        DistillSettings.checked(teacher="t", out="o")
    with pytest.raises(InvalidRequestError, match=r"do not stop at timesteps \[332, 666\].*multiple of 3"):
        distilled(teacher, tmp_path / "out", teacher_steps=8)
    assert not (tmp_path / "out.trajectories").exists()
