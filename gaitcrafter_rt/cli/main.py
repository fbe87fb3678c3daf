"""The command ``gaitcrafter-rt``: its group, its options and its exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from ..errors import GaitcrafterError, InternalError, OutOfMemoryError
from .common import print_error

# name -> (module, function, one line for the overview)
COMMANDS = {
    "demo": (".demo", "demo", "Generate a few clips with the model that ships and draw them."),
    "generate": (".generate", "generate", "Generate clips into a folder: a few, or a bulk job of any size."),
    "jobs": (".jobs", "jobs", "Show how far a bulk job is, finished or running."),
    "dataset": (".dataset", "dataset", "Verify, count, merge, pack and export the clips of bulk jobs."),
    "convert": (".convert", "convert", "Turn a checkpoint of the base network into a model package."),
    "train": (".train", "train", "Train a model on a packed training set."),
    "distill": (".distill", "distill", "Distil a model into students of a few network calls."),
    "export": (".export", "export", "Write a model in the form that another runtime takes."),
    "quantise": (".quantise", "quantise", "Calibrate a model for the int8 tier."),
    "eval": (".eval", "evaluate", "Measure a model against the data it was trained on."),
    "pack": (".pack", "pack", "Pack a tree of real silhouettes into a training set."),
    "walkers": (".walkers", "walkers", "Rendered walkers: a training set without captured people."),
    "inspect": (".inspect", "inspect", "Show what a model or a data tree holds and what is wrong with it."),
    "bench": (".bench", "bench", "Measure this machine."),
    "doctor": (".doctor", "doctor", "Check the installation and say what is missing."),
}
UNEXPECTED = "unexpected {kind}: {text}; please report it (GAITCRAFTER_TRACEBACK=1 shows where it came from)"


class LazyGroup(click.Group):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, function, _ = COMMANDS[cmd_name]
        return getattr(import_module(module, __package__), function)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            import difflib

            if near := difflib.get_close_matches(args[0], COMMANDS, 1):
                ctx.fail(f"No such command '{args[0]}'. Did you mean '{near[0]}'?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .. import __version__

        click.echo(f"gaitcrafter-rt {__version__}")
        ctx.exit()


def _cmake_dir(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from ..install import cmake_dir

        click.echo(str(cmake_dir()))
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version and leave.")
@click.option(
    "--cmake-dir", is_flag=True, expose_value=False, is_eager=True, callback=_cmake_dir,
    help="Print the folder for CMake's -Dgaitcrafter_DIR= and leave.",
)  # fmt: skip
def cli() -> None:
    """Synthetic gait silhouettes from a trained GaitCrafter model.

    \b
    gaitcrafter-rt demo out
    gaitcrafter-rt generate out --identities 001,002 --views 000,090 --covariates nm --format opengait
    gaitcrafter-rt generate train --identities all --views all --covariates all --n 1000000

    Every command takes --json for one JSON document on standard output; progress and messages go to standard error.
    docs/cli.md lists the commands, options and exit codes.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (docs/cli.md lists them). Errors are one line, or JSON with --json."""
    arguments = list(sys.argv[1:] if args is None else args)
    as_json = "--json" in arguments
    try:
        result = cli.main(arguments, prog_name="gaitcrafter-rt", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.ctx.get_help() if e.ctx else "", err=True)
        return e.exit_code
    except click.ClickException as e:
        usage = e.ctx.get_usage() if isinstance(e, click.UsageError) and e.ctx else ""
        hint = f" ({e.ctx.command_path} --help lists the options)" if usage and isinstance(e, click.UsageError) and e.ctx else ""
        return print_error("UsageError", 2, e.exit_code, e.format_message() + hint, as_json)
    except (click.Abort, KeyboardInterrupt):
        return print_error("Interrupted", 9, 130, "interrupted", as_json)
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does; nothing of ours is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except GaitcrafterError as e:
        return _report(e, as_json)
    except MemoryError:
        return _report(OutOfMemoryError("the memory for this request could not be had; ask for fewer clips or threads"), as_json)
    except Exception as e:
        if os.environ.get("GAITCRAFTER_TRACEBACK"):
            raise
        return _report(InternalError(UNEXPECTED.format(kind=type(e).__name__, text=e)), as_json)


def _report(error: GaitcrafterError, as_json: bool) -> int:
    if os.environ.get("GAITCRAFTER_TRACEBACK"):
        raise error
    return print_error(type(error).__name__, error.code, error.exit_code, str(error), as_json)
