"""Takes one fsync, link or checksum after the other out of the package, and expects the tests to fail.

    python tests/bulk/mutations.py              # all of them; exit code 1 if the tests let one pass
    python tests/bulk/mutations.py NAME ...     # those whose name begins so

Each is made in a copy of ``gaitcrafter_rt/bulk``; the sources stay as they are. A mutation whose text is not found exactly once is
an error: ``mutation_list.py`` has to follow the sources.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mutation_list import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parent.parent.parent
# What runs the tests: imports of the package find the copy, whether it is installed, editable or not.
_RUNNER = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path.insert(0, sys.argv[1])
import gaitcrafter_rt.bulk.commit as commit
assert commit.__file__.startswith(sys.argv[1]), commit.__file__
import pytest
sys.exit(pytest.main(["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


class Outcome(NamedTuple):
    """``caught``: a test failed, ``by`` the first one."""

    name: str
    caught: bool
    by: str


def package() -> Path:
    """The installed package's folder."""
    import gaitcrafter_rt

    return Path(gaitcrafter_rt.__file__).parent


def mutate(mutation: Mutation, target: Path) -> None:
    """A copy of the package with the mutation, everything but ``bulk`` by reference. Raises ValueError if it does not apply."""
    import gaitcrafter_rt._native as native

    source, copy = package(), target / "gaitcrafter_rt"
    copy.mkdir()
    for entry in [*source.iterdir(), Path(native.__file__)]:
        if entry.name not in ("bulk", "__pycache__") and not (copy / entry.name).exists():
            (copy / entry.name).symlink_to(entry)
    shutil.copytree(source / "bulk", copy / "bulk", ignore=shutil.ignore_patterns("__pycache__"))
    path = copy / "bulk" / mutation.file
    text = path.read_text()
    if text.count(mutation.text) != 1:
        raise ValueError(f"{mutation.name}: its text stands {text.count(mutation.text)} times in {mutation.file}; once is needed")
    path.write_text(text.replace(mutation.text, mutation.instead))


def try_one(mutation: Mutation) -> Outcome:
    """Run its tests against the mutated copy."""
    with tempfile.TemporaryDirectory() as folder:
        mutate(mutation, Path(folder))
        tests = [str(ROOT / "tests" / "bulk" / name) for name in mutation.tests]
        command = [sys.executable, "-c", _RUNNER, folder, *tests]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{mutation.name}: the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    by = failed[0].split(" ")[1].rpartition("/")[2] if failed else ""
    return Outcome(mutation.name, done.returncode == 1, by)


def main(names: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not names or m.name.startswith(tuple(names))]
    passed = []
    for mutation in chosen:
        outcome = try_one(mutation)
        print(f"{'caught' if outcome.caught else 'NOT CAUGHT'}: {mutation.name}  {outcome.by}", flush=True)
        passed += [] if outcome.caught else [mutation.name]
    print(f"{len(chosen) - len(passed)} of {len(chosen)} caught")
    return 1 if passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
