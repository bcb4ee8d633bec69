"""`bagpipe simulate`: play the accesses of a data set under other cache policies and system designs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bagpipe_hpc.cli.printed_json import AsJson, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bagpipe_hpc.simulation.figures import Figures


def simulate(
    data: Annotated[Path, typer.Option(help="Data set whose training samples are played.")],
    trainers: Annotated[str, typer.Option(help="Numbers of trainers (T), with commas.")] = "1,4,16,64,256,1024",
    batch: Annotated[int, typer.Option(help="Samples of a batch (B).")] = 16_384,
    scaling: Annotated[
        str, typer.Option(help="strong: --batch is for all trainers together; weak: for each trainer.")
    ] = "strong",
    cache_rows: Annotated[
        str, typer.Option(help="Sizes of one cache for --policies: rows, or % of the rows that occur.")
    ] = "0.3%,1%,3%,10%,30%,100%",
    trainer_cache_rows: Annotated[
        str, typer.Option(help="Size of the cache of each trainer: rows, or % of the rows that occur.")
    ] = "10%",
    window: Annotated[int, typer.Option(help="Lookahead window (L), in iterations.")] = 200,
    prefetch_depth: Annotated[int, typer.Option(help="Prefetch depth (P), in iterations.")] = 4,
    policies: Annotated[
        str, typer.Option(help='Cache policies, with commas: lru, lfu, s3fifo, arc, sieve, belady; "": none.')
    ] = "lru,lfu,s3fifo,arc,belady",
    designs: Annotated[
        str,
        typer.Option(
            help="Designs, with commas: lookahead, replicated, hot-set, staleness, all-to-all, no-cache; also, "
            "if named, extensions of lookahead: locality, 16-bit-wire, hot-replicas, shared-links, node-caches."
        ),
    ] = "",
    staleness: Annotated[
        str, typer.Option(help="Bounds of the caches with bounded staleness, in updates, with commas.")
    ] = "0,10,100",
    networks: Annotated[str, typer.Option(help="Speeds of links, with commas.")] = "10Gbit,25Gbit,100Gbit,200Gbit",
    latency_microseconds: Annotated[float, typer.Option(help="Latency of a message.")] = 10.0,
    dim: Annotated[int, typer.Option(help="Columns of a row, float32.")] = 64,
    compute_microseconds: Annotated[
        float, typer.Option(help="Time of one trainer for forward and backward pass, per sample.")
    ] = 1.0,
    dense_parameters: Annotated[int, typer.Option(help="Dense parameters, which are all-reduced.")] = 0,
    trainers_per_server: Annotated[int, typer.Option(help="How many trainers share an embedding server.")] = 1,
    trainers_per_node: Annotated[
        int, typer.Option(help="How many trainers share a link in the designs shared-links and node-caches.")
    ] = 8,
    samples: Annotated[int | None, typer.Option(help="Play at most this many samples. [default: all]")] = None,
    epochs: Annotated[int, typer.Option(help="How often the samples are passed over.")] = 1,
    similar: Annotated[int, typer.Option(help="Rows that share an approximate key.")] = 4,
    refresh: Annotated[
        str, typer.Option(help="Factors of auto-refresh of approximate keys, with commas.")
    ] = "1.2,1.5,2,4",
    output: Annotated[Path | None, typer.Option(help="Directory for CSV files and pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Play the accesses of a data set under other cache policies and system designs.

    The command trains nothing and runs without a launcher. It shows hit ratios of cache policies, and for each design
    and number of trainers rows moved, bytes, time per iteration and staleness.
    """
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.errors import ConfigError
    from bagpipe_hpc.runtime.console import open_console
    from bagpipe_hpc.simulation.case import Case, parse_designs, parse_factors, parse_numbers, parse_sizes
    from bagpipe_hpc.simulation.network import Compute, parse_networks
    from bagpipe_hpc.simulation.policies import parse_policies
    from bagpipe_hpc.simulation.simulate import simulate as play

    if scaling not in ("strong", "weak"):
        raise ConfigError(f"--scaling is '{scaling}'; allowed: strong, weak")
    if latency_microseconds < 0 or dense_parameters < 0:
        raise ConfigError("--latency-microseconds and --dense-parameters must be at least 0")
    trainer_cache = parse_sizes("--trainer-cache-rows", trainer_cache_rows)
    if len(trainer_cache) > 1:
        raise ConfigError(f"--trainer-cache-rows has {len(trainer_cache)} sizes; give one")
    case = Case(
        data=data,
        networks=parse_networks(networks, 1e-6 * latency_microseconds),
        trainers=parse_numbers("--trainers", trainers, 1),
        batch=batch,
        is_weak=scaling == "weak",
        cache_sizes=parse_sizes("--cache-rows", cache_rows),
        trainer_cache=trainer_cache[0],
        window=window,
        prefetch_depth=prefetch_depth,
        policies=parse_policies(policies),
        designs=parse_designs(designs),
        staleness=parse_numbers("--staleness", staleness, 0),
        dim=dim,
        trainers_per_server=trainers_per_server,
        trainers_per_node=trainers_per_node,
        compute=Compute(1e-6 * compute_microseconds, 4.0 * dense_parameters),
        samples=samples,
        epochs=epochs,
        similar=similar,
        refresh=parse_factors("--refresh", refresh),
    )
    if output is not None:
        _make(output)
    with showing_activity("starting") as progress:
        figures = play(case, progress)
        files = _write(figures, output) if output is not None else []
    if as_json:
        print_json(figures.to_json())
        return
    console = open_console()
    _print(console, figures)
    for path in files:
        console.print(f"written {path}", highlight=False, soft_wrap=True)


def _make(directory: Path) -> None:
    from bagpipe_hpc.errors import ConfigError

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {directory} cannot be made: {error.strerror}; choose another directory") from None


def _write(figures: Figures, output: Path) -> list[Path]:
    from bagpipe_hpc.simulation.picture import draw_figures

    return [*figures.write(output), *draw_figures(figures, output)]


def _print(console: Console, figures: Figures) -> None:
    stream = figures.stream
    console.print(
        f"{stream['samples']:,} samples with {stream['ids']:,} ids; {stream['rows_that_occur']:,} of "
        f"{stream['rows_of_tables']:,} rows occur",
        highlight=False,
    )
    console.print(_policies(figures))
    console.print(
        "own: accesses served by own memory. k rows: thousand rows moved per iteration. kB: per trainer and iteration. "
        "stale: updates of other trainers that a row lacks. eff.: share of the time in which trainers compute in "
        "the first network. Networks: ms per iteration.",
        highlight=False,
    )
    for table in (*_systems(figures), _approximate(figures)):
        console.print(table)
    for note in figures.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _policies(figures: Figures) -> Table:
    """One row per policy, one column per size of the cache."""
    sizes = sorted({row.cache_rows for row in figures.policies})
    shares = {row.cache_rows: row.cache_share for row in figures.policies}
    ratios = {(row.policy, row.cache_rows): row.hit_ratio for row in figures.policies}
    heads = [f"{size:,}\n{100 * shares[size]:.3g}%" for size in sizes]
    table = _table("hit ratio of one cache for all trainers, by rows of the cache", "policy", heads)
    for policy in dict.fromkeys(row.policy for row in figures.policies):
        table.add_row(policy, *(_percent(ratios.get((policy, size))) for size in sizes))
    return table


def _systems(figures: Figures) -> Iterable[Table]:
    """One table per number of trainers: a row per design, a column of times per network."""
    networks = list(dict.fromkeys(row.network for row in figures.systems))
    for trainers in dict.fromkeys(row.trainers for row in figures.systems):
        own = [row for row in figures.systems if row.trainers == trainers]
        title = f"T = {trainers:,}, B = {own[0].batch:,}, {own[0].iterations:,} iterations"
        heads = ["own", "k rows", "kB", "stale", "eff.", *networks]
        table = _table(title, "design", heads)
        for row in (row for row in own if row.network == networks[0]):
            times = {each.network: each.milliseconds for each in own if each.design == row.design}
            moved = row.rows_fetched + row.rows_written + row.rows_exchanged
            table.add_row(
                row.design,
                _percent(row.local_ratio),
                _short(moved / 1e3),
                _short(row.bytes_per_trainer / 1e3),
                _short(row.staleness),
                _percent(row.efficiency),
                *(f"{times[network]:,.2f}" for network in networks),
            )
        yield table


def _approximate(figures: Figures) -> Table:
    sizes = sorted({row.cache_rows for row in figures.approximate})
    title = "approximate keys: share of requests answered without computing, and answered wrongly, by rows of the cache"
    table = _table(title, "cache, auto-refresh", [f"{size:,}" for size in sizes])
    for cache, refresh in dict.fromkeys((row.cache, row.refresh) for row in figures.approximate):
        own = {row.cache_rows: row for row in figures.approximate if (row.cache, row.refresh) == (cache, refresh)}
        name = f"{cache}, {f'{refresh:g}' if refresh else 'none'}"
        table.add_row(name, *(f"{own[size].hit_ratio:.1%} {own[size].error_ratio:.1%}" for size in sizes))
    return table


def _table(title: str, first: str, heads: Iterable[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _short(value: float) -> str:
    """Return a number with one digit behind the point, or none if it has many before it."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.1%}"
