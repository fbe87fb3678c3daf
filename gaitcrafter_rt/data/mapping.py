"""Which part of a path is the identity, the covariate, the view: built-in layouts, and mapping files for every other tree.

A mapping file is JSON::

    {"format_version": 1,
     "rules": [{"pattern": "OUMVLP/{identity}/{sequence:d}/{view:d}/{view}.pkl",
                "constants": {"dataset": "OUMVLP", "covariate": "nm"},
                "rename": {"view": {"000": "000"}}}]}

A pattern is a path relative to the tree, with ``/`` between folders. ``{identity}``, ``{view}``, ``{covariate}``, ``{sequence}``,
``{dataset}`` and ``{frame}`` take one or more characters other than ``/``, the earlier of two as few as it can; ``{view:d}``
takes digits only; ``{*}`` takes anything within a folder's name; a field that comes again must be the same text again. Rules are
tried in order and the first that fits a file wins. Files end in .pkl (one sequence each) or .png (one frame each).
``constants`` gives fields that no path holds; ``rename`` replaces values. Files that fit no rule are left alone and counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..documents import read_object, validated
from ..errors import DataFormatError
from ..files import PathLike

FIELDS = ("dataset", "identity", "covariate", "sequence", "view", "frame")
MAPPING_VERSION: Final = 1
_MAX_PATH = 1024
# Each free field of a name multiplies the ways in which it can be cut; more would let one file name stall a scan.
_MAX_FREE = 3
_TOKEN = re.compile(r"\{(\*|[a-z]+)(:d)?\}")
_FieldName = Literal["dataset", "identity", "covariate", "sequence", "view"]
_Text = Annotated[str, Field(min_length=1, max_length=128)]


class Rule(BaseModel):
    """One pattern and what it says about the files that fit it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: Annotated[str, Field(min_length=1, max_length=512)]
    constants: dict[_FieldName, _Text] = {}
    rename: dict[_FieldName, dict[str, _Text]] = {}


class Mapping(BaseModel):
    """A mapping file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = MAPPING_VERSION
    rules: Annotated[list[Rule], Field(min_length=1, max_length=64)]

    @classmethod
    def read(cls, path: PathLike) -> Mapping:
        """Parse a mapping file. Raises DataFormatError or UnsupportedVersionError."""
        try:
            text = Path(path).read_bytes()
        except OSError as e:
            raise DataFormatError(f"{path}: the mapping cannot be read: {e.strerror or e}") from e
        if len(text) > 16 << 20:
            raise DataFormatError(f"{path}: {len(text)} bytes; a mapping is at most 16 MiB")
        raw = read_object(text, path, MAPPING_VERSION, DataFormatError)
        return cls.parse(raw, str(path))

    @classmethod
    def parse(cls, raw: object, source: str = "mapping") -> Mapping:
        """Validate a mapping given as plain values, its patterns included. Raises DataFormatError."""
        mapping = validated(cls, raw, source, DataFormatError)
        mapping.compiled(source)
        return mapping

    def compiled(self, source: str = "mapping") -> list[CompiledRule]:
        """The rules, ready to match. Raises DataFormatError for a bad pattern."""
        return [CompiledRule.make(rule, f"{source}: rules.{i}") for i, rule in enumerate(self.rules)]


@dataclass(frozen=True)
class CompiledRule:
    """A rule as a regular expression over relative paths."""

    rule: Rule
    kind: Literal["pkl", "png"]
    expression: re.Pattern[str]

    @classmethod
    def make(cls, rule: Rule, source: str) -> CompiledRule:
        """Compile. Raises DataFormatError for unknown fields, a missing identity or another ending than .pkl and .png."""
        pattern = rule.pattern
        ending = pattern.rpartition(".")[2].lower()
        if ending not in ("pkl", "png"):
            raise DataFormatError(
                f"{source}: the pattern {pattern!r} must end in .pkl (one sequence a file) or .png (one frame a file)"
            )
        parts, seen, end = [], set(), 0
        for token in _TOKEN.finditer(pattern):
            name, digits = token.groups()
            parts.append(re.escape(pattern[end : token.start()]))
            end = token.end()
            characters = "[0-9]" if digits else "[^/]"
            if name == "*":
                parts.append(f"{characters}*?")
            elif name not in FIELDS:
                raise DataFormatError(f"{source}: no field {name!r} in {pattern!r}; the fields are {', '.join(FIELDS)} and *")
            elif name in seen:
                parts.append(f"(?P={name})")
            else:
                parts.append(f"(?P<{name}>{characters}+?)")
                seen.add(name)
        if set("{}") & set(_TOKEN.sub("", pattern)):
            raise DataFormatError(f"{source}: stray braces in {pattern!r}; a field is written as {{identity}} or {{view:d}}")
        if any(len(_TOKEN.findall(name)) - len(_repeats(name, pattern)) > _MAX_FREE for name in pattern.split("/")):
            raise DataFormatError(f"{source}: more than {_MAX_FREE} fields in one folder or file name of {pattern!r}")
        parts.append(re.escape(pattern[end:]))
        if "identity" not in seen | set(rule.constants):
            raise DataFormatError(f"{source}: {pattern!r} has no {{identity}}, and constants gives none")
        return cls(rule, ending, re.compile("".join(parts)))  # type: ignore[arg-type]

    def match(self, path: str) -> dict[str, str] | None:
        """The fields of one relative path, or None if it does not fit."""
        if len(path) > _MAX_PATH or not (found := self.expression.fullmatch(path)):
            return None
        fields = dict(self.rule.constants) | {k: v for k, v in found.groupdict().items() if v is not None}
        for name, table in self.rule.rename.items():
            if name in fields:
                fields[name] = table.get(fields[name], fields[name])
        return fields


def _repeats(name: str, pattern: str) -> list[str]:
    """Fields of one folder name that stood earlier in the pattern."""
    before = pattern[: pattern.index(name)]
    return [field for field, _ in _TOKEN.findall(name) if field != "*" and f"{{{field}" in before]


# What is recognised without a mapping file, most telling first. OpenGait's CASIA-B trees name files by view alone.
BUILT_IN = Mapping(
    rules=[
        Rule(
            pattern="{identity:d}/{covariate}-{sequence:d}/{view:d}/{identity}-{covariate}-{sequence}-{view}-{frame:d}.png",
            constants={"dataset": "CASIA-B"},
        ),
        Rule(pattern="{identity}/{covariate}-{sequence:d}/{view}/{view}-aligned-sils.pkl"),
        Rule(
            pattern="{identity}/{sequence:d}-{covariate}/{view}/{*:d}-{view}-Camera-Sils_aligned.pkl",
            constants={"dataset": "SUSTech1K"},
        ),
        Rule(pattern="{identity}/{covariate}-{sequence:d}/{view}/{view}.pkl"),
        Rule(pattern="{identity}/{sequence:d}/{view}/{view}.pkl"),
        Rule(pattern="{identity}/{covariate}/{view}/{view}.pkl"),
    ]
)
