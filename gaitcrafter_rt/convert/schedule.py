"""Which noise schedule a checkpoint was trained on, told by its beta buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config import Diffusion
from ..errors import InvalidRequestError, ModelFormatError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAX_TIMESTEPS = 100_000


def cosine_betas(timesteps: int) -> NDArray[np.float64]:
    """Nichol and Dhariwal 2021, equation 17, capped at 0.9999 as in the base network."""
    x = np.linspace(0, timesteps, timesteps + 1)
    bar = np.cos((x / timesteps + 0.008) / 1.008 * np.pi * 0.5) ** 2
    return np.clip(1 - bar[1:] / bar[:-1], 0, 0.9999)


def linear_betas(timesteps: int) -> NDArray[np.float64]:
    """Ho et al. 2020: 1e-4 to 0.02 at 1000 timesteps, scaled so that fewer timesteps destroy as much."""
    scale = 1000 / timesteps
    return np.linspace(scale * 1e-4, scale * 0.02, timesteps)


SCHEDULES = {"cosine": cosine_betas, "linear": linear_betas}


def infer_schedule(buffers: dict[str, Tensor], timesteps: int | None, schedule: str | None) -> tuple[str, int, list[str]]:
    """Schedule, T, and the names of those that had to be assumed (a bare U-Net holds no buffers).

    Raises ModelFormatError for betas of no known schedule, InvalidRequestError if the caller states another one.
    """
    if schedule is not None and schedule not in SCHEDULES:
        raise InvalidRequestError(f"schedule is {schedule!r}; allowed are {', '.join(SCHEDULES)}")
    if timesteps is not None and not 1 <= timesteps <= MAX_TIMESTEPS:
        raise InvalidRequestError(f"timesteps is {timesteps}; allowed are 1 to {MAX_TIMESTEPS}")
    if "betas" not in buffers:
        if buffers:
            raise ModelFormatError(f"the state dict holds the schedule buffers {', '.join(sorted(buffers)[:4])} but no betas")
        given = {"schedule": schedule, "timesteps": timesteps}
        usual = Diffusion()
        return schedule or usual.schedule, timesteps or usual.timesteps, [k for k, v in given.items() if v is None]
    shape = tuple(buffers["betas"].shape)
    if len(shape) != 1 or not 1 <= shape[0] <= MAX_TIMESTEPS:
        raise ModelFormatError(f"betas has shape {list(shape)}; expected one dimension of 1 to {MAX_TIMESTEPS}")
    betas = buffers["betas"].double().numpy()
    if timesteps not in (None, shape[0]):
        raise InvalidRequestError(f"timesteps is {timesteps}, but the checkpoint was trained with {shape[0]}; leave it out")
    found = next((k for k, make in SCHEDULES.items() if np.allclose(betas, make(shape[0]), rtol=1e-5, atol=1e-9)), None)
    if found is None:
        raise ModelFormatError(
            f"betas runs from {betas[0]:.4g} to {betas[-1]:.4g} over {shape[0]} timesteps, which is neither the cosine nor "
            "the linear schedule; no package can hold another one"
        )
    if schedule not in (None, found):
        raise InvalidRequestError(f"schedule is {schedule!r}, but the checkpoint's betas are {found}; leave it out")
    return found, shape[0], []
