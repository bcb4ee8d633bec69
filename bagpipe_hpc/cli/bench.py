"""Commands that measure: `bench oracle`, `bench rma`, `bench ladder`, `bench overhead`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bagpipe_hpc.bounded_json import dump_json, finite
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.exit_codes import EXIT_DONE, EXIT_INVALID

if TYPE_CHECKING:
    from bagpipe_hpc.bench.rma_traffic import RmaTraffic


app = typer.Typer(help="Measure parts of the system on this machine or cluster.", no_args_is_help=True)


def write_figures(path: Path, figures: Any) -> None:
    """Write figures as strict JSON."""
    try:
        path.write_bytes(dump_json(finite(figures), indent=2))
    except OSError as error:
        raise BagpipeError(f"{path} cannot be written: {error.strerror}; free space or choose another --json") from None


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
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.bench.oracle import OracleCase, measure_oracle
    from bagpipe_hpc.runtime.console import open_console

    case = OracleCase(
        profile, scale, data, batch, lookahead, prefetch_depth, trainers, servers, threads, placement, cache_rows,
        rounds, plans,
    )  # fmt: skip
    with showing_activity("starting") as progress:
        figures = measure_oracle(case, progress)
    open_console().print(figures.table())
    if json_file:
        write_figures(json_file, figures.to_json())


@app.command()
def rma(
    servers: Annotated[int, typer.Option(help="Embedding servers: the first ranks. The rest are trainers.")] = 1,
    rows: Annotated[int, typer.Option(help="Rows that a trainer moves in one iteration.")] = 16_384,
    dim: Annotated[int, typer.Option(help="float32 columns of a row.")] = 64,
    table_rows: Annotated[int, typer.Option(help="Rows of the table that they come from.")] = 1_000_000,
    iterations: Annotated[int, typer.Option(help="Iterations of a timed pass.")] = 40,
    warm_up: Annotated[int, typer.Option(help="Iterations of the first, untimed pass.")] = 5,
    rounds: Annotated[int, typer.Option(help="Times that all passes take turns; medians are shown.")] = 5,
    prefetch_depth: Annotated[int, typer.Option(help="P: iterations that servers run ahead.")] = 4,
    transport: Annotated[str, typer.Option(help="Which to measure, separated by commas.")] = "staged,direct,per-row",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures.")] = None,
) -> None:
    """Rows per second between servers and trainers, beside one bare MPI_Get of the same bytes and a copy in memory.

    Start it on all ranks: mpirun -n 2 bagpipe bench rma
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    world = launched_ranks()
    traffic: RmaTraffic | None = None
    with whole_job_fails_together():
        from bagpipe_hpc.activity import showing_activity
        from bagpipe_hpc.bench.rma import measure
        from bagpipe_hpc.bench.rma_traffic import RmaTraffic, parse_transports
        from bagpipe_hpc.data.dataset import no_progress
        from bagpipe_hpc.runtime.console import open_console

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
            with showing_activity("starting") if world.rank == 0 else nullcontext(no_progress) as progress:
                figures = measure(world, traffic, progress)
            if world.rank == 0:
                open_console().print(figures.table())
                if json_file:
                    write_figures(json_file, figures.to_json())
    if traffic is None:
        raise typer.Exit(EXIT_INVALID)


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
    from bagpipe_hpc.bench import ladder as steps
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    try:
        chosen = steps.rungs_named(rungs)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    world = launched_ranks()
    with whole_job_fails_together():
        from bagpipe_hpc.launch.job import run_training
        from bagpipe_hpc.launch.request import Request
        from bagpipe_hpc.runtime.console import open_console

        code = EXIT_DONE
        for number, rung in enumerate(chosen, start=1):
            if world.rank == 0 and code == EXIT_DONE:
                print(f"rung {number} of {len(chosen)}: {rung.name}", flush=True)
            settings = [*(overrides or []), *steps.COMMON, *rung.overrides]
            code = code or run_training(Request(config, data, run_dir / rung.directory, settings))
        if world.rank == 0 and code == EXIT_DONE:
            summaries = steps.read_summaries(run_dir, chosen)
            open_console().print(steps.ladder_table(chosen, summaries))
            if json_file:
                write_figures(json_file, summaries)
            for name in steps.wrong_digests(chosen, summaries):
                print(f"bagpipe: error: {name} ended with another model than the rungs before it", flush=True)
    if code:
        raise typer.Exit(code)


@app.command()
def overhead(
    data: Annotated[Path, typer.Option(help="Data set to train on.")],
    run_dir: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/overhead"),
    iterations: Annotated[int, typer.Option(help="Iterations to train.")] = 2_000,
) -> None:
    """Work per iteration and thread of a trainer that has next to nothing to compute and to move: Python's overhead.

    Start it on all ranks: mpirun -n 3 bagpipe bench overhead --data DATA
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    world = launched_ranks()
    with whole_job_fails_together():
        from bagpipe_hpc.bench.overhead import overhead_table, read_summary, tiny_settings
        from bagpipe_hpc.launch.job import run_training
        from bagpipe_hpc.launch.request import Request
        from bagpipe_hpc.runtime.console import open_console

        code = run_training(Request(None, data, run_dir, tiny_settings(world.size, iterations)))
        if world.rank == 0 and code == 0:
            open_console().print(overhead_table(read_summary(run_dir)))
    if code:
        raise typer.Exit(code)
