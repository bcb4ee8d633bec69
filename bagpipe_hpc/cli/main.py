"""Entry point of the `bagpipe` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer

from bagpipe_hpc.cli import bench, checkpoint, data, jobs
from bagpipe_hpc.cli.doctor import doctor
from bagpipe_hpc.cli.evaluate import evaluate, predict
from bagpipe_hpc.cli.report import report
from bagpipe_hpc.cli.train import train
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.exit_codes import EXIT_FAILURE, EXIT_INVALID, exit_code_of
from bagpipe_hpc.launcher import await_first_rank
from bagpipe_hpc.version import __version__

app = typer.Typer(
    name="bagpipe",
    help="Train deep recommendation models on HPC clusters with lookahead caching of embedding rows.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
    rich_markup_mode=None,  # plain text: rich makes pictures of `:m:` and swallows [brackets]
)
app.command()(train)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(report)
app.add_typer(data.app)
app.add_typer(checkpoint.app, name="checkpoint")
app.command("export")(checkpoint.export_command)
app.add_typer(bench.app, name="bench")
app.add_typer(jobs.app, name="jobs")
app.command()(doctor)


_UsageError: Any = typer.BadParameter.__mro__[2]  # the base of all; it is click's, or typer's copy of click


def _show_version(is_asked_for: bool) -> None:
    if is_asked_for:
        print(f"bagpipe_hpc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train deep recommendation models on HPC clusters with lookahead caching of embedding rows."""


def main() -> None:
    """Run the command; an error that the user can mend becomes one line, and the exit code says of what kind it is."""
    _make_output_safe()
    try:
        code = app(standalone_mode=False)
    except BagpipeError as error:
        print(f"bagpipe: error: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))
    except typer.Abort:
        print("Aborted!", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except _UsageError as error:
        # The same on every rank of a launch: the first one says it.
        await_first_rank(os.environ)
        error.show()
        sys.exit(EXIT_INVALID)
    except BrokenPipeError:
        # Whoever read the output, such as `head`, has seen enough. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        # Commands name what they cannot read or write. This is for paths that are refused wherever they are looked at:
        # names that are too long, directories that may not be searched.
        if error.filename is None:
            raise
        fault = f"{error.filename}: {error.strerror}; check the path and its permissions"
        print(f"bagpipe: error: {fault}", file=sys.stderr)
        sys.exit(EXIT_INVALID)
    sys.exit(code if isinstance(code, int) else 0)


def _make_output_safe() -> None:
    """Print whatever users name: file names need not be UTF-8, and terminals may know ASCII only (LC_ALL=C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook, or a test, has streams of its own
            stream.reconfigure(errors="backslashreplace")
