"""What the network is made of, and properties that need no other network to judge them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peers import base_network, relative_l2
from safetensors.torch import load_file

from gaitcrafter_rt.config import ClipShape, Conditioning, Labels, ModelConfig, paper_preset, walker_preset
from gaitcrafter_rt.convert.base_network import base_name, base_shape
from gaitcrafter_rt.errors import InvalidRequestError
from gaitcrafter_rt.nn.blocks import ResnetBlock
from gaitcrafter_rt.nn.unet import UNet3D
from gaitcrafter_rt.package import read_config, read_weights

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
LABELS = Labels(identity=["001", "002", "003"], view=["000", "090"], covariate=["nm", "bg", "cl"])


def without_memory(config: ModelConfig) -> UNet3D:
    with torch.device("meta"):
        return UNet3D(config)


def paper(cond_dim: int = 74, **changes: object) -> ModelConfig:
    return ModelConfig(unet=paper_preset(**changes), conditioning=Conditioning(cond_dim=cond_dim))


@pytest.mark.parametrize(
    ("norm", "dim", "count", "tensors"),
    [
        ("group_norm", 64, 36_295_259, 301),
        ("rms_norm", 64, 36_287_195, 263),
        ("rms_norm", 32, 10_259_995, 263),
        ("rms_norm", 128, 135_644_251, 263),
    ],
)
def test_same_tensors_as_the_base_network(norm: str, dim: int, count: int, tensors: int) -> None:
    """Counts of the base network, taken from its own modules. It also holds its 16 rotary frequencies, listed 10 times."""
    with torch.device("meta"):
        base = base_network(norm).Unet3D(dim, cond_dim=74, channels=1)
    ours = without_memory(paper(norm=norm, dim=dim, init_dim=dim))
    assert sum(p.numel() for p in base.parameters()) == count
    assert sum(p.numel() for p in ours.parameters()) == count - 16
    theirs = {k: tuple(v.shape) for k, v in base.state_dict().items()}
    assert len(theirs) == tensors
    named = {base_name(k): base_shape(k, tuple(v.shape)) for k, v in ours.state_dict().items()}
    assert named == {k: v for k, v in theirs.items() if not k.endswith("rotary_emb.freqs")}


@pytest.mark.parametrize("name", ["tiny-paper", "tiny-paper-rms", "tiny-walker", "tiny-maps"])
def test_fixtures_hold_what_the_network_computes(name: str) -> None:
    net = UNet3D(read_config(FIXTURES / name)).double()
    net.load_state_dict({k: torch.from_numpy(v).double() for k, v in read_weights(FIXTURES / name).items()})
    golden = load_file(FIXTURES / name / "golden.safetensors")
    labels = {k.removeprefix("weights."): v.double() for k, v in golden.items() if k.startswith("weights.")}
    cond = golden["cond"].double() if "cond" in golden else None
    with torch.no_grad():
        out = net(golden["x"].double(), golden["t"], labels, cond)
    assert relative_l2(out, golden["out"]) < 1e-12


@pytest.mark.parametrize("preset", ["paper", "walker"])
def test_every_module_prints_once(preset: str) -> None:
    if preset == "paper":
        config = paper()
    else:
        wired = Conditioning(identity="block_table", view="input_map", covariate="input_map")
        config = ModelConfig(unet=walker_preset(), labels=LABELS, conditioning=wired)
    net = without_memory(config)
    kinds = {type(m).__name__ for m in net.modules()}
    text = "\n".join({type(m).__name__: repr(m) for m in net.modules()}.values())
    assert all(f"{kind}(" in text for kind in kinds)
    expected = {"ResnetBlock", "TemporalAttention", "SpatialAttention", "Level", "TimeMLP"}
    expected |= {"SpatialLinearAttention"} if preset == "paper" else {"TemporalConv", "InputMap"}
    assert expected <= kinds


def tiny_walker(**changes: object) -> UNet3D:
    unet = walker_preset(
        **{
            "dim": 8, "init_dim": 8, "dim_mults": [1, 2], "patch": 2, "norm_groups": 4, "positional_embedding": False,
            "spatial_linear_attention": [True, False], "temporal_attention": [False, False], "temporal_conv": [True, False],
            "mid_temporal_attention": False, "position_buckets": 0, "rotary_dim": 0, **changes,
        }
    )  # fmt: skip
    torch.manual_seed(3)
    return UNet3D(ModelConfig(clip=ClipShape(frames=6, height=8, width=8), unet=unet)).double()


def test_circular_convolution_moves_with_the_clip() -> None:
    """Without attention over time every frame is like every other, the ends included."""
    net = tiny_walker()
    x, t = torch.randn(1, 1, 6, 8, 8).double(), torch.tensor([300])
    with torch.no_grad():
        assert relative_l2(net(x.roll(2, 2), t), net(x, t).roll(2, 2)) < 1e-12


def test_frames_meet_only_where_they_should() -> None:
    net = tiny_walker(temporal_conv=[False, False])
    x, t = torch.randn(1, 1, 6, 8, 8).double(), torch.tensor([300])
    changed = x.clone()
    changed[:, :, 4] += 1
    with torch.no_grad():
        moved = (net(changed, t) - net(x, t)).abs().amax(dim=(0, 1, 3, 4))
    assert moved[4] > 1e-3
    assert moved[[0, 1, 2, 3, 5]].max() == 0


def test_clips_of_a_batch_do_not_mix() -> None:
    net = UNet3D(ModelConfig(
        clip=ClipShape(frames=3, height=8, width=8), labels=LABELS, conditioning=Conditioning(identity="block_table"),
        unet=walker_preset(dim=8, init_dim=8, dim_mults=[1, 2, 2], patch=1, norm_groups=4, norm_scope="clip"),
    )).double()  # fmt: skip
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    x, t = torch.randn(2, 1, 3, 8, 8).double(), torch.tensor([10, 900])
    labels = {"identity": torch.tensor([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0]]).double()}
    with torch.no_grad():
        both = net(x, t, labels)
        for k in range(2):
            alone = net(x[k : k + 1], t[k : k + 1], {"identity": labels["identity"][k : k + 1]})
            assert relative_l2(both[k : k + 1], alone) < 1e-12


def test_block_table_adds_to_the_film() -> None:
    """A label row is the same as that row added to the FiLM bias; weights scale it, and several labels add up."""
    table = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    block = ResnetBlock(paper_preset(), 8, 16, 12, {"identity": 3})
    plain = ResnetBlock(paper_preset(), 8, 16, 12, {})
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if not k.startswith("tables")})
    x, time = torch.randn(6, 8, 4, 4), torch.randn(2, 12)
    with torch.no_grad():
        block.tables["identity"].copy_(table)
        got = block(x, 3, time, {"identity": torch.tensor([[0.0, 2.0, 0, 0.5]] * 2)})
        plain.film.bias.add_(2 * table[1] + 0.5 * table[3])
        assert relative_l2(got, plain(x, 3, time, {})) < 1e-6


def test_absent_labels_are_null() -> None:
    net = UNet3D(read_config(FIXTURES / "tiny-maps"))
    net.load_state_dict({k: torch.from_numpy(v) for k, v in read_weights(FIXTURES / "tiny-maps").items()})
    x, t = torch.randn(1, 1, 6, 32, 32), torch.tensor([5])
    null = {a: torch.eye(n + 1)[-1:] for a, n in (("identity", 3), ("view", 2), ("covariate", 3))}
    with torch.no_grad():
        assert torch.equal(net(x, t), net(x, t, null))


def test_other_clip_shapes_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="this model takes 6x8x8"):
        tiny_walker()(torch.zeros(1, 1, 5, 8, 8).double(), torch.tensor([0]))
