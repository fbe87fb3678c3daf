"""From the words of the command line to the list of conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidRequestError
from .common import split_list

ALL = "all"
MAX_CLIPS = 100_000_000
# Option of the command line per axis.
OPTIONS = {"dataset": "--datasets", "identity": "--identities", "covariate": "--covariates", "view": "--views"}


@dataclass(frozen=True)
class ClipRequest:
    """Every combination of the choices of each axis, ``clips_per`` times. An axis without choices is null.

    A choice is a label or a blend of labels with weights. Clip k of combination c has the number c * clips_per + k, counted over
    datasets, identities, covariates and views, the last one fastest.
    """

    choices: Mapping[str, list[Mapping[str, float]]]
    clips_per: int = 1
    _axes: tuple[str, ...] = field(default=("dataset", "identity", "covariate", "view"), init=False)

    def __len__(self) -> int:
        count = self.clips_per
        for axis in self._axes:
            count *= max(1, len(self.choices.get(axis, [])))
        return count

    def condition(self, number: int) -> dict[str, Any]:
        """The condition of one clip by its number, 0 .. len - 1."""
        rest = number // self.clips_per
        chosen: dict[str, Any] = {}
        for axis in reversed(self._axes):
            options = self.choices.get(axis)
            if options:
                rest, place = divmod(rest, len(options))
                chosen[axis] = dict(options[place])
        return chosen

    def __iter__(self):  # type: ignore[no-untyped-def]
        return (self.condition(n) for n in range(len(self)))


def build_request(
    vocabulary: Mapping[str, Sequence[str]], lists: Mapping[str, Sequence[str]], blends: Sequence[str], clips_per: int
) -> ClipRequest:
    """Check the options against the labels of the model.

    ``lists`` maps an axis to its option values ("001,002", "all"); ``blends`` are identities as "001+002" or "0.3*001+0.7*002".
    Raises InvalidRequestError that names the option, what came and what is allowed.
    """
    if not 1 <= clips_per <= MAX_CLIPS:
        raise InvalidRequestError(f"--clips-per must lie in 1..{MAX_CLIPS}, got {clips_per}")
    choices: dict[str, list[Mapping[str, float]]] = {}
    for axis, option in OPTIONS.items():
        wanted = split_list(lists.get(axis, ()))
        if not wanted:
            continue
        known = vocabulary.get(axis, ())
        if wanted == [ALL] and ALL not in known:
            if not known:
                raise InvalidRequestError(f"{option} all: this model has no labels on the axis {axis}")
            wanted = list(known)
        choices[axis] = [{_known(label, known, option, axis): 1.0} for label in wanted]
        if len(set(wanted)) != len(wanted):
            raise InvalidRequestError(
                f"{option} names {next(w for w in wanted if wanted.count(w) > 1)!r} twice; --clips-per makes more clips"
            )
    if blends:
        known = vocabulary.get("identity", ())
        choices["identity"] = [*choices.get("identity", []), *(parse_blend(text, known) for text in blends)]
    request = ClipRequest(choices, clips_per)
    if len(request) > MAX_CLIPS:
        raise InvalidRequestError(f"that would be {len(request)} clips; one job makes at most {MAX_CLIPS}")
    return request


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
