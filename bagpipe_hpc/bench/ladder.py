"""The same job several times, each time with one optimisation more, compared with a bound.

Each job is a *rung*; all train the same three epochs. The figure of a rung is its median iteration in the middle epoch,
in which caches are warm. The bound is the figure of a job whose lookahead window holds the whole stream. If its caches
are large enough, every row is resident in the middle epoch and servers have nothing to do, so its time is that of
computing and of the exchange between trainers. Assignment by locality has a bound of its own, because it reduces the
exchange.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from bagpipe_hpc.bench.compact_table import compact_table

NUM_EPOCHS = 3
CACHED = ("mode=cached",)
WITHOUT_PREFETCH = ("lookahead.prefetch_depth=0", "lookahead.delayed_synchronisation=false")
WITHOUT_DELAY = ("lookahead.delayed_synchronisation=false",)
LOCALITY = "oracle.placement=locality"
ROUNDED = "training.wire_dtype=float16"
WHOLE_STREAM = "lookahead.window=100000"  # the largest setting; a window is never larger than the stream


@dataclass(frozen=True)
class Rung:
    """One job of the ladder.

    Args:
        name: Title of the row in the table.
        directory: Name of its run directory.
        overrides: Settings in addition to those of the whole ladder.
        model: Rungs with the same model must end with the same digest.
        bound: Directory of the rung that is its bound.
    """

    name: str
    directory: str
    overrides: tuple[str, ...]
    model: str = "contiguous"
    bound: str = "resident"


RUNGS = (
    Rung("synchronous", "synchronous", ("mode=synchronous",)),
    Rung("+ cache", "cache", (*CACHED, *WITHOUT_PREFETCH)),
    Rung("+ prefetch", "prefetch", (*CACHED, *WITHOUT_DELAY)),
    Rung("+ delayed", "delayed", CACHED),
    Rung("+ locality", "locality", (*CACHED, LOCALITY), "locality", "resident-locality"),
    Rung("+ 16-bit wire", "wire", (*CACHED, LOCALITY, ROUNDED), "16-bit wire", "resident-locality"),
    Rung("resident", "resident", (*CACHED, WHOLE_STREAM)),
    Rung(
        "resident + locality", "resident-locality", (*CACHED, LOCALITY, WHOLE_STREAM), "locality", "resident-locality"
    ),
)
COMMON = (f"training.epochs={NUM_EPOCHS}", "evaluation.enabled=false", "checkpoint.enabled=false")


def rungs_named(names: str, blocks: Sequence[int] = ()) -> list[Rung]:
    """Return the rungs of a list of directories, separated by commas; empty: all rungs.

    Args:
        names: The list.
        blocks: Numbers of blocks. Each adds a rung to the list: that of all exact optimisations for contiguous samples.
    Raises:
        ValueError: Names a rung that does not exist.
    """
    chosen = [name for name in names.split(",") if name]
    known = {rung.directory: rung for rung in RUNGS}
    for name in chosen:
        if name not in known:
            raise ValueError(f"{name!r} is not a rung; the rungs are {', '.join(known)}")
    rungs = [rung for rung in RUNGS if not chosen or rung.directory in chosen]
    return rungs + [_rung_of_blocks(number) for number in dict.fromkeys(blocks)]


def _rung_of_blocks(number: int) -> Rung:
    name = f"{number} block{'s' if number > 1 else ''}"
    return Rung(name, f"{number}-blocks", (*CACHED, f"training.blocks={number}"), model=name)


def read_summaries(directory: Path, rungs: list[Rung]) -> dict[str, dict[str, Any]]:
    """Return the summaries of the rungs, by directory."""
    return {r.directory: json.loads((directory / r.directory / "summary.json").read_text("utf-8")) for r in rungs}


def wrong_digests(rungs: list[Rung], summaries: dict[str, dict[str, Any]]) -> list[str]:
    """Return the names of rungs whose model differs from that of the first rung that should have the same model."""
    firsts: dict[str, Any] = {}
    digests = {rung: summaries[rung.directory]["model_digest"] for rung in rungs}
    return [rung.name for rung, digest in digests.items() if digest != firsts.setdefault(rung.model, digest)]


def ladder_table(rungs: list[Rung], summaries: dict[str, dict[str, Any]]) -> Table:
    """Return a table of time per iteration, ratios to the first rung and to the rung's bound, waits, rows and bytes."""
    first = summaries[rungs[0].directory]
    table = compact_table(
        "median iteration of the middle epoch; waits, rows and MB are means over the job; 16-bit is not exact",
        "rung",
        ("ms", "x", "bound", "prefetch", "exchange", "delayed", "compute", "fetched", "pushed", "MB"),
    )
    for rung in rungs:
        summary, bound = summaries[rung.directory], summaries.get(rung.bound)
        milliseconds, times = summary["steady_milliseconds"], summary["milliseconds_per_iteration"]
        iterations = summary["iterations"]
        moved = sum(summary[f"bytes_{what}"] for what in ("fetched", "written_back", "exchanged"))
        table.add_row(
            rung.name,
            f"{milliseconds:.1f}",
            f"{first['steady_milliseconds'] / milliseconds:.2f}",
            f"{milliseconds / bound['steady_milliseconds']:.2f}" if bound else "",
            *(f"{times[cause]:.1f}" for cause in ("prefetch_wait", "exchange", "delayed_wait", "compute")),
            f"{summary['rows_fetched'] / iterations:,.0f}",
            f"{summary['rows_pushed'] / iterations:,.0f}",
            f"{moved / iterations / 1e6:.1f}",
        )
    return table
