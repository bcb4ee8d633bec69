"""Commands that measure: `bench rma`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bagpipe_hpc.bench.rma_traffic import RmaTraffic, parse_transports
from bagpipe_hpc.errors import BagpipeError

EXIT_INVALID = 2

app = typer.Typer(help="Measure parts of the system on this machine or cluster.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Keeps the name of a command needed, also while there is only one."""


@app.command()
def rma(
    servers: Annotated[
        int, typer.Option(help="Embedding servers: the first ranks. The rest are trainers.")
    ] = RmaTraffic.servers,
    rows: Annotated[int, typer.Option(help="Rows that a trainer moves in one iteration.")] = RmaTraffic.rows,
    dim: Annotated[int, typer.Option(help="float32 columns of a row.")] = RmaTraffic.dim,
    table_rows: Annotated[int, typer.Option(help="Rows of the table that they come from.")] = RmaTraffic.table_rows,
    iterations: Annotated[int, typer.Option(help="Iterations of a timed pass.")] = RmaTraffic.iterations,
    warm_up: Annotated[int, typer.Option(help="Iterations of the first, untimed pass.")] = RmaTraffic.warm_up,
    rounds: Annotated[
        int, typer.Option(help="Times that all passes take turns; medians are shown.")
    ] = RmaTraffic.rounds,
    prefetch_depth: Annotated[
        int, typer.Option(help="P: iterations that servers run ahead.")
    ] = RmaTraffic.prefetch_depth,
    transport: Annotated[str, typer.Option(help="Which to measure, separated by commas.")] = "staged,direct,per-row",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures.")] = None,
) -> None:
    """Rows per second between servers and trainers, beside one bare MPI_Get of the same bytes and a copy in memory.

    Start it on all ranks: mpirun -n 2 bagpipe bench rma
    """
    from mpi4py import MPI  # starts MPI: from here on a rank that fails must take the others with it

    from bagpipe_hpc.roles.failure import whole_job_fails_together

    world = MPI.COMM_WORLD
    traffic: RmaTraffic | None = None
    with whole_job_fails_together(world, f"rank {world.rank}"):
        from bagpipe_hpc.bench.rma import measure
        from bagpipe_hpc.roles.console import open_console

        try:
            transports = parse_transports(transport)
            traffic = RmaTraffic(
                servers, rows, dim, table_rows, iterations, warm_up, rounds, prefetch_depth, transports, world.size
            )
        except BagpipeError as error:
            if world.rank == 0:
                print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)
            world.Barrier()  # launchers end the job at the first exit code: not before this is said
        if traffic:
            figures = measure(world, traffic)
            if world.rank == 0:
                open_console().print(figures.table())
                if json_file:
                    json_file.write_text(json.dumps(figures.to_json(), indent=2) + "\n", encoding="utf-8")
    if traffic is None:
        raise typer.Exit(EXIT_INVALID)
