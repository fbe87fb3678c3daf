"""The two recognisers, sized for a CPU. Both map clips to one embedding per horizontal part of the body, and to class scores.

Input: float [B, T, H, W] of 0 and 1, H and W multiples of 8 (``crop`` makes them so). Output: ``features`` [B, P, D], on which the
triplet loss works, and ``scores`` [B, P, classes] of a batch-normalised copy (BNNeck, Luo et al. 2019).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .settings import JudgeSettings

PARTS = 8


def crop(clips: Tensor) -> Tensor:
    """The middle of a clip, as OpenGait cuts it: 64 columns become 44; then padded to multiples of 8 with zeros."""
    height, width = clips.shape[-2:]
    cut = width // 64 * 10
    clips = clips[..., cut : width - cut]
    pad_h, pad_w = -height % 8, -(width - 2 * cut) % 8
    return nn.functional.pad(clips, (pad_w // 2, pad_w - pad_w // 2, 0, pad_h))


class Parts(nn.Module):
    """Horizontal pooling (mean plus maximum of each strip), one linear map per strip, BNNeck and classifier (Fu et al. 2019)."""

    def __init__(self, channels: int, embedding: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(PARTS, channels, embedding))
        nn.init.xavier_uniform_(self.weight)
        self.norm = nn.BatchNorm1d(PARTS * embedding)
        self.classifier = nn.Parameter(torch.empty(PARTS, embedding, classes))
        nn.init.xavier_uniform_(self.classifier)

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """``maps`` [B, C, h, w]; rows that do not fill PARTS strips evenly are left out at the bottom."""
        batch, channels, height, _ = maps.shape
        if height < PARTS:
            maps, height = maps.repeat_interleave(PARTS, 2), height * PARTS
        strips = maps[:, :, : height // PARTS * PARTS].reshape(batch, channels, PARTS, -1)
        pooled = strips.mean(-1) + strips.amax(-1)
        features = torch.einsum("bcp,pcd->bpd", pooled, self.weight)
        normal = self.norm(features.flatten(1)).view_as(features)
        unit, directions = nn.functional.normalize(normal, dim=-1), nn.functional.normalize(self.classifier, dim=1)
        return features, 16.0 * torch.einsum("bpd,pdk->bpk", unit, directions)


def _block2d(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01, inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.01, inplace=True),
    )  # fmt: skip


class SetRecogniser(nn.Module):
    """GaitSet in kind (Chao et al. 2019): a 2-D network on every frame, maximum over the frames, parts. Blind to frame order."""

    def __init__(self, settings: JudgeSettings, classes: int) -> None:
        super().__init__()
        w = settings.width
        self.body = nn.Sequential(
            nn.Conv2d(1, w, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(w), nn.LeakyReLU(0.01, inplace=True),
            _block2d(w, 2 * w), nn.MaxPool2d(2), _block2d(2 * w, 4 * w),
        )  # fmt: skip
        self.parts = Parts(4 * w, settings.embedding, classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        batch, frames = clips.shape[:2]
        maps = self.body(crop(clips).flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last))
        maps = maps.unflatten(0, (batch, frames)).amax(1)
        return self.parts(maps)


class _GlobalLocal(nn.Module):
    """Two 3-D convolutions side by side, one over the whole figure, one over each half of it alone (Lin et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, slices: int) -> None:
        super().__init__()
        self.whole = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.local = nn.Conv3d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm3d(outputs)
        self.slices = slices

    def forward(self, x: Tensor) -> Tensor:
        pieces = [self.local(piece) for piece in x.chunk(self.slices, dim=3)]
        return nn.functional.leaky_relu(self.norm(self.whole(x) + torch.cat(pieces, dim=3)), 0.01)


class TemporalRecogniser(nn.Module):
    """GaitGL in kind (Lin et al. 2021): 3-D convolutions, local temporal aggregation, global and local branches, parts."""

    def __init__(self, settings: JudgeSettings, classes: int) -> None:
        super().__init__()
        w = settings.width
        self.stem = nn.Sequential(
            nn.Conv3d(1, w, (3, 5, 5), stride=(1, 2, 2), padding=(1, 2, 2), bias=False),
            nn.BatchNorm3d(w),
            nn.LeakyReLU(0.01, inplace=True),
        )
        self.gather = nn.Conv3d(w, w, (3, 1, 1), stride=(3, 1, 1), padding=(1, 0, 0), bias=False)
        self.first = _GlobalLocal(w, 2 * w, 4)
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.second = _GlobalLocal(2 * w, 4 * w, 2)
        self.parts = Parts(4 * w, settings.embedding, classes)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        x = nn.functional.leaky_relu(self.gather(self.stem(crop(clips)[:, None])), 0.01)
        maps = self.second(self.pool(self.first(x))).amax(2)
        return self.parts(maps)


def build(settings: JudgeSettings, classes: int) -> nn.Module:
    """The untrained network of ``settings.kind``, initialised from torch's generator."""
    kinds = {"set": SetRecogniser, "temporal": TemporalRecogniser}
    return kinds[settings.kind](settings, classes)


def triplet_loss(features: Tensor, identity: Tensor, margin: float) -> Tensor:
    """Mean over parts and over all triplets that still violate the margin (batch all, Hermans et al. 2017).

    ``features`` [B, P, D], ``identity`` [B]. Distances are Euclidean, per part.
    """
    parts = features.transpose(0, 1)
    distance = torch.cdist(parts, parts)
    same = identity[:, None] == identity[None]
    positive = same & ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    # [P, anchor, positive, negative]
    loss = torch.relu(margin + distance[:, :, :, None] - distance[:, :, None, :])
    valid = positive[:, :, None] & ~same[:, None, :]
    loss = loss * valid
    active = (loss > 0).sum(dim=(1, 2, 3))
    return (loss.sum(dim=(1, 2, 3)) / active.clamp(min=1)).mean()
