"""`bagpipe plan`: the sizing advisor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bagpipe_hpc.cli.printed_json import AsJson, print_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from bagpipe_hpc.sizing.advisor import Advice
    from bagpipe_hpc.sizing.recommendation import Prediction


def plan(
    data: Annotated[Path, typer.Option(help="Data set whose training samples are planned.")],
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings; every setting has a default.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override one setting.")
    ] = None,
    trainers: Annotated[str, typer.Option(help="Numbers of trainers (T), with commas.")] = "8",
    servers: Annotated[str, typer.Option(help="Numbers of embedding servers (S), with commas.")] = "1,2",
    network: Annotated[str, typer.Option(help="Speed of the link of a node, such as 25Gbit.")] = "25Gbit",
    latency_microseconds: Annotated[float, typer.Option(help="Latency of a message.")] = 10.0,
    echoes_gets: Annotated[
        bool,
        typer.Option("--tcp-gets", help="The network is TCP with Open MPI 5, where fetches need twice their bytes."),
    ] = False,
    gpu: Annotated[
        str | None, typer.Option(help="Estimate computing for v100, a100, h100, h200, mi250x or mi300x.")
    ] = None,
    compute: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time of one trainer per sample. [default: measure here, with the model]"),
    ] = None,
    batch_sizes: Annotated[
        str | None, typer.Option(help="Samples of a batch (B), with commas. [default: training.batch_size]")
    ] = None,
    windows: Annotated[str, typer.Option(help="Lookahead windows (L), with commas.")] = "8,32,128",
    prefetch_depths: Annotated[
        str | None, typer.Option(help="Prefetch depths (P), with commas. [default: lookahead.prefetch_depth]")
    ] = None,
    trainers_per_node: Annotated[int, typer.Option(min=1, help="Trainers that share the link of a node.")] = 1,
    samples: Annotated[int, typer.Option(min=1, help="Plan at most this many samples.")] = 500_000,
    as_json: AsJson = False,
) -> None:
    """Recommend the number of servers, the window and the cache size of a job, and predict its speed.

    The planner of a job plans the samples of the data set, so numbers of rows are those of a job. The time of an
    iteration is a prediction. The command trains nothing but a few iterations to see how long a trainer computes, and
    runs without a launcher: bagpipe plan --data DIR --trainers 8 --servers 1,2 --network 25Gbit --gpu h100
    """
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.config import load_config
    from bagpipe_hpc.errors import ConfigError
    from bagpipe_hpc.runtime.console import open_console
    from bagpipe_hpc.simulation.case import parse_numbers
    from bagpipe_hpc.simulation.network import parse_networks
    from bagpipe_hpc.sizing.advisor import Question, advise, recommended_settings, render_line, settings_yaml

    if gpu is not None and compute is not None:
        raise ConfigError("--gpu and --compute both say how long a trainer computes; give one of them")
    if compute is not None and not 0 < compute < 1e6:
        raise ConfigError(f"--compute is {compute:g}; give seconds per sample above 0, such as 1e-5")
    if not 0 <= latency_microseconds < 1e6:
        raise ConfigError(f"--latency-microseconds is {latency_microseconds:g}; it must lie between 0 and 1,000,000")
    links = parse_networks(network, 1e-6 * latency_microseconds, "--network")
    if len(links) > 1:
        raise ConfigError(f"--network has {len(links)} speeds; give one")
    settings = load_config(config, overrides or [])
    if settings.mode != "cached":
        raise ConfigError(f"mode is {settings.mode}, which has no window and no cache to size; remove the setting")
    question = Question(
        data=data,
        config=settings,
        trainers=parse_numbers("--trainers", trainers, 1),
        servers=parse_numbers("--servers", servers, 1),
        batch_sizes=parse_numbers("--batch-sizes", batch_sizes or str(settings.training.batch_size), 1),
        windows=parse_numbers("--windows", windows, 1),
        prefetch_depths=parse_numbers("--prefetch-depths", prefetch_depths or str(settings.prefetch_depth), 0),
        network=links[0],
        echoes_gets=echoes_gets,
        gpu=gpu,
        compute=compute,
        trainers_per_node=trainers_per_node,
        max_samples=samples,
    )
    with showing_activity("opening all shards") as progress:
        advice = advise(question, progress)
    line = render_line(question, advice, config, overrides or [])
    if as_json:
        figures = {
            "compute": vars(advice.compute),
            "predictions": [each.to_json() for each in advice.predictions],
            "recommended": advice.best.to_json(),
            "settings": recommended_settings(advice),
            "caches": [
                {"rows": each.rows, "share": each.share, "prediction": each.prediction and each.prediction.to_json()}
                for each in advice.caches
            ],
            "render": line,
            "notes": list(advice.notes),
        }
        print_json(figures)
        return
    _print(open_console(), advice)
    print(f"\nrecommended settings:\n\n{settings_yaml(question, advice)}\njob script:\n\n{line}")


def _print(console: Console, advice: Advice) -> None:
    console.print(_choices(advice))
    console.print(_resources(advice.best))
    console.print(_paths(advice.best))
    console.print(_caches(advice))
    for note in advice.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    first, second = advice.best.cost.bottlenecks
    console.print(f"An iteration takes as long as: {first}. Next: {second}.", highlight=False, soft_wrap=True)


def _choices(advice: Advice) -> Table:
    """One row per choice."""
    table = _table("predictions", ("", "T", "S", "B", "L", "P"), ())
    for head in ("ms", "samples/s", "MB", "cache rows", "oracle", "server", "trainer"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("bottleneck", no_wrap=True)
    for each in advice.predictions:
        choice, memory = each.choice, each.memory
        table.add_row(
            ">" if each is advice.best else "",
            *(
                f"{value:,}"
                for value in (
                    choice.num_trainers,
                    choice.num_servers,
                    choice.batch_size,
                    choice.window,
                    choice.prefetch_depth,
                )
            ),
            f"{1e3 * each.cost.seconds:,.2f}",
            f"{each.samples_per_second:,.0f}",
            f"{sum(each.cost.moved.values()) / 1e6:,.2f}",
            f"{memory.cache_rows:,}",
            *(_bytes(value) for value in (memory.oracle, memory.server, memory.trainer)),
            each.cost.bottlenecks[0],
        )
    return table


def _resources(best: Prediction) -> Table:
    """What an iteration of the recommended choice would take if nothing else took longer."""
    table = _table("recommended: what limits an iteration", ("limit",), ("ms", "samples/s"))
    for name, seconds in best.cost.seconds_by_resource.items():
        table.add_row(name, f"{1e3 * seconds:,.2f}", f"{best.choice.batch_size / seconds:,.0f}" if seconds else "-")
    for name, seconds in best.cost.seconds_by_wait.items():
        table.add_row(f"  of trainers: {name}", f"{1e3 * seconds:,.2f}", "")
    table.add_row("oracle, one thread, here", "", f"{best.oracle_samples_per_second:,.0f}")
    return table


def _paths(best: Prediction) -> Table:
    """Bytes and rows of the recommended choice."""
    table = _table("recommended: per iteration, all ranks together", ("path",), ("kB", "rows", "rows, 95th percentile"))
    for name, moved in best.cost.moved.items():
        table.add_row(name.replace("_", " "), f"{moved / 1e3:,.1f}", "", "")
    for name, (mean, peak) in best.rows.items():
        table.add_row(f"rows {name}", "", f"{mean:,.0f}", f"{peak:,.0f}")
    return table


def _caches(advice: Advice) -> Table:
    heads = ("of the need", "ms", "forced out", "fetched", "written back")
    table = _table("recommended: smaller caches; rows per iteration", ("cache.rows",), heads)
    for each in advice.caches:
        if each.prediction is None:
            table.add_row(f"{each.rows:,}", f"{each.share:.0%}", "too small", "", "", "")
            continue
        rows = each.prediction.rows
        moved = (f"{rows[name][0]:,.0f}" for name in ("forced out", "fetched", "written back"))
        table.add_row(f"{each.rows:,}", f"{each.share:.0%}", f"{1e3 * each.prediction.cost.seconds:,.2f}", *moved)
    return table


def _table(title: str, firsts: Iterable[str], heads: Iterable[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for first in firsts:
        table.add_column(first, no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _bytes(num_bytes: int) -> str:
    mib = num_bytes / (1 << 20)
    return f"{mib / 1024:,.2f} GiB" if mib >= 1000 else f"{mib:,.0f} MiB"
