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
    profile: Annotated[
        str, typer.Option(help="Profile of the synthetic data: criteo-kaggle, criteo-terabyte or avazu.")
    ] = ("criteo-kaggle"),
    scale: Annotated[float, typer.Option(help="Multiply the profile's numbers of rows by this.")] = 1.0,
    data: Annotated[Path | None, typer.Option(help="Plan this data set instead of synthetic data.")] = None,
    batch: Annotated[int, typer.Option(help="Samples of a global batch (B).")] = 16384,
    lookahead: Annotated[int, typer.Option(help="Lookahead window (L), in iterations.")] = 200,
    prefetch_depth: Annotated[int, typer.Option(help="Prefetch depth (P), in iterations.")] = 4,
    trainers: Annotated[int, typer.Option(help="Number of trainers (T).")] = 8,
    servers: Annotated[int, typer.Option(help="Number of embedding servers (S).")] = 2,
    threads: Annotated[int, typer.Option(help="Cores of the oracle, as oracle.threads.")] = 1,
    placement: Annotated[str, typer.Option(help="contiguous or locality, as oracle.placement.")] = "contiguous",
    cache_rows: Annotated[int | None, typer.Option(help="Cache slots per trainer; default: no limit.")] = None,
    rounds: Annotated[int, typer.Option(help="Timed rounds; numpy.unique is timed in each round, too.")] = 5,
    plans: Annotated[int, typer.Option(help="Plans in each timed round.")] = 20,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Measure how many samples per second one oracle plans, from reading shards to encoded messages.

    The table also shows the speed of numpy.unique on each table, for comparison. The command runs without a launcher.
    It writes synthetic data to the directory for temporary files and deletes it at the end.
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
    servers: Annotated[int, typer.Option(help="Embedding servers: the first ranks. The other ranks are trainers.")] = 1,
    rows: Annotated[int, typer.Option(help="Rows that each trainer moves in one iteration.")] = 16_384,
    dim: Annotated[int, typer.Option(help="Columns of a row, float32.")] = 64,
    table_rows: Annotated[int, typer.Option(help="Rows of the table.")] = 1_000_000,
    iterations: Annotated[int, typer.Option(help="Iterations of each timed pass.")] = 40,
    warm_up: Annotated[int, typer.Option(help="Iterations of the first, untimed pass.")] = 5,
    rounds: Annotated[int, typer.Option(help="How often each pass runs; the table shows medians.")] = 5,
    prefetch_depth: Annotated[int, typer.Option(help="Iterations that servers run ahead (P).")] = 4,
    transport: Annotated[
        str, typer.Option(help="Transports to measure, separated by commas.")
    ] = "staged,direct,per-row",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Measure how many rows per second move between servers and trainers.

    The table also shows one plain MPI_Get of the same bytes and a copy in memory, for comparison.

    Start it on all ranks: mpirun -n 2 bagpipe bench rma
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.collectives import enter_together  # starts MPI: a failing rank now ends the others
    from bagpipe_hpc.transport.mpi import launched_ranks

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
            enter_together(world)  # a launcher ends the job when the first rank exits: wait until rank 0 has printed
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
    run_dir: Annotated[Path, typer.Option(help="Directory for the run directories, one per rung.")] = Path(
        "runs/ladder"
    ),
    rungs: Annotated[str, typer.Option(help="Run only these rungs, separated by commas.")] = "",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Train the same three epochs several times, each time with one optimisation more.

    The last rungs are bounds: jobs in which every row stays cached, so that servers have nothing to do.

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
                print(f"bagpipe: error: {name} ended with a different model than the rungs before it", flush=True)
    if code:
        raise typer.Exit(code)


@app.command()
def overhead(
    data: Annotated[Path, typer.Option(help="Data set to train on.")],
    run_dir: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/overhead"),
    iterations: Annotated[int, typer.Option(help="Iterations to train.")] = 2_000,
) -> None:
    """Measure Python's overhead: the time per iteration and thread of a trainer with almost nothing to compute or move.

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
