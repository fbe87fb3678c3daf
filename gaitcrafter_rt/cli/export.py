"""``gaitcrafter-rt export``: a model in the form that another runtime takes."""

from __future__ import annotations

import os
from pathlib import Path

import click

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
    gaitcrafter-rt generate clips --model walker-kernels --device cuda ...

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
