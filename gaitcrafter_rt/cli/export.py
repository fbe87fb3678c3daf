"""``gaitcrafter-rt export``: a model in the form that another runtime takes."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from ..errors import InvalidRequestError
from ..models import resolve_model
from .common import FOLDER, human_bytes, json_option, note, print_json, progress, split_list


@click.group()
def export() -> None:
    """Write a model in the form that another runtime takes."""


@export.command()
@click.argument("model")
@click.argument("out", type=FOLDER)
@click.option("--precision", type=click.Choice(["bf16", "fp16", "fp32"]), default="bf16", show_default=True,
              help="Of activations and products; sums, norms and the sampler are fp32 in all.")  # fmt: skip
@click.option("--arch", "arch", multiple=True, default=["80,86,89,90,100,120,ptx"], show_default=True,
              help="Chips by compute capability, and ptx for later ones; commas or several options.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 256), default=None, help="Compiler processes.  [default: one per processor]")
@json_option
def kernels(model: str, out: Path, precision: str, arch: tuple[str, ...], jobs: int | None, as_json: bool) -> None:
    """Compile the GPU kernels of MODEL ahead of time into the folder OUT (extra gpu; no GPU is needed).

    \b
    gaitcrafter-rt export kernels walker walker-kernels --arch 90,ptx

    Then, with a GPU: Engine.from_pretrained("walker-kernels", device="cuda", backend="cubin"), or the C interface (docs/gpu.md).

    The folder holds programs for a GPU: take one from others only as you would take a program.
    """
    from ..export.kernel_pack import IMAGES, write_kernel_pack

    with progress("compiling", "kernels", show=not as_json) as update:
        manifest = write_kernel_pack(
            resolve_model(model), out, precision=precision, chips=split_list(arch), jobs=jobs or len(os.sched_getaffinity(0)),
            report=update,
        )  # fmt: skip
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if as_json:
        facts = {key: manifest[key] for key in ("model_sha256", "precision", "compiler", "arena_bytes", "weight_bytes", "images")}
        print_json({"folder": str(out), "bytes": size, "kernels": len(manifest["kernels"]), **facts})
    else:
        click.echo(str(out))
        note(f"{len(manifest['kernels'])} kernels for {len(manifest[IMAGES])} targets, {human_bytes(size)}", as_json)


@export.command()
@click.argument("model")
@click.argument("out", type=FOLDER)
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8", "fp8"]), default="fp32", show_default=True,
              help="Type of weights and activations; the graph's inputs and output are fp32 in all. int8 and fp8: of the 3x3 "
                   "convolutions, the rest is fp16 (extra modelopt).")  # fmt: skip
@click.option("--batch", default="dynamic", show_default=True, metavar="N|dynamic", help="Clips per call: 1 to 256, or any number.")
@click.option("--external-data", is_flag=True, help="Weights beside the graph, in model.onnx.data; above 1 GiB they always are.")
@click.option("--verify", is_flag=True, help="Then compare it with torch: one network call, and whole clips.")
@click.option("--clips", default=4, show_default=True, help="Clips of --verify, 1 to 256.")
@click.option("--calibration-clips", default=8, show_default=True, help="int8, fp8: clips whose values set the scales.")
@json_option
def onnx(
    model: str, out: Path, precision: str, batch: str, external_data: bool, verify: bool, clips: int, calibration_clips: int,
    as_json: bool,
) -> int:  # fmt: skip
    """Write MODEL as an ONNX graph into the new folder OUT (extras train and onnx).

    OUT holds the graph, the model's config and card, and export.json: checksums, inputs, the default sampler as a table. It is what
    Engine.from_pretrained(OUT, backend="onnxruntime") opens, in Python and C++. An eps-model in fp16 or bf16 gets a second graph in
    fp32 for its first steps.

    --verify runs the graph on ONNX Runtime (bf16: OpenVINO, extra openvino) beside torch in fp32, prints the largest difference and
    the share of equal pixels, and leaves with code 4 if they are beyond what the precision explains.

    \b
    gaitcrafter-rt export onnx walker walker-onnx --verify
    gaitcrafter-rt export onnx run/model model-fp16 --precision fp16 --batch 8
    """
    from ..export.onnx import export_folder
    from ..export.onnx.verify import verify_export

    source = resolve_model(model)
    folder = export_folder(source, out, precision, _batch(batch), external_data, calibration_clips)
    found = verify_export(folder, source, clips) if verify else None
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    if as_json:
        facts = None if found is None else {**asdict(found), "passed": found.passed}
        print_json({"folder": str(folder), "precision": precision, "batch": batch, "files": files, "verification": facts})
    else:
        click.echo(str(folder))
        note(f"{len(files)} files, {human_bytes(sum(files.values()))}", as_json)
        if found is not None:
            click.echo(
                f"{found.runtime} against torch fp32: largest difference {found.largest:.2e}, relative {found.relative:.2e}; "
                f"{found.agreement:.4%} of pixels equal in {found.clips} clips of {found.steps} steps: "
                f"{'passed' if found.passed else 'NOT within what ' + precision + ' explains'}"
            )
    return 0 if found is None or found.passed else 4


@export.command()
@click.argument("folder", type=FOLDER)
@click.option("--library", type=click.Choice(["tensorrt", "tensorrt_rtx"]), default="tensorrt", show_default=True,
              help="Which of the two products builds.")  # fmt: skip
@click.option("--arch", "arch", multiple=True, help="tensorrt_rtx: chips by compute capability, as in 89,120.")
@click.option("--device", type=click.IntRange(0, 255), default=0, show_default=True, help="tensorrt: the GPU by number.")
@click.option("--batch", "batch", multiple=True, metavar="N|MIN:OPT:MAX",
              help="Clips per call, an optimisation profile each.  [default: the graph's own, else 8]")  # fmt: skip
@click.option("--tf32", is_flag=True, help="Let fp32 products round their inputs to TF32.")
@click.option("--plugins", is_flag=True, help="tensorrt: norms of single images by the package's Triton kernels (extra gpu).")
@json_option
def tensorrt(
    folder: Path, library: str, arch: tuple[str, ...], device: int, batch: tuple[str, ...], tf32: bool, plugins: bool, as_json: bool
) -> None:
    """Build TensorRT engines of the ONNX export FOLDER into this user's engine cache (extra tensorrt or tensorrt-rtx).

    \b
    gaitcrafter-rt export onnx walker walker-fp16 --precision fp16
    gaitcrafter-rt export tensorrt walker-fp16 --batch 8
    gaitcrafter-rt export tensorrt walker-fp16 --library tensorrt_rtx --arch 89,120

    tensorrt builds for a GPU of this machine; Engine.from_pretrained(FOLDER, device="cuda", backend="tensorrt") then finds the
    engine, and would build it itself. tensorrt_rtx builds for the chips that are named, without a GPU.

    An engine is machine code: it is kept in a folder that you alone may read, and none is ever taken from elsewhere.
    """
    from ..export.tensorrt import build_engines
    from ..export.tensorrt.build import Flags

    chips = [_chip(text) for text in split_list(arch)]
    built = build_engines(
        folder, library=library, chips=chips, device=device, batches=split_list(batch), flags=Flags(tf32=tf32, plugins=plugins)
    )
    rows = [
        {"path": None if b.path is None else str(b.path), "bytes": len(b.engine), "found": b.found, "key": b.key} for b in built
    ]
    if as_json:
        print_json({"folder": str(folder), "engines": rows})
        return
    for b in built:
        what = "found" if b.found else "built"
        click.echo(f"{b.path or 'not kept (GAITCRAFTER_CACHE=off)'}")
        note(f"{what}: {b.key['library']}, {b.key['gpu']}, {b.key['precision']}, {human_bytes(len(b.engine))}", as_json)


def _chip(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 3:
        raise InvalidRequestError(f"--arch is {text!r:.80}; chips are compute capabilities without the point, as in 89,120")
    return int(text)


def _batch(text: str) -> int | None:
    if text == "dynamic":
        return None
    if not text.isascii() or not text.isdigit():
        raise InvalidRequestError(f"--batch is {text!r:.80}; it is a number from 1 to 256, or dynamic")
    return int(text)
