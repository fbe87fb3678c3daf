"""From the words of the command line to the grid of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..bulk.conditions import Grid
from ..errors import InvalidRequestError
from .common import split_list

ALL = "all"
# Option of the command line per axis.
OPTIONS = {"dataset": "--datasets", "identity": "--identities", "covariate": "--covariates", "view": "--views"}


def build_request(vocabulary: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[str]], blends: Sequence[str]) -> Grid:
    """Check the options against the labels of the model.

    ``lists`` maps an axis to its option values ("001,002", "all"); ``blends`` are identities as "001+002" or "0.3*001+0.7*002".
    Raises InvalidRequestError that names the option, what came and what is allowed.
    """
    choices: dict[str, list[str]] = {}
    for axis, option in OPTIONS.items():
        wanted = split_list(lists.get(axis, ()))
        if not wanted:
            continue
        known = vocabulary.get(axis, ())
        if wanted == [ALL] and ALL not in known:
            if not known:
                raise InvalidRequestError(f"{option} all: this model has no labels on the axis {axis}")
            wanted = list(known)
        choices[axis] = [_known(label, known, option, axis) for label in wanted]
        if len(set(wanted)) != len(wanted):
            raise InvalidRequestError(
                f"{option} names {next(w for w in wanted if wanted.count(w) > 1)!r} twice; --clips-per makes more clips"
            )
    identities = [{label: 1.0} for label in choices.pop("identity", [])]
    known = vocabulary.get("identity", ())
    return Grid(
        identity=[*identities, *(parse_blend(text, known) for text in blends)], dataset=choices.get("dataset", []),
        covariate=choices.get("covariate", []), view=choices.get("view", []),
    )  # fmt: skip


def clip_count(grid: Grid, n: int | None, clips_per: int | None, most: int) -> int:
    """How many clips ``--n`` or ``--clips-per`` ask for; once every combination if neither is given. Raises InvalidRequestError."""
    if n is not None and clips_per is not None:
        raise InvalidRequestError(
            "--n and --clips-per exclude each other: one is the number of clips, the other that of each combination"
        )
    if clips_per is not None and not 1 <= clips_per <= most:
        raise InvalidRequestError(f"--clips-per must lie in 1..{most}, got {clips_per}")
    if n is not None and not 1 <= n <= most:
        raise InvalidRequestError(f"--n must lie in 1..{most}, got {n}")
    count = n if n is not None else grid.combinations * (clips_per or 1)
    if count > most:
        raise InvalidRequestError(f"that would be {count} clips; at most {most} are allowed")
    return count


def parse_blend(text: str, known: Sequence[str]) -> dict[str, float]:
    """``001+002`` or ``0.3*001+0.7*002`` to label weights; weights are added as they are. Raises InvalidRequestError."""
    weights: dict[str, float] = {}
    for part in text.split("+"):
        part = part.strip()
        factor, star, label = part.partition("*")
        if not star or part in known:
            factor, label = "1", part
        try:
            weight = float(factor)
        except ValueError:
            weight = float("nan")
        if not abs(weight) <= 1e6:
            raise InvalidRequestError(f"--blend {text!r}: {factor!r} is not a weight; write 001+002 or 0.3*001+0.7*002")
        label = _known(label.strip(), known, "--blend", "identity")
        if label in weights:
            raise InvalidRequestError(f"--blend {text!r} names {label!r} twice; give one weight for each identity")
        weights[label] = weight
    if len(weights) < 2:
        raise InvalidRequestError(f"--blend {text!r} names one identity; a blend takes two or more, as in 001+002")
    return weights


def _known(label: str, known: Sequence[str], option: str, axis: str) -> str:
    if label not in known:
        shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
        raise InvalidRequestError(f"{option}: this model has no {axis} {label!r:.140}; it knows {shown or 'none'}")
    return label


def check_seed(seed: int) -> None:
    """Raises InvalidRequestError outside 0..2**64 - 1."""
    if not 0 <= seed < 2**64:
        raise InvalidRequestError(f"--seed must lie in 0..2**64 - 1, got {seed}")
