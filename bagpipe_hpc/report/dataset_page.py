"""What `bagpipe inspect` found, as one HTML page, which needs no network."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.inspect import DatasetReport, TableReport
from bagpipe_hpc.data.inspect_reuse import REUSE_SHARES, AccessReport
from bagpipe_hpc.report.dataset_charts import pictures_of_dataset
from bagpipe_hpc.report.key_figures import KeyFigure, bytes_in_words
from bagpipe_hpc.report.page import rendered
from bagpipe_hpc.version import __version__


@dataclass(frozen=True)
class _Table:
    title: str
    says: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    is_wide: bool = False


def page_of_dataset(dataset: Dataset, report: DatasetReport) -> str:
    """Return the page.

    Args:
        dataset: The data set.
        report: What was found in it.
    Communication: none.
    """
    origin: Mapping[str, object] = dataset.origin
    return rendered(
        "dataset.html.j2",
        pictures_of_dataset(report),
        title=dataset.path.resolve().name,
        subtitle=", ".join(f"{key}: {value}" for key, value in origin.items()),
        tiles=_tiles(report),
        tables=[table for table in _tables(report) if table.rows],
        footer=f"bagpipe_hpc {__version__}, {time.strftime('%Y-%m-%d %H:%M:%S')}: {dataset.path.resolve()}",
    )


def _tiles(report: DatasetReport) -> list[KeyFigure]:
    num_samples, num_read = (sum(getattr(each, name) for each in report.splits) for name in ("num_samples", "num_read"))
    num_bytes = sum(sum(each.shard_bytes) for each in report.splits)
    everything = report.all_tables
    rows_seen = f"{everything.num_distinct:,} of them occur"
    tiles = [
        KeyFigure("samples", f"{num_samples:,}", f"{num_read:,} were read" if num_read < num_samples else "all read"),
        KeyFigure(
            "size", bytes_in_words(num_bytes), f"{sum(len(each.shard_bytes) for each in report.splits):,} shards"
        ),
        KeyFigure("rows", f"{everything.num_embeddings:,}", f"in {len(report.tables):,} features; {rows_seen}"),
        KeyFigure("hottest 1 %", f"{everything.hot_share:.0%}", "of all accesses go to 1 % of the rows that occur"),
    ]
    return tiles if report.accesses is None else tiles + _access_tiles(report.accesses)


def _access_tiles(accesses: AccessReport) -> list[KeyFigure]:
    tiles = []
    if accesses.drift is not None:
        note = (
            f"of the {accesses.drift_rows:,} hottest rows of the first tenth are no longer among them in the last one"
        )
        tiles.append(KeyFigure("drift", f"{accesses.drift:.0%}", note))
    each = accesses.reuses[min(1, len(accesses.reuses) - 1)]
    tiles.append(KeyFigure("first uses", f"{each.new_share:.0%}", f"of the rows of a batch, B = {each.batch_size:,}"))
    for need in each.needs:
        if need.window is not None:
            note = f"for {need.share:.0%} of the uses again, B = {each.batch_size:,}; {need.rows:,} slots of all caches"
            tiles.append(KeyFigure("lookahead.window", f"{max(1, need.window):,}", note))
    return tiles


def _tables(report: DatasetReport) -> list[_Table]:
    splits = [
        (each.name, f"{each.num_samples:,}", f"{each.num_read:,}", *_span(each.times), f"{len(each.shard_bytes):,}",
         bytes_in_words(sum(each.shard_bytes)))
        for each in report.splits
    ]  # fmt: skip
    sequences = [
        (each.name, f"{each.num_empty:,}", f"{each.mean_length:.1f}", f"{each.median_length:,}",
         f"{each.long_length:,}", f"{each.max_length:,}")
        for each in report.sequences
    ]  # fmt: skip
    heads = ("feature", "rows", "occur", "accesses", "on the hottest 1 %")
    tables = [_accesses(each) for each in (*report.tables, report.all_tables)]
    return [
        _Table("Splits", "", ("split", "samples", "read", "from", "to", "shards", "size"), splits),
        _windows(report.accesses),
        _Table("Sequences", "Elements of a sample.",
               ("sequence", "samples without", "mean", "median", "95 %", "longest"), sequences),
        _Table("Features", "Rows of the table that each feature uses.", heads, tables, is_wide=True),
    ]  # fmt: skip


def _windows(accesses: AccessReport | None) -> _Table:
    heads = ("B", *(f"{name}, {share:.0%}" for share in REUSE_SHARES for name in ("L", "slots")))
    rows = [
        (f"{each.batch_size:,}", *(text for need in each.needs for text in
         ("longer" if need.window is None else f"{max(1, need.window):,}", f"{need.rows:,}")))
        for each in (accesses.reuses if accesses else ())
    ]  # fmt: skip
    says = (
        "The lookahead window L that has this part of all uses again, and the slots of all caches together that it "
        "needs. Set cache.rows to these slots divided by the number of trainers, and a quarter more."
    )
    return _Table("What it means for lookahead.window and cache.rows", says, heads, rows)


def _span(times: tuple[int, int] | None) -> tuple[str, str]:
    return ("-", "-") if times is None else (str(times[0]), str(times[1]))


def _accesses(table: TableReport) -> tuple[str, ...]:
    return (
        table.name, f"{table.num_embeddings:,}", f"{table.num_distinct:,}", f"{table.num_accesses:,}",
        f"{table.hot_share:.1%}",
    )  # fmt: skip
