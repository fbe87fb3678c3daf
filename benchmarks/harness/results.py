"""Measured rounds of one network on disk, as JSON, so that a long measurement can be made in several short runs.

    identity     network, machine, commit and versions: rounds of another identity are not mixed in
    contestants  {key: {peer, engine, precision, form, batch, state, note, error, peak_mb, trial}}
    rounds       [{at, load, limits {arithmetic: GFLOP/s}, seconds {key: CPU s per clip}}]

``state`` is "ok", "absent" or "failed"; ``trial`` is the one measurement by which the forms of a peer are ranked.
"""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path
from typing import Any


class Results:
    def __init__(self, path: Path, identity: dict[str, Any], fresh: bool = False) -> None:
        """Takes up what ``path`` holds if it has this identity; else starts empty and says so on ``self.dropped``."""
        self.path, self.identity = path, identity
        self.gflop = 0.0
        self.contestants: dict[str, dict[str, Any]] = {}
        self.rounds: list[dict[str, Any]] = []
        self.dropped: list[str] = []
        if path.exists() and not fresh:
            stored = json.loads(path.read_text())
            self.dropped = [name for name, value in identity.items() if stored["identity"].get(name) != value]
            if not self.dropped:
                self._take(stored)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Whatever the file holds, for a report."""
        stored = json.loads(path.read_text())
        return cls(path, stored["identity"])

    def _take(self, stored: dict[str, Any]) -> None:
        self.gflop, self.contestants, self.rounds = stored["gflop_per_call"], stored["contestants"], stored["rounds"]

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(
            {
                "identity": self.identity, "gflop_per_call": self.gflop, "contestants": self.contestants, "rounds": self.rounds,
            },
            indent=1,
        )  # fmt: skip
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(text + "\n")
        os.replace(partial, self.path)

    def best_forms(self) -> list[str]:
        """Of every peer the key with the least trial time, in the order in which they were entered."""
        best: dict[str, str] = {}
        for key, c in self.contestants.items():
            if c["state"] != "ok":
                continue
            other = best.get(c["peer"])
            if other is None or c["trial"] < self.contestants[other]["trial"]:
                best[c["peer"]] = key
        return list(best.values())

    def samples(self, key: str, base: str | None = None) -> list[float]:
        """CPU seconds per clip of the rounds that have ``key``, and ``base`` too if that is given."""
        return [r["seconds"][key] for r in self.rounds if key in r["seconds"] and (base is None or base in r["seconds"])]

    def limits(self) -> dict[str, float]:
        """Median over the rounds, GFLOP/s by arithmetic."""
        names = {name for r in self.rounds for name in r["limits"]}
        return {name: statistics.median(r["limits"][name] for r in self.rounds if name in r["limits"]) for name in sorted(names)}
