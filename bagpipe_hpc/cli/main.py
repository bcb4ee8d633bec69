"""Entry point of the `bagpipe` command. Commands import what they need when they run, so that --help is quick."""

from __future__ import annotations

import io
import sys

import typer

from bagpipe_hpc.cli import bench, checkpoint, data, jobs
from bagpipe_hpc.cli.doctor import doctor
from bagpipe_hpc.cli.evaluate import evaluate, predict
from bagpipe_hpc.cli.report import report
from bagpipe_hpc.cli.train import train
from bagpipe_hpc.errors import BagpipeError

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


def main() -> None:
    """Run the command; what is the user's to mend becomes one line and exit code 2."""
    _make_output_safe()
    try:
        app()
    except BagpipeError as error:
        print(f"bagpipe: error: {error}", file=sys.stderr)
        sys.exit(2)


def _make_output_safe() -> None:
    """Print whatever users name: file names need not be UTF-8, and terminals may know ASCII only (LC_ALL=C)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook, or a test, has streams of its own
            stream.reconfigure(errors="backslashreplace")
