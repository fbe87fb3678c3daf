"""What a user waits for before the first clip: ``python benchmarks/startup.py``.

Fresh processes, median of several: CPU seconds of ``import gaitcrafter_rt`` over a bare interpreter, and wall seconds from
process start to the first clip of the shipped model. Importing and generating are also checked for what they load.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

BARE = "pass"
IMPORT = "import gaitcrafter_rt"
FIRST_CLIP = """
import sys, gaitcrafter_rt as gc
clip = gc.Engine.from_pretrained("walker").generate([{"identity": 0, "view": "090", "covariate": "nm"}])
assert clip.frames.any() and "torch" not in sys.modules
"""


def child(code: str) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    bare, imported, first = [], [], []
    for _ in range(runs):  # interleaved, so that a noisy moment hits all three
        bare.append(child(BARE)[1])
        imported.append(child(IMPORT)[1])
        first.append(child(FIRST_CLIP)[0])
    report = {
        "import_cpu_seconds_over_bare": statistics.median(imported) - statistics.median(bare),
        "first_clip_wall_seconds": statistics.median(first),
        "first_clip_worst": max(first),
        "runs": runs,
        "goals": {"import": 0.05, "first_clip": 2.0},
        "python": platform.python_version(),
        "processors": os.cpu_count(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
