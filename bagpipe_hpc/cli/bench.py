"""Commands that measure: `bench oracle`, `bench ladder`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

EXIT_INVALID = 2

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


@app.command()
def ladder(
    data: Annotated[Path, typer.Option(help="Data set to train on.")],
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG", help="YAML settings.")] = None,
    run_dir: Annotated[Path, typer.Option(help="A run directory per rung goes here.")] = Path("runs/ladder"),
    rungs: Annotated[str, typer.Option(help="Only these, separated by commas.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures.")] = None,
) -> None:
    """Train the same three epochs with one optimisation more each time, beside the bound of resident rows.

    Start it on all ranks: mpirun -n 4 bagpipe bench ladder --data DATA
    """
    from mpi4py import MPI  # starts MPI: from here on a rank that fails must take the others with it

    from bagpipe_hpc.roles.failure import whole_job_fails_together

    world = MPI.COMM_WORLD
    with whole_job_fails_together(world, f"rank {world.rank}"):
        from bagpipe_hpc.bench import ladder as steps
        from bagpipe_hpc.roles.console import open_console
        from bagpipe_hpc.roles.job import run_training

        try:
            chosen = steps.rungs_named(rungs)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        for rung in chosen:
            settings = [*(overrides or []), *steps.COMMON, *rung.overrides]
            if not run_training(config, data, run_dir / rung.directory, settings):
                raise typer.Exit(EXIT_INVALID)
        if world.rank == 0:
            summaries = steps.read_summaries(run_dir, chosen)
            open_console().print(steps.ladder_table(chosen, summaries))
            if json_file:
                json_file.write_text(json.dumps(summaries, indent=2) + "\n", encoding="utf-8")
            for name in steps.wrong_digests(chosen, summaries):
                print(f"bagpipe: error: {name} ended with another model than {chosen[0].name}", flush=True)
