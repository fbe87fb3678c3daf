"""Which noise schedule a checkpoint was trained on, told by its beta buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..config import Diffusion
from ..errors import InvalidRequestError, ModelFormatError
from ..samplers.schedule import ScheduleName, betas

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAX_TIMESTEPS = 100_000


SCHEDULES: tuple[ScheduleName, ...] = ("cosine", "linear")


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
    held = buffers["betas"].double().numpy()
    if timesteps not in (None, shape[0]):
        raise InvalidRequestError(f"timesteps is {timesteps}, but the checkpoint was trained with {shape[0]}; leave it out")
    found = next((k for k in SCHEDULES if _agrees(held, k)), None)
    if found is None:
        raise ModelFormatError(
            f"betas runs from {held[0]:.4g} to {held[-1]:.4g} over {shape[0]} timesteps, which is neither the cosine nor "
            "the linear schedule; no package can hold another one"
        )
    if schedule not in (None, found):
        raise InvalidRequestError(f"schedule is {schedule!r}, but the checkpoint's betas are {found}; leave it out")
    return found, shape[0], []


def _agrees(held: NDArray[np.float64], schedule: ScheduleName) -> bool:
    try:
        return np.allclose(held, betas(schedule, len(held)), rtol=1e-5, atol=1e-9)
    except InvalidRequestError:  # too short for a linear schedule
        return False
