"""One network call of one clip on one thread: the native engine in its precisions against ONNX Runtime fp32, interleaved.

    python benchmarks/forward.py [--preset paper|walker] [--rounds N] [--isa NAME] [--csv FILE]

Each contender lives in a process of its own and reports CPU seconds of that process (so other load on the machine does not
count) and its peak resident memory, which includes Python and the loaded weights. Both outputs are compared before anything
is timed with the torch network's: in double for the walker preset, in fp32 for the paper's size, where double alone takes a
minute (--double asks for it). Not timed: loading, packing weights, FiLM tables and conditions, which a run computes
once; ONNX Runtime computes them in every call, at well under 0.1 % of its work. Weights are random. Needs the extras train
and onnx, and tests/native/_gc_test.
"""

from __future__ import annotations

import csv
import importlib
import multiprocessing as mp
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TIMESTEP = 417
# fp32 against fp32, both with their own order of sums; bf16 as tests/native/test_network_bf16.py finds it on random weights.
TOLERANCES = {"native bf16": 2e-2}
TOLERANCE = 2e-5

Run = Callable[[np.ndarray], np.ndarray]


def native_module() -> Any:
    sys.path[:0] = [p for p in (os.environ.get("GAITCRAFTER_TEST_MODULE"), str(ROOT / "tests" / "native")) if p]
    return importlib.import_module("_gc_test")


def native(precision: str) -> Callable[[Path, str], Run]:
    def load(folder: Path, isa: str) -> Run:
        unet = native_module().UNet(str(folder / "model"), isa, precision)
        return lambda x: unet.forward(x, TIMESTEP)

    return load


def onnx_runtime(folder: Path, _isa: str) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = dict(np.load(folder / "conditions.npz"))
    feeds["t"] = np.array([TIMESTEP])
    return lambda x: session.run(None, feeds | {"x": x[None]})[0][0]


CONTENDERS: dict[str, Callable[[Path, str], Run]] = {
    **{f"native {p}": native(p) for p in ("fp32", "fp32-winograd", "bf16")}, "onnxruntime": onnx_runtime,
}  # fmt: skip


def peak_mb() -> float:
    """Peak resident memory of this process; ru_maxrss would count the parent it was started from."""
    line = next(li for li in Path("/proc/self/status").read_text().splitlines() if li.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def serve(name: str, folder: Path, isa: str, x: np.ndarray, pipe: Connection) -> None:
    """Child: answers "output" with the result, "time" with CPU seconds of one call, "memory" with peak MB."""
    run = CONTENDERS[name](folder, isa)
    while (request := pipe.recv()) != "end":
        if request == "output":
            pipe.send(run(x))
        elif request == "memory":
            pipe.send(peak_mb())
        else:
            begin = time.process_time()
            run(x)
            pipe.send(time.process_time() - begin)


def prepare(preset: str, folder: Path) -> tuple[np.ndarray, Any]:
    """A model package with random weights, its ONNX graph, null conditions; returns an input clip and the torch network."""
    import torch

    from gaitcrafter_rt.config import Conditioning, Labels, ModelConfig, paper_preset, walker_preset
    from gaitcrafter_rt.export.onnx import export_onnx
    from gaitcrafter_rt.nn.unet import UNet3D
    from gaitcrafter_rt.package import write_package

    torch.manual_seed(0)
    if preset == "paper":
        config = ModelConfig(name="paper", unet=paper_preset(), conditioning=Conditioning(cond_dim=74))
    else:
        labels = Labels(identity=["a", "b"], view=["000", "090"], covariate=["nm", "cl"])
        wiring = Conditioning(identity="block_table", view="block_table", covariate="block_table")
        config = ModelConfig(name="walker", unet=walker_preset(), conditioning=wiring, labels=labels)
    model = UNet3D(config).eval()
    write_package(folder / "model", config, model.state_dict(), "# random weights for a benchmark\n")
    inputs = export_onnx(model, folder / "model.onnx", opset=20)
    if model.null_cond is not None:
        inputs["cond"] = model.null_cond.detach()[None]
    np.savez(folder / "conditions.npz", **{k: v.numpy() for k, v in inputs.items() if k not in ("x", "t")})
    return torch.randn(inputs["x"].shape[1:]).numpy(), model


def torch_output(model: Any, x: np.ndarray, double: bool) -> np.ndarray:
    import torch

    dtype = torch.float64 if double else torch.float32
    with torch.no_grad():
        return np.asarray(model.to(dtype)(torch.from_numpy(x)[None].to(dtype), torch.tensor([TIMESTEP]))[0].numpy())


def error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def machine() -> str:
    names = [li.split(":")[1].strip() for li in Path("/proc/cpuinfo").read_text().splitlines() if li.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    out = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return out.stdout.strip()


@click.command(help=__doc__)
@click.option("--preset", type=click.Choice(["paper", "walker"]), default="paper")
@click.option("--rounds", type=click.IntRange(1), help="Timed calls of each; default 3 for paper, 30 for walker.")
@click.option("--isa", type=click.Choice(["portable", "avx2", "avx512"]), help="Default: the widest of this processor.")
@click.option("--double", is_flag=True, help="Compare with the torch network in double at the paper's size too.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Append one row per contender.")
def main(preset: str, rounds: int | None, isa: str | None, double: bool, csv_path: Path | None) -> None:
    module = native_module()
    isa = isa or next(i for i in ("avx512", "avx2", "portable") if module.isa_supported(i))
    rounds = rounds or (3 if preset == "paper" else 30)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x, model = prepare(preset, folder)
        flops = module.UNet(str(folder / "model"), isa).flops
        double = double or preset == "walker"
        reference = torch_output(model, x, double)
        rows = measure(folder, isa, x, reference, rounds)
    from gaitcrafter_rt import _native

    limit = _native.processor_rate("fp32", isa) / 1e9
    for row in rows:
        rate = flops / row["median"] / 1e9
        row |= {"preset": preset, "isa": isa, "gflops": rate, "limit": limit, "machine": machine(), "commit": commit()}
    report(rows, flops, rounds, f"the torch network in {'double' if double else 'fp32'}")
    if csv_path:
        append_csv(csv_path, rows)


def report(rows: list[dict[str, Any]], flops: float, rounds: int, judge: str) -> None:
    first = rows[0]
    click.echo(f"\n{first['preset']}, {flops / 1e9:.1f} GFLOP a call, {first['isa']}, one thread")
    click.echo(f"{first['machine']}; FMA limit {first['limit']:.0f} GFLOP/s; commit {first['commit']}")
    click.echo(f"{rounds} interleaved rounds, CPU seconds; error: relative L2 against {judge}")
    click.echo("GFLOP/s counts the plain network's operations; fp32-winograd runs fewer\n")
    click.echo(f"{'':22}{'median s':>10}{'min':>9}{'max':>9}{'GFLOP/s':>9}{'of FMA':>9}{'peak MB':>9}{'error':>11}")
    for r in rows:
        click.echo(
            f"{r['name']:22}{r['median']:10.4f}{r['min']:9.4f}{r['max']:9.4f}{r['gflops']:9.1f}"
            f"{r['gflops'] / r['limit']:9.0%}{r['peak_mb']:9.0f}{r['error']:11.2e}"
        )


def append_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, fieldnames=list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)


def measure(folder: Path, isa: str, x: np.ndarray, reference: np.ndarray, rounds: int) -> list[dict[str, Any]]:
    """Correctness first, then `rounds` interleaved calls of every contender. Exits if an output is wrong."""
    context = mp.get_context("spawn")
    pipes: dict[str, Connection] = {}
    names = [n for n in CONTENDERS if not n.startswith("native ") or native_module().precision_supported(n.split()[1], isa)]
    for name in names:
        pipes[name], child = context.Pipe()
        context.Process(target=serve, args=(name, folder, isa, x, child), daemon=True).start()

    def ask(name: str, request: str) -> Any:
        pipes[name].send(request)
        return pipes[name].recv()

    outputs = {name: ask(name, "output") for name in names}
    errors = {}
    for name, out in outputs.items():
        errors[name] = error(out, reference)
        bound = TOLERANCES.get(name, TOLERANCE)
        if not errors[name] < bound:
            sys.exit(f"{name}: relative error {errors[name]:.2e} is above {bound:.0e}; nothing was timed")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            times[name].append(ask(name, "time"))
    rows: list[dict[str, Any]] = []
    for name, t in times.items():
        row = {"name": name, "median": statistics.median(t), "min": min(t), "max": max(t)}
        rows.append(row | {"peak_mb": ask(name, "memory"), "error": errors[name]})
    for pipe in pipes.values():
        pipe.send("end")
    return rows


if __name__ == "__main__":
    main()
