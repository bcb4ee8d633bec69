"""Entry point of the `bagpipe` command. Each command imports its modules only when it runs, so --help stays fast."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated, Any

import typer

from bagpipe_hpc.cli import bench, checkpoint, data, jobs
from bagpipe_hpc.cli.doctor import doctor
from bagpipe_hpc.cli.evaluate import evaluate, predict
from bagpipe_hpc.cli.plan import plan
from bagpipe_hpc.cli.report import report
from bagpipe_hpc.cli.simulate import simulate
from bagpipe_hpc.cli.train import train
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.exit_codes import EXIT_FAILURE, EXIT_INVALID, exit_code_of
from bagpipe_hpc.launcher import await_first_rank
from bagpipe_hpc.log import printing_records
from bagpipe_hpc.version import __version__

app = typer.Typer(
    name="bagpipe",
    help="Train deep recommendation models on HPC clusters with lookahead caching of embedding rows.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"max_content_width": 100},
    rich_markup_mode=None,  # plain text: rich would turn `:m:` into an emoji and drop [brackets]
)
app.command()(train)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(report)
app.command()(simulate)
app.command()(plan)
app.add_typer(data.app)
app.add_typer(checkpoint.app, name="checkpoint")
app.command("export")(checkpoint.export_command)
app.add_typer(bench.app, name="bench")
app.add_typer(jobs.app, name="jobs")
app.command()(doctor)


_UsageError: Any = typer.BadParameter.__mro__[2]  # the base class of usage errors, in click or in typer's copy of click


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
    """Run the command. Print an error that the user can fix as one line, and exit with the code of its kind."""
    _make_output_safe()
    try:
        with printing_records():
            code = app(standalone_mode=False)
    except BagpipeError as error:
        print(f"bagpipe: error: {error}", file=sys.stderr)
        sys.exit(exit_code_of(error))
    except typer.Abort:
        print("Aborted!", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except _UsageError as error:
        # All ranks of a launch fail in the same way. Let rank 0 print first: the launcher then ends the others.
        await_first_rank(os.environ)
        error.message = error.message.removeprefix("Value error, ")  # pydantic's prefix
        error.show()
        sys.exit(EXIT_INVALID)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has exited. Python must not complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILURE)
    except MemoryError as error:
        fault = f"out of memory{f': {error}' if str(error) else ''}; ask for less, or take a machine with more memory"
        print(f"bagpipe: error: {fault}", file=sys.stderr)
        sys.exit(EXIT_FAILURE)
    except OSError as error:
        # Commands report the files that they cannot read or write. What arrives here are paths that the system refuses
        # everywhere: names that are too long, directories that the user may not search.
        if error.filename is None:
            raise
        fault = f"{error.filename}: {error.strerror}; check the path and its permissions"
        print(f"bagpipe: error: {fault}", file=sys.stderr)
        sys.exit(EXIT_INVALID)
    sys.exit(code if isinstance(code, int) else 0)


def _make_output_safe() -> None:
    """Make prints never fail: file names may be no UTF-8, and terminals may know only ASCII (LC_ALL=C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # notebooks and tests replace the streams by others
            stream.reconfigure(errors="backslashreplace")
