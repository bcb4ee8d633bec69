"""Commands that measure: `bench oracle`, `bench ids`, `bench rma` and so on."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bagpipe_hpc.bounded_json import dump_json, finite
from bagpipe_hpc.errors import BagpipeError, ConfigError
from bagpipe_hpc.exit_codes import EXIT_DONE, EXIT_FAILURE, EXIT_INVALID

if TYPE_CHECKING:
    from bagpipe_hpc.bench.rma_traffic import RmaTraffic
    from bagpipe_hpc.transport.byte_messages import Comm


JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write all figures to this file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
]
DeviceOption = Annotated[
    str,
    typer.Option("--device", metavar="DEVICE", help="Where trainers compute: auto, cpu or gpu, as training.device."),
]

app = typer.Typer(help="Measure parts of the system on this machine or cluster.", no_args_is_help=True)


def write_figures(path: Path, figures: Any) -> None:
    """Write figures as strict JSON."""
    try:
        path.write_bytes(dump_json(finite(figures), indent=2))
    except OSError as error:
        raise BagpipeError(f"{path} cannot be written: {error.strerror}; choose another --json") from None


def _check_files(world: Comm, *files: Path | None) -> None:
    """Check before a measurement that rank 0 can write the files of its figures.

    Raises:
        ConfigError: a file has no directory, or is one; the same at every rank.
    Communication: collective over world.
    """
    from bagpipe_hpc.transport.collectives import all_gather_json

    faults = [_fault_of(path) for path in files] if world.rank == 0 else []
    if problem := all_gather_json(world, next(filter(None, faults), ""))[0]:
        raise ConfigError(problem)


def _fault_of(path: Path | None) -> str:
    """Return why a file of figures cannot be written, in words; empty: it can, or there is none."""
    if path is None or (not path.is_dir() and os.access(path.parent, os.W_OK)):
        return ""
    why = "it is a directory" if path.is_dir() else f"{path.parent} is no directory that can be written to"
    return f"{path} cannot be written: {why}; create the directory or name another file"


def _check_rungs(world: Comm, config: Path | None, rungs: Sequence[list[str]]) -> None:
    """Check the settings of all rungs of the ladder before the first one trains.

    Raises:
        ConfigError: a setting is wrong, or contradicts the number of ranks; the same at every rank.
    Communication: collective over world.
    """
    from bagpipe_hpc.config import load_config
    from bagpipe_hpc.launch.validation import check_blocks
    from bagpipe_hpc.topology import Topology
    from bagpipe_hpc.transport.collectives import all_gather_json

    problem = ""
    try:
        for overrides in rungs if world.rank == 0 else ():
            settings = load_config(config, overrides)
            check_blocks(settings.training.blocks, Topology(world.size, settings.roles.servers).num_trainers)
    except BagpipeError as error:
        problem = str(error)
    if problem := all_gather_json(world, problem)[0]:
        raise ConfigError(problem)


def _refuse(world: Comm, error: BagpipeError) -> None:
    """Print at one rank why a benchmark does not start. Communication: collective over world."""
    from bagpipe_hpc.transport.collectives import enter_together

    if world.rank == 0:
        print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)
    enter_together(world)  # a launcher ends the job when the first rank exits: wait until rank 0 has printed


@app.command()
def oracle(
    profile: Annotated[
        str, typer.Option(help="Profile of the synthetic data: criteo-kaggle, criteo-terabyte, avazu or histories.")
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
    history_length: Annotated[
        int | None, typer.Option(help="With --profile histories: elements of a history on average. Default: 30.")
    ] = None,
    json_file: JsonFile = None,
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
        rounds, plans, history_length or (30 if profile == "histories" else 0),
    )  # fmt: skip
    with showing_activity("starting") as progress:
        figures = measure_oracle(case, progress)
    open_console().print(figures.table())
    if json_file:
        write_figures(json_file, figures.to_json())


@app.command()
def ids(
    sizes: Annotated[
        str, typer.Option("--ids", metavar="LIST", help="Numbers of ids to measure at, separated by commas.")
    ] = "100000,1000000,10000000",
    batch: Annotated[int, typer.Option(help="Ids of a batch.")] = 65_536,
    rounds: Annotated[int, typer.Option(help="Timed batches of each kind.")] = 20,
    skew: Annotated[
        float, typer.Option(help="Exponent of the Zipf distribution of the ids of a batch; 0: all equally likely.")
    ] = 0.0,
    json_file: JsonFile = None,
) -> None:
    """Measure how fast the oracle gives the ids of a dynamic table their rows, and what memory they take.

    The command runs without a launcher. 100,000,000 ids take 7 GB.
    """
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.bench.dynamic_ids import DynamicIdsCase, dynamic_ids_table, measure_dynamic_ids, to_json
    from bagpipe_hpc.runtime.console import open_console

    try:
        numbers = tuple(int(float(each)) for each in sizes.split(","))
    except (ValueError, OverflowError):
        raise ConfigError(f"--ids is {sizes!r}, but needs numbers separated by commas, such as 1e6,1e7") from None
    if fault := _fault_of(json_file):
        raise ConfigError(fault)
    case = DynamicIdsCase(numbers, batch, rounds, skew)
    with showing_activity("starting") as progress:
        figures = measure_dynamic_ids(case, progress)
    open_console().print(dynamic_ids_table(figures, case))
    if json_file:
        write_figures(json_file, to_json(figures))


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
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="Where the rows of trainers lie: auto, cpu or gpu.")
    ] = "cpu",
    json_file: JsonFile = None,
) -> None:
    """Measure how many rows per second move between servers and trainers.

    The table also shows one plain MPI_Get of the same bytes and a copy in memory, for comparison.

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
        from bagpipe_hpc.trainer.device.names import device_named

        try:
            _check_files(world, json_file)
            transports = parse_transports(transport)
            traffic = RmaTraffic(
                servers, rows, dim, table_rows, iterations, warm_up, rounds, prefetch_depth, transports, world.size,
                device_named("--device", device),
            )  # fmt: skip
        except BagpipeError as error:
            _refuse(world, error)
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
    blocks: Annotated[
        list[int] | None,
        typer.Option(
            metavar="K",
            help="Add a rung whose training.blocks is K, a power of two that the number of trainers divides; needs "
            "--set training.threads=N. May be given again.",
        ),
    ] = None,
    device: DeviceOption = "auto",
    overrides: Overrides = None,
    json_file: JsonFile = None,
) -> None:
    """Train the same three epochs several times, each time with one optimisation more.

    The last rungs are bounds: jobs in which every row stays cached, so that servers have nothing to do.

    Start it on all ranks: mpirun -n 4 bagpipe bench ladder --data DATA
    """
    from bagpipe_hpc.bench import ladder as steps
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    try:
        chosen = steps.rungs_named(rungs, blocks or ())
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    world = launched_ranks()
    with whole_job_fails_together():
        from bagpipe_hpc.launch.job import run_training
        from bagpipe_hpc.launch.request import Request
        from bagpipe_hpc.runtime.console import open_console
        from bagpipe_hpc.trainer.device.names import device_named

        code = EXIT_DONE
        settings: list[list[str]] = []
        try:
            _check_files(world, json_file)
            used = f"training.device={device_named('--device', device)}"
            settings = [[used, *(overrides or []), *steps.COMMON, *rung.overrides] for rung in chosen]
            _check_rungs(world, config, settings)
        except ConfigError as error:
            _refuse(world, error)
            code = EXIT_INVALID
        for number, rung in enumerate(chosen if code == EXIT_DONE else [], start=1):
            if world.rank == 0 and code == EXIT_DONE:
                print(f"rung {number} of {len(chosen)}: {rung.name}", flush=True)
            code = code or run_training(Request(config, data, run_dir / rung.directory, settings[number - 1]))
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
    iterations: Annotated[int, typer.Option(help="Iterations to train, in as many epochs as needed.", min=3)] = 2_000,
    pause: Annotated[
        float,
        typer.Option(
            help="Seconds that trainer 0 pauses in the middle, while all others wait, 1 or more; 0: no pause."
        ),
    ] = 10.0,
    device: DeviceOption = "auto",
    overrides: Overrides = None,
    json_file: JsonFile = None,
) -> None:
    """Measure Python's overhead: the time per iteration and thread of a trainer with almost nothing to compute or move.

    Also measure what each thread of each role takes of a core while it waits.

    Start it on all ranks: mpirun -n 3 bagpipe bench overhead --data DATA
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    world = launched_ranks()
    with whole_job_fails_together():
        from bagpipe_hpc.bench import overhead as bench
        from bagpipe_hpc.bench.overhead_run import train_with_pause
        from bagpipe_hpc.exit_codes import exit_code_of
        from bagpipe_hpc.launch.request import Request
        from bagpipe_hpc.runtime.console import open_console
        from bagpipe_hpc.trainer.device.names import device_named

        code = EXIT_DONE
        try:
            bench.check_pause(pause)
            _check_files(world, json_file)
            chosen = f"training.device={device_named('--device', device)}"
        except ConfigError as error:
            _refuse(world, error)
            code = EXIT_INVALID
        else:
            settings = [
                *bench.tiny_settings(world.size),
                chosen,
                *(overrides or []),
                *bench.length_settings(iterations),
            ]
            request = Request(None, data, run_dir, settings, has_own_loop=True)
            job = train_with_pause(world, request, iterations, pause)
            code = exit_code_of(job.error)
        if world.rank == 0 and code == EXIT_DONE:
            figures = bench.overhead_figures(bench.read_summary(run_dir), job.plain, job.ranks, pause)
            open_console().print(bench.overhead_table(figures))
            if pause:
                open_console().print(bench.idle_table(figures["idle"], pause))
            if json_file:
                write_figures(json_file, figures)
    if code:
        raise typer.Exit(code)


@app.command()
def histories(
    lengths: Annotated[
        str, typer.Option(metavar="LIST", help="Elements of a history on average, separated by commas.")
    ] = "50,200,1000,2000",
    models: Annotated[str, typer.Option(metavar="LIST", help="Models, separated by commas.")] = "din,sasrec,bst,hstu",
    elements: Annotated[int, typer.Option(help="Elements of all histories of a global batch, about.")] = 16_000,
    iterations: Annotated[int, typer.Option(help="Timed iterations of a run.")] = 12,
    run_dir: Annotated[Path, typer.Option(help="Directory for data and run directories, which are deleted.")] = Path(
        "runs/histories"
    ),
    overrides: Overrides = None,
    json_file: JsonFile = None,
) -> None:
    """Measure speed and memory of models that read histories, over the lengths of histories.

    Start it on all ranks: mpirun -n 4 bagpipe bench histories
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    world = launched_ranks()
    code = EXIT_DONE
    with whole_job_fails_together():
        from bagpipe_hpc.activity import showing_activity
        from bagpipe_hpc.bench.gpu.case import numbers_of
        from bagpipe_hpc.bench.histories import HistoriesCase, histories_table
        from bagpipe_hpc.bench.histories_run import measure_histories
        from bagpipe_hpc.data.dataset import no_progress
        from bagpipe_hpc.runtime.console import open_console

        try:
            _check_files(world, json_file)
            names = tuple(name for name in models.split(",") if name)
            case = HistoriesCase(
                numbers_of("--lengths", lengths) or (), names, elements, max(1, world.size - 2), iterations
            )
            case.check(overrides or [])
            with showing_activity("starting") if world.rank == 0 else nullcontext(no_progress) as progress:
                runs = measure_histories(world, case, run_dir, overrides or [], progress)
        except BagpipeError as error:
            _refuse(world, error)
            code = EXIT_INVALID
        else:
            if world.rank == 0:
                open_console().print(histories_table(runs))
                if json_file:
                    write_figures(json_file, [run.to_json() for run in runs])
    if code:
        raise typer.Exit(code)


@app.command("next-click")
def next_click(
    log: Annotated[
        Path,
        typer.Option(
            help="Clicks of sessions: CSV with the columns session_id, click_article_id and click_timestamp, such as "
            "Globo.com's."
        ),
    ],
    models: Annotated[str, typer.Option(metavar="LIST", help="Models, separated by commas.")] = "mean,din,sasrec,hstu",
    clicks: Annotated[int, typer.Option(help="Use the first lines of the log, so many.")] = 100_000,
    negatives: Annotated[int, typer.Option(help="Sampled articles that a click is compared with.")] = 2,
    max_length: Annotated[int, typer.Option(help="Elements of a history, at most.")] = 50,
    validation_fraction: Annotated[float, typer.Option(help="The latest samples, to evaluate on.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Of the negatives.")] = 0,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="Train with dynamic tables of users (column user_id) and articles, beside static ones instead of "
            "plain PyTorch.",
        ),
    ] = False,
    run_dir: Annotated[Path, typer.Option(help="Directory for data and run directories, which is deleted.")] = Path(
        "runs/next-click"
    ),
    overrides: Overrides = None,
    json_file: JsonFile = None,
) -> None:
    """Predict the next click of a session from those before it, with bagpipe_hpc and with plain PyTorch.

    Start it on all ranks: mpirun -n 4 bagpipe bench next-click --log FILE
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    world = launched_ranks()
    code = EXIT_DONE
    with whole_job_fails_together():
        from bagpipe_hpc.activity import showing_activity
        from bagpipe_hpc.bench.next_click.case import NextClickCase
        from bagpipe_hpc.bench.next_click.figures import comparison_table
        from bagpipe_hpc.bench.next_click.measure import compare
        from bagpipe_hpc.data.dataset import no_progress
        from bagpipe_hpc.runtime.console import open_console

        try:
            _check_files(world, json_file)
            names = tuple(name for name in models.split(",") if name)
            case = NextClickCase(
                names, clicks, negatives, max_length, validation_fraction, seed, tuple(overrides or ()), dynamic
            )
            with showing_activity("starting") if world.rank == 0 else nullcontext(no_progress) as progress:
                comparisons = compare(world, case, log, run_dir, progress)
        except BagpipeError as error:
            _refuse(world, error)
            code = EXIT_INVALID
        else:
            if world.rank == 0:
                title = f"next click: {clicks:,} clicks, {negatives} negatives each"
                ways = ("dynamic", "static") if dynamic else ("bagpipe_hpc", "PyTorch")
                open_console().print(comparison_table(comparisons, title, ways))
                if json_file:
                    write_figures(json_file, [asdict(each) for each in comparisons])
    if code:
        raise typer.Exit(code)


@app.command()
def peers(
    data: Annotated[Path, typer.Option(help="Data set to train on; every sample has one id in each table.")],
    systems: Annotated[
        str,
        typer.Option(
            help="Compare only these systems, separated by commas: plain, ddp, hybrid, torchrec-table, "
            "torchrec-table-pipeline, torchrec-row, torchrec-row-pipeline, synchronous, contiguous, locality, wire, "
            "and horovod, which runs only if named."
        ),
    ] = "",
    servers: Annotated[int, typer.Option(help="Embedding servers of bagpipe_hpc (S).")] = 1,
    batch_size: Annotated[int, typer.Option(help="Samples of a global batch (B).")] = 4096,
    embedding_dim: Annotated[int, typer.Option(help="Columns of a row (D).")] = 48,
    learning_rate: Annotated[float, typer.Option(help="Learning rate of SGD, for rows and dense parameters.")] = 0.1,
    threads: Annotated[int, typer.Option(help="Threads of each trainer.")] = 1,
    warm_up: Annotated[int, typer.Option(help="Iterations before the timed ones.")] = 4,
    iterations: Annotated[int, typer.Option(help="Timed iterations of a repeat.")] = 10,
    margin: Annotated[
        int,
        typer.Option(
            help="Iterations of bagpipe_hpc before its timed ones, while its caches fill, and again after them, while "
            "they empty, at least as many as --warm-up; 0: --warm-up before, 4 after."
        ),
    ] = 0,
    repeats: Annotated[int, typer.Option(help="Repeats that count; one more comes before them.")] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds that a peer may take for one run.")] = 300.0,
    interface: Annotated[
        str | None, typer.Option(help="Network interface of the peers; default: of the route to the first trainer.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="Directory for run directories, which are deleted.")] = Path(
        "runs/peers"
    ),
    json_file: JsonFile = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw a picture: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Compare bagpipe_hpc with other ways to train the same model on the same samples: PyTorch and TorchRec.

    TorchRec is an extra: python -m pip install --no-deps -r env/requirements/peers.txt

    Start it on all ranks (oracle, servers, trainers): mpirun -n 4 bagpipe bench peers --data DATA
    """
    from bagpipe_hpc.runtime.failure import whole_job_fails_together
    from bagpipe_hpc.transport.mpi import launched_ranks  # starts MPI: from here on, a failing rank ends the others

    world = launched_ranks()
    code = EXIT_DONE
    with whole_job_fails_together():
        from bagpipe_hpc.activity import showing_activity

        cell = None
        with showing_activity("starting") if world.rank == 0 else nullcontext() as progress:
            # These import torch and matplotlib, which takes seconds.
            from bagpipe_hpc.bench.peers.case import PeersCase
            from bagpipe_hpc.bench.peers.figures import cells_table, different_losses, explanation, failures
            from bagpipe_hpc.bench.peers.measure import PeersBench
            from bagpipe_hpc.bench.peers.picture import check_picture, draw_cells
            from bagpipe_hpc.bench.peers.systems import systems_named
            from bagpipe_hpc.data.dataset import no_progress, open_dataset
            from bagpipe_hpc.runtime.console import open_console
            from bagpipe_hpc.transport.collectives import enter_together

            fault: BagpipeError | None = None
            try:
                chosen = systems_named(systems)
                case = PeersCase(
                    data, world.size, servers, batch_size, embedding_dim, learning_rate=learning_rate, threads=threads,
                    warm_up=warm_up, iterations=iterations, margin=margin, repeats=repeats,
                )  # fmt: skip
                case.check_samples(open_dataset(data))
                if picture:
                    check_picture(picture)
                _check_files(world, json_file, picture)
            except BagpipeError as error:
                fault = error
            else:
                bench = PeersBench(world, case, chosen, run_dir, timeout, interface, progress or no_progress)
                cell = bench.run().to_json()
        if fault:
            _refuse(world, fault)
            code = EXIT_INVALID
        elif cell and not cell["turns"]:
            code = EXIT_FAILURE
        if cell and world.rank == 0:
            open_console().print(cells_table({"": cell}))
            for line in [explanation({"": cell}), *failures({"": cell})]:
                open_console().print(line, markup=False, highlight=False)
            if json_file:
                write_figures(json_file, cell)
            if picture and cell["turns"]:
                draw_cells({f"T = {case.num_trainers}": {f"{cell['hosts']} host(s)": cell}}, picture)
            for name in different_losses(cell):
                print(f"bagpipe: error: the loss of {name} differs from that of the others", flush=True)
            if not cell["turns"]:
                print("bagpipe: error: no system could run", file=sys.stderr, flush=True)
        if code == EXIT_FAILURE:
            enter_together(world)  # a launcher ends the job when the first rank exits
    if code:
        raise typer.Exit(code)


@app.command()
def gpu(
    minutes: Annotated[float, typer.Option(help="The time for everything, divided over all sizes.")] = 8.0,
    batch_sizes: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Samples of a global batch (B). Default: 4096,16384,65536; CPU: 1024,4096."),
    ] = None,
    dims: Annotated[
        str | None, typer.Option(metavar="LIST", help="Columns of a row (D). Default: 16,48,128; CPU: 16,48.")
    ] = None,
    trainers: Annotated[str | None, typer.Option(metavar="LIST", help="Numbers of trainers (T). Default: 1,2.")] = None,
    scale: Annotated[
        float | None, typer.Option(help="Multiply Kaggle's numbers of rows by this. Default: 1.0; CPU: 0.01.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Timed iterations of a run. Default: 40; CPU: 10.")] = None,
    window: Annotated[int | None, typer.Option(help="Lookahead window (L). Default: 16; CPU: 8.")] = None,
    repeats: Annotated[
        int | None, typer.Option(help="The most repeats of a size; each runs everything once. Default: 3; CPU: 2.")
    ] = None,
    device: DeviceOption = "auto",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Where the synthetic data set is kept for the next time. Default: ~/.cache/bagpipe_hpc/bench-gpu."
        ),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Measure training on one GPU beside the same model with all rows in its memory, and the kernels on rows.

    FBGEMM's tables, which are TorchRec's, are measured too if FBGEMM is installed. Without a GPU, the command measures
    the CPU, with smaller sizes.

    Start it without mpirun: it starts mpirun itself. If there is no mpirun, it measures jobs with one trainer only.
    """
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.bench.gpu.case import numbers_of
    from bagpipe_hpc.bench.gpu.figures import notes, tables
    from bagpipe_hpc.bench.gpu.measure import run_bench
    from bagpipe_hpc.bench.gpu.samples import default_directory
    from bagpipe_hpc.launcher import is_alone
    from bagpipe_hpc.runtime.console import open_console
    from bagpipe_hpc.trainer.device.names import device_named

    try:
        if not is_alone(os.environ):
            raise ConfigError("`bagpipe bench gpu` was started on several ranks; start it without mpirun or srun")
        if problem := _fault_of(json_file):
            raise ConfigError(problem)
        options = {
            "batch_sizes": numbers_of("--batch-sizes", batch_sizes),
            "dims": numbers_of("--dims", dims),
            "trainers": numbers_of("--trainers", trainers),
            "scale": scale, "iterations": iterations, "window": window, "repeats": repeats, "minutes": minutes,
            "device": device_named("--device", device),
        }  # fmt: skip
        with showing_activity("starting") as progress:
            figures = run_bench(options, data_dir or default_directory(), minutes, progress)
    except BagpipeError as error:
        print(f"bagpipe: error: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(EXIT_INVALID) from None
    console = open_console()
    for table in tables(figures):
        console.print(table)
    for line in notes(figures):
        console.print(line, markup=False, highlight=False)
    if json_file:
        write_figures(json_file, figures.to_json())
    if figures.errors or not figures.has_figures:
        raise typer.Exit(EXIT_FAILURE)
