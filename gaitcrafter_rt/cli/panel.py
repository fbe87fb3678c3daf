"""``gaitcrafter-rt eval train-recogniser``, ``eval recogniser`` and ``eval panel``."""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..errors import InvalidRequestError
from .common import FOLDER, SAMPLERS, json_option, note, print_json, printable, progress

SPACINGS = ("trailing", "leading", "linspace")
DEFAULT_SWEEP = (
    *(f"ddim:{n}" for n in (100, 50, 20, 12, 8, 4)),
    *(f"{kind}:{n}" for kind in ("dpmpp_2m", "dpmpp_3m", "unipc") for n in (20, 12, 8, 6, 4)),
)
# Of the eight-step UniPC.
DEFAULT_VARIANTS = ("1", "1.5", "2.5", "3", "leading", "linspace")


@click.command(name="train-recogniser")
@click.argument("data", type=FOLDER)
@click.argument("out", type=FOLDER)
@click.option("--kind", type=click.Choice(["set", "temporal"]), default="set", show_default=True, help="Kind of network.")
@click.option("--steps", default=1000, show_default=True, help="Batches of --people times --clips clips.")
@click.option("--people", default=8, show_default=True, help="Identities of a batch (P).")
@click.option("--clips", default=8, show_default=True, help="Clips of each (K).")
@click.option("--frames", type=int, help="Frames of a clip that a step sees.  [default: 10 of a set, 18 in order]")
@click.option("--width", default=16, show_default=True, help="Channels of the first layer.")
@click.option("--embedding", default=64, show_default=True, help="Numbers per part of the body.")
@click.option("--learning-rate", default=1e-3, show_default=True, help="Highest rate of the one-cycle schedule.")
@click.option("--seed", default=0, show_default=True, help="Of weights and batches.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True, help="Of its convolutions.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@json_option
def train_recogniser(data: Path, out: Path, device: str, as_json: bool, **options: Any) -> None:
    """Train a gait recogniser on the packed set DATA and write it to the new folder OUT (extra: train).

    A recogniser judges clips of people that it has never seen, so train it on others than the model's. "set" looks at frames one
    by one, "temporal" convolves over time; the panel wants one of each.

    \b
    gaitcrafter-rt walkers render judges48 --first-identity 48
    gaitcrafter-rt eval train-recogniser judges48 judge-set
    gaitcrafter-rt eval train-recogniser judges48 judge-temporal --kind temporal
    """
    from ..data.packed import PackedClips
    from ..judges import JudgeSettings, train_judge

    options["frames"] = options["frames"] or (10 if options["kind"] == "set" else 18)
    settings = JudgeSettings.checked(**options)
    last = {"loss": 0.0, "right": 0.0}
    with progress("training", "steps", show=not as_json) as update:

        def tell(step: int, of: int, loss: float, right: float) -> None:
            last.update(loss=loss, right=right)
            update(step, of)

        command = shlex.join(["gaitcrafter-rt", *sys.argv[1:]])
        train_judge(PackedClips.open(data), out, settings, device=device, progress=tell, command=command)
    if as_json:
        print_json({"judge": str(out), **last})
    else:
        click.echo(printable(f"{out}: last batch loss {last['loss']:.3f}, {last['right']:.0%} of its clips right"))


@click.command()
@click.argument("judge", type=FOLDER)
@click.option("--data", required=True, type=FOLDER, help="Packed set of people that the recogniser has not seen.")
@json_option
def recogniser(judge: Path, data: Path, as_json: bool) -> None:
    """Rank-1 of a recogniser by the CASIA-B protocol on the packed set --data, all its recordings (extra: train).

    Gallery: the first four recordings of normal walking, or all but one; probes: everything else. Per covariate the mean over probe
    views of the mean over the other gallery views, and the same view beside it.

    \b
    gaitcrafter-rt eval recogniser judge-set --data other48
    """
    import numpy as np

    from ..data.packed import PackedClips
    from ..evaluate.clipset import ClipSet
    from ..judges import Judge
    from ..judges.protocol import cross_view_mean, rank1_table, same_view_mean, split_gallery

    opened, packed = Judge.open(judge), PackedClips.open(data)
    if not packed.labels.covariate:
        raise InvalidRequestError(f"{data} has no covariates; the protocol compares them with normal walking")
    opened.refuse_acquaintances(packed.meta.clips_sha256, list(packed.labels.identity))
    parts = [ClipSet.from_packed(packed, split) for split in (0, 1)]
    columns = {a: np.concatenate([getattr(p, a) for p in parts]) for a in ("identity", "view", "covariate", "sequence")}
    embeddings = np.concatenate([opened.embed_set(p) for p in parts if len(p)])
    normal = packed.labels.covariate.index("nm") if "nm" in packed.labels.covariate else 0
    gallery = split_gallery(columns["identity"], columns["covariate"], columns["sequence"], normal)
    tables = rank1_table(embeddings, columns["identity"], columns["view"], columns["covariate"], gallery)
    names = packed.labels.covariate
    rows = {names[c]: {"cross_view": cross_view_mean(t), "same_view": same_view_mean(t)} for c, t in tables.items()}
    people = len(np.unique(columns["identity"]))
    if as_json:
        print_json({"judge": opened.name, "people": people, "source": packed.meta.source, "rank1": rows})
        return
    click.echo(f"{opened.name} on {people} {packed.meta.source} people it has not seen; chance {1 / people:.1%}")
    for name, row in rows.items():
        click.echo(printable(f"  {name}: rank-1 {row['cross_view']:.1%} across views, {row['same_view']:.1%} in the same view"))


@click.command()
@click.argument("model")
@click.option("--data", required=True, type=FOLDER, help="Packed set that the model was trained on, with held-out recordings.")
@click.option("--judge", "judges", required=True, multiple=True, type=FOLDER, help="Recogniser of other people. Repeatable.")
@click.option("--n", "count", default=2048, show_default=True, help="Clips of every generated column.")
@click.option("--fast-model", help="Model of the fast column.  [default: MODEL]")
@click.option("--teacher", default="ddim:100", show_default=True, metavar="KIND:STEPS[:GUIDANCE]", help="Sampler of the teacher.")
@click.option("--fast", metavar="KIND:STEPS[:GUIDANCE]", help="Sampler of the fast column.  [default: its model's]")
@click.option("--precision", default="auto", show_default=True, help="Of the fast column.")
@click.option("--teacher-precision", default="auto", show_default=True, help="Of teacher and floor.")
@click.option("--seed", default=0, show_default=True, help="Of the clips; the floor takes the next one.")
@click.option("--workers", default=1, show_default=True, help="Processes that generate.")
@click.option("--made", type=FOLDER, help="Teacher and floor that were made elsewhere, as on a GPU.")
@click.option("--cache", type=FOLDER, help="Where clips and classifiers are kept.  [default: ~/.cache/gaitcrafter-rt/evaluate]")
@click.option("--out", type=FOLDER, help="Also write the report as JSON to this new file.")
@json_option
def panel(model: str, data: Path, judges: tuple[Path, ...], out: Path | None, as_json: bool, **options: Any) -> None:
    """Is the fast column as good as its teacher? Gates, verdicts and broken controls (extras: train, bulk).

    Columns: held-out recordings of DATA, MODEL with the teacher's sampler, the fast one, and the noise floor, which is the teacher
    with another seed. Generated clips are kept in the cache and go on where an interrupted run stopped.

    \b
    gaitcrafter-rt eval panel walker --data walkers48 --judge judge-set --judge judge-temporal --fast unipc:8
    """
    from ..data.packed import PackedClips
    from ..evaluate.classifier import default_cache
    from ..files import new_file, refuse_existing_file
    from ..judges import Judge
    from ..panel import PanelClips, render_markdown, run_panel
    from ..panel.clips import obtain

    if out is not None:
        refuse_existing_file(out)
    packed = PackedClips.open(data)
    opened = [Judge.open(judge) for judge in judges]
    cache = options["cache"] or default_cache()
    teacher, fast = sampler_from(options["teacher"], "--teacher"), sampler_from(options["fast"], "--fast")
    columns = {}
    for name, source, settings, seed, precision in (
        ("teacher", model, teacher, options["seed"], options["teacher_precision"]),
        ("floor", model, teacher, options["seed"] + 1, options["teacher_precision"]),
        ("fast", options["fast_model"] or model, fast, options["seed"], options["precision"]),
    ):
        note(f"{name}: generating", as_json)
        with progress(name, "clips", show=not as_json) as update:
            columns[name] = obtain(
                source, packed.labels, options["count"], cache / "panel", seed=seed, precision=precision,
                workers=options["workers"], made=None if name == "fast" else options["made"], progress=update, **settings,
            )  # fmt: skip
    same_run = teacher == fast and not options["fast_model"]
    clips = PanelClips(columns["teacher"], columns["fast"], columns["floor"], same_run)
    report = run_panel(clips, packed, opened, cache=cache, seed=options["seed"])
    report |= {"engine": _engine(options["fast_model"] or model, options["precision"])}
    report |= {"command": shlex.join(["gaitcrafter-rt", *sys.argv[1:]]), **_made_on(options["made"])}
    if out is not None:
        with new_file(out) as f:
            f.write((json.dumps(report, indent=1) + "\n").encode())
    if as_json:
        print_json(report)
    else:
        click.echo(printable(render_markdown(report)), nl=False)


def _engine(model: str, precision: str) -> dict[str, str]:
    """What computed the columns that were not made elsewhere, for the report."""
    from ..bulk.machine import open_engine

    engine = open_engine(model, None, precision=precision, threads=1)
    kept = {name: str(engine.info[name]) for name in ("isa", "precision", "model_sha256")}
    engine.close()
    return kept


def _made_on(folder: Path | None) -> dict[str, str]:
    """Where columns of ``--made`` come from, for the report."""
    if folder is None:
        return {}
    from ..panel.made import read_made

    return {"made_on": read_made(folder).made_on}


@click.command()
@click.argument("model")
@click.option("--data", required=True, type=FOLDER, help="Packed set that the model was trained on, with held-out recordings.")
@click.option("--judge", "judges", required=True, multiple=True, type=FOLDER, help="Recogniser of other people. Repeatable.")
@click.option("--n", "count", default=512, show_default=True, help="Clips of every generated column.")
@click.option("--fast-model", help="Model of the other samplers.  [default: MODEL]")
@click.option("--teacher", default="ddpm:1000", show_default=True, metavar="KIND:STEPS[:GUIDANCE]", help="Sampler of the teacher.")
@click.option(
    "--try", "tried", multiple=True, metavar="KIND:STEPS[:GUIDANCE][:SPACING][:eta=X]",
    help="Another one, repeatable.  [default: a list]",
)  # fmt: skip
@click.option("--precision", default="auto", show_default=True, help="Of all columns.")
@click.option("--seed", default=0, show_default=True, help="Of the clips; the noise floor takes the next one.")
@click.option("--workers", default=1, show_default=True, help="Processes that generate.")
@click.option("--made", type=FOLDER, help="Columns that were made elsewhere, as on a GPU (docs/quality.md).")
@click.option("--cache", type=FOLDER, help="Where clips and classifiers are kept.  [default: ~/.cache/gaitcrafter-rt/evaluate]")
@click.option("--out", type=FOLDER, help="Also write the report as JSON to this new file.")
@click.option("--plot", type=FOLDER, help="Also draw it to this PNG or SVG (extra: plots).")
@json_option
def steps(
    model: str, data: Path, judges: tuple[Path, ...], out: Path | None, plot: Path | None, as_json: bool, **options: Any
) -> None:
    """Steps against quality: samplers of MODEL beside its slow teacher, a row of verdicts each (extras: train, bulk).

    Generated clips are kept in the cache, the thousand-step ones above all, and go on where an interrupted run stopped.

    \b
    gaitcrafter-rt eval steps walker --data walkers48 --judge judge-set --judge judge-temporal --n 512 --plot steps.png
    gaitcrafter-rt eval steps walker --fast-model walker-fast --try ddim:3 --try unipc:3 --data walkers48 --judge judge-set
    """
    from ..data.packed import PackedClips
    from ..evaluate.classifier import default_cache
    from ..files import new_file, refuse_existing_file
    from ..judges import Judge
    from ..panel.clips import network_calls, obtain
    from ..panel.sweep import Candidate, render_markdown, run_sweep

    if out is not None:
        refuse_existing_file(out)
    packed, opened = PackedClips.open(data), [Judge.open(judge) for judge in judges]
    cache = options["cache"] or default_cache()
    default = (*DEFAULT_SWEEP, *(f"unipc:8:{variant}" for variant in DEFAULT_VARIANTS))
    tried = {text: sampler_from(text, "--try") for text in options["tried"] or default}
    fast_model = options["fast_model"] or model

    def column(name: str, settings: dict[str, Any], seed: int, source: str = fast_model) -> Any:
        note(f"{name}: generating", as_json)
        with progress(name, "clips", show=not as_json) as update:
            return obtain(
                source, packed.labels, options["count"], cache / "panel", seed=seed, precision=options["precision"],
                workers=options["workers"], made=options["made"], progress=update, **settings,
            )  # fmt: skip

    teacher = sampler_from(options["teacher"], "--teacher")
    slow = column("teacher", teacher, options["seed"], model)
    floor = column("another seed", teacher, options["seed"] + 1, model)
    candidates = [
        Candidate(name, network_calls(fast_model, **settings), partial(column, name, settings, options["seed"]))
        for name, settings in tried.items()
    ]
    report = run_sweep(slow, floor, candidates, packed, opened, cache=cache, seed=options["seed"])
    command = shlex.join(["gaitcrafter-rt", *sys.argv[1:]])
    report |= {"teacher_sampler": options["teacher"], "engine": _engine(fast_model, options["precision"]), "command": command}
    report |= _made_on(options["made"])
    if out is not None:
        with new_file(out) as f:
            f.write((json.dumps(report, indent=1) + "\n").encode())
    if plot is not None:
        from ..panel.plot import draw

        draw(report, plot)
    if as_json:
        print_json(report)
    else:
        click.echo(printable(render_markdown(report)), nl=False)


def sampler_from(text: str | None, option: str) -> dict[str, Any]:
    """``ddim:20:2.5`` as arguments of ``Engine.generate``; {} for None. Raises InvalidRequestError.

    KIND:STEPS, then in any order a guidance scale, a spacing, and ``eta=X``.
    """
    if text is None:
        return {}
    kind, *parts = text.split(":")
    try:
        if kind not in SAMPLERS or not parts:
            raise ValueError
        found: dict[str, Any] = {"sampler": kind, "steps": int(parts[0])}
        for part in parts[1:]:
            name = "spacing" if part in SPACINGS else "eta" if part.startswith("eta=") else "guidance"
            if name in found:
                raise ValueError
            found[name] = part if name == "spacing" else float(part.removeprefix("eta="))
    except ValueError:
        raise InvalidRequestError(
            f"{option} is {text!r}; it must be KIND:STEPS or KIND:STEPS:GUIDANCE with KIND of {', '.join(SAMPLERS)}, as unipc:8:2; "
            f"a spacing ({', '.join(SPACINGS)}) and eta=X may follow"
        ) from None
    return found
