"""Commands that measure: `bench oracle`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure parts of the system on this machine or cluster.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Keeps the name of a command needed, also while there is only one."""


@app.command()
def oracle(
    profile: Annotated[str, typer.Option(help="Synthetic data: criteo-kaggle, criteo-terabyte or avazu.")] = (
        "criteo-kaggle"
    ),
    scale: Annotated[float, typer.Option(help="Factor on the profile's cardinalities.")] = 1.0,
    data: Annotated[Path | None, typer.Option(help="A data set instead of a synthetic one.")] = None,
    batch: Annotated[int, typer.Option(help="B: samples of a global batch.")] = 16384,
    lookahead: Annotated[int, typer.Option(help="L: lookahead window.")] = 200,
    prefetch_depth: Annotated[int, typer.Option(help="P: iterations ahead that rows travel.")] = 4,
    trainers: Annotated[int, typer.Option(help="T.")] = 8,
    servers: Annotated[int, typer.Option(help="S.")] = 2,
    threads: Annotated[int, typer.Option(help="Cores of the oracle: oracle.threads.")] = 1,
    placement: Annotated[str, typer.Option(help="contiguous or locality: oracle.placement.")] = "contiguous",
    cache_rows: Annotated[int | None, typer.Option(help="Slots per trainer; default: no limit.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds of timing, each beside the yardstick.")] = 5,
    plans: Annotated[int, typer.Option(help="Plans timed in a round.")] = 20,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures.")] = None,
) -> None:
    """Samples per second that one oracle plans, from shards to messages, beside numpy.unique per table.

    Needs no ranks. Synthetic data goes to the directory for temporary files and is deleted again.
    """
    from bagpipe_hpc.bench.oracle import OracleCase, measure_oracle
    from bagpipe_hpc.roles.console import open_console

    case = OracleCase(
        profile, scale, data, batch, lookahead, prefetch_depth, trainers, servers, threads, placement, cache_rows,
        rounds, plans,
    )  # fmt: skip
    figures = measure_oracle(case)
    open_console().print(figures.table())
    if json_file:
        json_file.write_text(json.dumps(figures.to_json(), indent=2) + "\n", encoding="utf-8")
