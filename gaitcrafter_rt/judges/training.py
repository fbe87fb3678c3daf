"""Training a judge: triplet loss per part and cross-entropy on the normalised parts, Adam, one-cycle rate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

try:
    import torch
    from safetensors.torch import save_file
except ImportError as e:
    from ..errors import MissingExtraError

    raise MissingExtraError.for_extra("train", "training a recogniser", e.name) from e

from ..data.packed import PackedClips
from ..errors import CapabilityError
from ..files import PathLike, new_folder, refuse_occupied_folder
from ..torch_threads import torch_threads
from .networks import build, triplet_loss
from .sampling import Batches
from .settings import JudgeConfig, JudgeSettings

WEIGHTS = "weights.safetensors"
CONFIG = "judge.json"

# (step, of, loss, share of clips whose class is right)
Progress = Callable[[int, int, float, float], None]


def train_judge(
    data: PackedClips, out: PathLike, settings: JudgeSettings, *, device: str = "cpu", progress: Progress | None = None,
    command: str = "",
) -> Path:  # fmt: skip
    """Train on the training split of ``data`` and write the judge to the new folder ``out``.

    Raises OutputError if ``out`` is occupied, DataFormatError for fewer than two identities, CapabilityError if ``device`` is not
    there; all before training.
    """
    refuse_occupied_folder(out)
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise CapabilityError("device 'cuda' was asked for but torch sees no GPU; use --device cpu")
    batches = Batches(data, settings)
    with torch_threads(settings.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = build(settings, len(batches.people)).to(place)
        if settings.kind == "temporal" and settings.precision == "bf16":
            net = net.to(memory_format=torch.channels_last_3d)  # a fifth less time on a CPU with AMX
        optimiser = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=5e-4)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=settings.steps + 1)
        net.train()
        for step in range(settings.steps):
            batch = batches.at(step)
            identity = torch.from_numpy(batch.identity).to(place)
            with torch.autocast(place.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                features, scores = net(torch.from_numpy(batch.clips).to(place).float())
            features, scores = features.float(), scores.float()
            classes = identity[:, None].expand(-1, scores.shape[1])
            entropy = torch.nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), label_smoothing=0.1)
            loss = triplet_loss(features, identity, settings.margin) + entropy
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            # Reading the loss waits for a GPU.
            if progress is not None and (place.type == "cpu" or step % 20 == 19 or step + 1 == settings.steps):
                right = (scores.mean(1).argmax(-1) == identity).float().mean().item()
                progress(step + 1, settings.steps, loss.item(), right)
    return _write(net, data, [data.labels.identity[p] for p in batches.people], settings, Path(out), command)


def _write(
    net: torch.nn.Module, data: PackedClips, identities: list[str], settings: JudgeSettings, out: Path, command: str
) -> Path:
    with new_folder(out) as folder:
        save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / WEIGHTS)
        config = JudgeConfig(
            settings=settings, identities=identities, source=data.meta.source, made_by=data.meta.made_by,
            clips_sha256=data.meta.clips_sha256, height=data.meta.height, width=data.meta.width, command=command,
            weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
        )  # fmt: skip
        (folder / CONFIG).write_text(json.dumps(config.model_dump(mode="json"), indent=1) + "\n")
    return out
