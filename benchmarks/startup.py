"""What a user waits for before the first clip: ``python benchmarks/startup.py``.

Fresh processes, medians of several: CPU seconds of ``import gaitcrafter_rt`` over a bare interpreter, wall seconds from process
start to the first clip of the shipped model, and wall seconds and peak resident memory of opening a model until it is ready to
sample: with its packed weights in the cache, with an empty cache (packs and writes), and without a cache (packs). The shipped
model, and with ``--paper`` one of the paper's size with random weights, which needs the extra ``train``. Importing and generating
are also checked for what they load. Model and cache lie in the system's page cache: a disk's own time is not in here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BARE = "pass"
IMPORT = "import gaitcrafter_rt"
FIRST_CLIP = """
import sys, gaitcrafter_rt as gc
clip = gc.Engine.from_pretrained("walker").generate([{"identity": 0, "view": "090", "covariate": "nm"}])
assert clip.frames.any() and "torch" not in sys.modules
"""
OPEN = """
import json, sys, time
from pathlib import Path
import gaitcrafter_rt.engine
began = time.perf_counter()
engine = gaitcrafter_rt.engine.Engine.from_pretrained(sys.argv[1], precision=sys.argv[2], threads=1)
opened = time.perf_counter() - began
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"seconds": opened, "from": engine.info["weights_from"], "peak_mb": int(peak.split()[1]) / 1024}))
"""
OPENINGS = {"cache": "packed weights cached", "written": "packs and writes the cache", "memory": "no cache"}


def child(code: str, *arguments: str, **environment: str) -> tuple[float, float, str]:
    """Wall and CPU seconds of one process, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=env, stdout=subprocess.PIPE, text=True)
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def opening(model: str, precision: str, runs: int) -> dict[str, Any]:
    """Medians of opening a model in the three states of a cache, interleaved."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in OPENINGS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(runs):
            shutil.rmtree(Path(cache) / "packed", ignore_errors=True)
            for kind in ("written", "cache", "memory"):
                place = "off" if kind == "memory" else cache
                row = json.loads(child(OPEN, model, precision, GAITCRAFTER_CACHE=place)[2])
                if row["from"] != kind:
                    sys.exit(f"weights came from {row['from']} where {kind} was expected; is {cache} writable?")
                found[kind].append(row)
        size = sum(f.stat().st_size for f in (Path(cache) / "packed").glob("*.packed"))
    report: dict[str, Any] = {"cache_mb": size / 1e6}
    for kind, rows in found.items():
        seconds = [r["seconds"] for r in rows]
        report[OPENINGS[kind]] = {
            "wall_seconds": statistics.median(seconds), "worst": max(seconds), "peak_mb": max(r["peak_mb"] for r in rows),
        }  # fmt: skip
    return report


def paper_model(folder: Path) -> Path:
    import torch

    from gaitcrafter_rt.config import Conditioning, ModelConfig, paper_preset
    from gaitcrafter_rt.nn.unet import UNet3D
    from gaitcrafter_rt.package import write_package

    torch.manual_seed(0)
    config = ModelConfig(name="paper", unet=paper_preset(), conditioning=Conditioning(cond_dim=74))
    write_package(folder / "paper", config, UNet3D(config).state_dict(), "# random weights for a benchmark\n")
    return folder / "paper"


def openings(paper: bool, runs: int) -> dict[str, Any]:
    from gaitcrafter_rt.install import native

    precisions = [p for p in ("bf16", "fp32") if native().precision_supported(p)]
    report = {f"walker {p}": opening("walker", p, runs) for p in precisions}
    if paper:
        with tempfile.TemporaryDirectory() as name:
            model = str(paper_model(Path(name)))
            report |= {f"paper {p}": opening(model, p, runs) for p in precisions}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--open-runs", type=int, default=5)
    parser.add_argument("--paper", action="store_true", help="also open a model of the paper's size; needs torch")
    arguments = parser.parse_args()
    bare, imported, first = [], [], []
    for _ in range(arguments.runs):  # interleaved, so that a noisy moment hits all three
        bare.append(child(BARE)[1])
        imported.append(child(IMPORT)[1])
        first.append(child(FIRST_CLIP))
    report = {
        "import_cpu_seconds_over_bare": statistics.median(imported) - statistics.median(bare),
        "first_clip_wall_seconds": statistics.median(wall for wall, _, _ in first),
        "first_clip_worst": max(wall for wall, _, _ in first),
        "first_clip_cpu_seconds": statistics.median(cpu for _, cpu, _ in first),
        "runs": arguments.runs,
        "opening": openings(arguments.paper, arguments.open_runs),
        "open_runs": arguments.open_runs,
        "goals": {"import": 0.05, "first_clip": 2.0, "packed weights cached": 0.5},
        "python": platform.python_version(),
        "processors": os.cpu_count(),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
