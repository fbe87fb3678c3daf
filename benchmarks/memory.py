"""Peak resident memory of sampling at the paper's size: ``python benchmarks/memory.py``.

Random weights; a fresh process per row, which opens the model, makes one clip per thread in two steps in throughput mode, and
reports its peak: all of it, and what lay in mapped files at the end (packed weights, libraries), which processes share. The packed
weights are in their cache before, as on every start but the first (``--no-cache``: they are packed in memory).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

CHILD = """
import json, sys
from pathlib import Path
from gaitcrafter_rt import Engine

def status(field):
    line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith(field + ":"))
    return int(line.split()[1]) / 1024

folder, precision, threads, mode, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
before = status("VmHWM")
engine = Engine(folder, precision=precision, threads=threads)
opened = status("VmRSS")
if steps:
    engine.generate([{}] * (threads if mode == "throughput" else 1), steps=steps, mode=mode)
print(json.dumps({"before": before, "opened": opened, "peak": status("VmHWM"), "files": status("RssFile")}))
"""


def write_model(folder: Path, prediction: str) -> None:
    """A package of the paper's size with random weights."""
    import torch

    from gaitcrafter_rt.config import Conditioning, Diffusion, ModelConfig, paper_preset
    from gaitcrafter_rt.nn.unet import UNet3D
    from gaitcrafter_rt.package import write_package

    torch.manual_seed(0)
    config = ModelConfig(
        name="paper",
        unet=paper_preset(),
        conditioning=Conditioning(cond_dim=74, guidance_trained=True),
        diffusion=Diffusion(prediction=prediction),
    )
    write_package(folder, config, UNet3D(config).state_dict(), "# random weights for a benchmark\n")


def child(folder: Path, precision: str, threads: int, mode: str, steps: int, env: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-c", CHILD, str(folder), precision, str(threads), mode, str(steps)]
    out: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)
    return out


@click.command(help=__doc__)
@click.option("--predictions", default="eps,x0", show_default=True, help="eps-models make their first call in fp32.")
@click.option("--precisions", default="bf16,fp32", show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--no-cache", is_flag=True, help="Pack weights in memory.")
def main(predictions: str, precisions: str, threads: str, no_cache: bool) -> None:
    titles = f"{'model':8}{'precision':11}{'mode':12}{'threads':>8}{'opened MB':>11}{'peak MB':>9}{'of it files':>13}"
    click.echo(f"{titles}{'per thread':>12}")
    for prediction in predictions.split(","):
        with tempfile.TemporaryDirectory() as name:
            model, cache = Path(name, "model"), Path(name, "cache")
            cache.mkdir(mode=0o700)
            write_model(model, prediction)
            env = {**os.environ, "GAITCRAFTER_CACHE": "off" if no_cache else str(cache)}
            for precision in precisions.split(","):
                child(model, precision, 1, "latency", 0, env)  # writes the cache
                previous = None
                counts = [int(t) for t in threads.split(",")]
                for mode, count in [("throughput", t) for t in counts] + [("latency", counts[-1])]:
                    row = child(model, precision, count, mode, 2, env)
                    more = ""
                    if mode == "throughput" and previous:
                        more = f"+{(row['peak'] - previous[1]) / (count - previous[0]):.0f}"
                    previous = (count, row["peak"])
                    numbers = f"{count:8}{row['opened']:11.0f}{row['peak']:9.0f}{row['files']:13.0f}{more:>12}"
                    click.echo(f"{prediction:8}{precision:11}{mode:12}{numbers}")


if __name__ == "__main__":
    main()
