"""Commands that make and examine data sets: `import criteo|avazu|table`, `synth`, `inspect`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bagpipe_hpc.cli.pages import require_libraries, write_page
from bagpipe_hpc.cli.printed_json import AsJson, print_json
from bagpipe_hpc.exit_codes import EXIT_FAILURE

if TYPE_CHECKING:
    from rich.table import Table

    from bagpipe_hpc.data.dataset import Dataset
    from bagpipe_hpc.data.importing.description import TableDescription
    from bagpipe_hpc.data.importing.importer import ImportSettings
    from bagpipe_hpc.data.inspect import DatasetReport, TableReport
    from bagpipe_hpc.data.inspect_reuse import AccessReport
    from bagpipe_hpc.data.inspect_sequences import SequenceReport
    from bagpipe_hpc.data.shard import Compression

app = typer.Typer()
import_app = typer.Typer(help="Make a data set from the files of a click log or a table.", no_args_is_help=True)
app.add_typer(import_app, name="import")


class CompressionChoice(StrEnum):
    """Values of --compression."""

    NONE = "none"
    LZF = "lzf"
    GZIP = "gzip"

    @property
    def filter(self) -> Compression | None:
        """The compression, as the data package names it."""
        if self is CompressionChoice.NONE:
            return None
        return "gzip" if self is CompressionChoice.GZIP else "lzf"


class ProfileChoice(StrEnum):
    """Values of --profile."""

    CRITEO_KAGGLE = "criteo-kaggle"
    CRITEO_TERABYTE = "criteo-terabyte"
    AVAZU = "avazu"
    HISTORIES = "histories"


Output = Annotated[Path, typer.Option(help="Directory of the new data set; it must not exist, or must be empty.")]
ValidationFraction = Annotated[
    float, typer.Option(help="Fraction of the samples, the latest in time, that become the validation split.")
]
ImportedFraction = Annotated[
    float | None,
    typer.Option(help="Fraction of the samples, the latest in time, that become the validation split. [default: 0.1]"),
]
NoLabel = Annotated[
    bool,
    typer.Option("--no-label", help="Read no labels, for `bagpipe predict`. The files may lack the label column."),
]
SamplesPerShard = Annotated[int, typer.Option(help="Samples in each HDF5 file.")]
CompressionOption = Annotated[CompressionChoice, typer.Option(help="none is fastest to read, gzip is smallest.")]


MinCount = Annotated[int, typer.Option(help="Values that occur less often than this share one out-of-vocabulary row.")]
HashRows = Annotated[
    int | None, typer.Option(help="Hash values to this many rows per table, instead of counting them.")
]
VocabularyOption = Annotated[
    Path | None,
    typer.Option(
        help="Give values the rows that they have in this imported data set, instead of counting or hashing them."
    ),
]
MaxBadLines = Annotated[int, typer.Option(help="Skip and report up to this many malformed lines; then stop.")]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Text files, plain or gzip, or Parquet files, in time order.")
]


def _add_click_log(name: str, words: str) -> None:
    """Add the command `bagpipe import NAME` for the public click log that `click_logs.NAME` describes."""

    @import_app.command(name, help=f"Import {words}")
    def import_click_log(
        files: Files,
        output: Output,
        min_count: MinCount = 4,
        hash_rows: HashRows = None,
        validation_fraction: ImportedFraction = None,
        samples_per_shard: SamplesPerShard = 1 << 20,
        compression: CompressionOption = CompressionChoice.NONE,
        max_bad_lines: MaxBadLines = 0,
        vocabulary: VocabularyOption = None,
        no_label: NoLabel = False,
    ) -> None:
        from bagpipe_hpc.data.importing import click_logs
        from bagpipe_hpc.data.importing.importer import ImportSettings

        filter_ = compression.filter
        settings = ImportSettings(
            min_count, hash_rows, validation_fraction, samples_per_shard, filter_, max_bad_lines, vocabulary
        )
        _import(f"import {name}", files, output, lambda: getattr(click_logs, name.upper()), settings, no_label)


_add_click_log("criteo", "Criteo click logs (Kaggle, Terabyte): TSV of label, 13 integers, 26 hexadecimal categories.")
_add_click_log("avazu", "the Avazu click log: CSV with a header and 22 categories. The column id is ignored.")


@import_app.command("table")
def import_table(
    files: Files,
    schema: Annotated[Path, typer.Option(help="YAML file that describes the columns; see docs/data.md.")],
    output: Output,
    min_count: MinCount = 4,
    hash_rows: HashRows = None,
    validation_fraction: ImportedFraction = None,
    samples_per_shard: SamplesPerShard = 1 << 20,
    compression: CompressionOption = CompressionChoice.NONE,
    max_bad_lines: MaxBadLines = 0,
    vocabulary: VocabularyOption = None,
    no_label: NoLabel = False,
) -> None:
    """Import a table in CSV, TSV or Parquet files that a schema file describes."""
    from bagpipe_hpc.data.importing.importer import ImportSettings
    from bagpipe_hpc.data.importing.schema_file import load_description

    filter_ = compression.filter
    settings = ImportSettings(
        min_count, hash_rows, validation_fraction, samples_per_shard, filter_, max_bad_lines, vocabulary
    )
    _import("import table", files, output, lambda: load_description(schema), settings, no_label)


def _import(
    command: str,
    files: list[Path],
    output: Path,
    describe: Callable[[], TableDescription],
    settings: ImportSettings,
    no_label: bool,
) -> None:
    """Import on all ranks of the launch; rank 0 prints the messages."""
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.cli.ranks import heeding_signals, ranks_of_launch
    from bagpipe_hpc.data.dataset import no_progress, open_dataset
    from bagpipe_hpc.data.importing.description import TableDescription
    from bagpipe_hpc.data.importing.importer import import_files
    from bagpipe_hpc.data.importing.ranks import from_first

    with ranks_of_launch() as ranks:
        description = TableDescription.model_validate(from_first(ranks, lambda: describe().model_dump(mode="json")))
        if no_label:
            description = description.without_label()
        with showing_activity() if ranks.rank == 0 else nullcontext(no_progress) as shown:
            progress = heeding_signals(shown)
            import_files(files, output, description, settings, command=command, ranks=ranks, progress=progress)
            if ranks.rank == 0:
                progress("opening all shards", 0, 0)
                dataset = open_dataset(output)
        if ranks.rank == 0:
            _print_bad_lines(dataset)
            _print_empty_tables(dataset, settings)
            if description.label is None and settings.vocabulary is None and not _all_hashed(description, settings):
                typer.echo(
                    "bagpipe: note: values have new row numbers here, which no trained model knows; to predict with "
                    "a model, give --vocabulary the data set that it was trained on",
                    err=True,
                )
            _print_summary(dataset)


def _print_empty_tables(dataset: Dataset, settings: ImportSettings) -> None:
    """Name the tables whose only row is that of missing and rare values: the user hardly wants this."""
    empty = [table.name for table in dataset.schema.own_tables if table.num_embeddings == 1]
    if empty and settings.vocabulary is None:
        names = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        typer.echo(
            f"bagpipe: note: no value of {names} occurs {settings.min_count} times or more, so all values share row 0"
            + ("; lower --min-count to give them rows of their own" if settings.min_count > 1 else ": all are missing"),
            err=True,
        )


def _all_hashed(description: TableDescription, settings: ImportSettings) -> bool:
    own = [table for table in description.tables if table.shares is None]
    return all(table.hash_rows or (settings.hash_rows and not table.min_count) for table in own)


def _print_bad_lines(dataset: Dataset) -> None:
    skipped = dataset.origin.get("bad_lines")
    if isinstance(skipped, dict):
        count, first = skipped["count"], skipped["first"]
        typer.echo(f"bagpipe: note: skipped {count} bad line{'s' if count != 1 else ''}; the first:", err=True)
        for fault in first if isinstance(first, list) else []:
            typer.echo(f"  {fault}", err=True)


@app.command()
def synth(
    output: Output,
    samples: Annotated[int, typer.Option(help="Number of samples, both splits together.")],
    profile: Annotated[
        ProfileChoice,
        typer.Option(help="Take the tables of this data set; histories: users, items and click histories."),
    ] = ProfileChoice.CRITEO_KAGGLE,
    scale: Annotated[float, typer.Option(help="Multiply the tables' numbers of rows by this.")] = 1.0,
    skew: Annotated[float, typer.Option(help="Exponent of the ids' Zipf distribution; 0: uniform.")] = 1.05,
    seed: Annotated[int, typer.Option(help="Seed of the ids and the labels.")] = 0,
    bag_size: Annotated[
        int, typer.Option(help="Add a ragged table with this many ids per sample on average; 0: do not.")
    ] = 0,
    history_length: Annotated[
        int | None, typer.Option(help="With --profile histories: average elements of a history.  [default: 30]")
    ] = None,
    labels: Annotated[
        bool,
        typer.Option("--labels", help="With --profile histories: three labels, one of them real, weights and groups."),
    ] = False,
    drift: Annotated[
        int,
        typer.Option(help="Samples of a day: ids of large tables come and go, each lives five days; 0: they stay."),
    ] = 0,
    validation_fraction: ValidationFraction = 0.1,
    samples_per_shard: SamplesPerShard = 1 << 20,
    compression: CompressionOption = CompressionChoice.NONE,
) -> None:
    """Make a synthetic click log with skewed ids and with labels that a model can learn."""
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.cli.ranks import heeding_signals, noting_signals
    from bagpipe_hpc.data import synthetic

    with noting_signals(), showing_activity() as progress:
        dataset = synthetic.synthesize(
            output,
            samples,
            profile.value,
            scale=scale,
            skew=skew,
            seed=seed,
            bag_size=bag_size,
            history_length=30 if history_length is None and profile is ProfileChoice.HISTORIES else history_length or 0,
            labels=labels,
            drift=drift,
            validation_fraction=validation_fraction,
            samples_per_shard=samples_per_shard,
            compression=compression.filter,
            progress=heeding_signals(progress),
        )
    _print_summary(dataset)


@app.command("inspect")
def inspect_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory of a data set.")],
    max_samples: Annotated[
        int | None, typer.Option(min=0, help="Read only this many samples of each split; 0: none.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Only compare every file with its checksums; the exit status is 1 if one differs."
        ),
    ] = False,
    as_json: AsJson = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a page with pictures, for a browser.")
    ] = None,
) -> None:
    """Check every sample of a data set and show its counts, schema, skew, and how soon rows are used again."""
    if verify:
        _verify(directory, as_json=as_json)
        return
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.data.dataset import open_dataset, read_manifest
    from bagpipe_hpc.data.inspect import inspect_dataset

    read_manifest(directory)
    if html is not None:
        require_libraries("--html", "leave it out")
    with showing_activity("opening all shards") as progress:
        dataset = open_dataset(directory)
        report = inspect_dataset(dataset, max_samples=max_samples, progress=progress)
    if as_json:
        print_json({"path": str(dataset.path), "schema": dataset.schema.model_dump(mode="json"), **asdict(report)})
    else:
        _print_report(dataset, report)
    if html is not None:
        from bagpipe_hpc.report.dataset_page import page_of_dataset

        write_page(html, page_of_dataset(dataset, report).encode(), "--html")
        print(f"page {html}", file=sys.stderr)


def _verify(directory: Path, *, as_json: bool) -> None:
    from bagpipe_hpc.activity import showing_activity
    from bagpipe_hpc.data.verify import verify_files

    found: list[dict[str, str | None]] = []
    with showing_activity() as activity:
        for file, fault in verify_files(directory, activity):
            found.append({"path": str(directory / file), "fault": None if fault is None else str(fault)})
            if not as_json:
                with activity.paused():
                    print(f"damaged  {fault}" if fault else f"good     {directory / file}", flush=True)
    if as_json:
        print_json(found)
    if any(each["fault"] is not None for each in found):
        raise typer.Exit(EXIT_FAILURE)


def _print_summary(dataset: Dataset) -> None:
    from rich.text import Text

    from bagpipe_hpc.runtime.console import open_console

    console = open_console()
    schema = dataset.schema
    num_bytes = sum(file.stat().st_size for file in dataset.path.rglob("*.h5"))
    num_shards = len(dataset.train.shards) + len(dataset.validation.shards)
    lines = Text.assemble(
        ("✓ " if console.encoding.startswith("utf") else "", "green"),
        (str(dataset.path), "bold"),
        f"\n  {_samples_of(dataset)}",
        f"\n  {_count(schema.num_dense, 'dense feature')}, {_count(schema.num_tables, 'table')}, "
        f"{_count(sum(schema.num_embeddings), 'row')}",
        f"\n  {_count(num_shards, 'shard')}, {_size(num_bytes)}",
        (f"\n  bagpipe inspect {dataset.path}", "dim"),
    )
    console.print(lines, soft_wrap=True)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _samples_of(dataset: Dataset) -> str:
    if not dataset.schema.labelled:
        return f"{dataset.validation.num_samples:,} samples without labels, only for `bagpipe predict`"
    return f"{dataset.train.num_samples:,} training and {dataset.validation.num_samples:,} validation samples"


def _print_report(dataset: Dataset, report: DatasetReport) -> None:
    from bagpipe_hpc.runtime.console import open_console

    console = open_console()
    console.print(f"{dataset.path}", style="bold", soft_wrap=True)
    console.print(", ".join(f"{key}: {value}" for key, value in dataset.origin.items()), style="dim")
    console.print(f"dense features: {', '.join(dataset.schema.dense) or 'none'}")
    if not dataset.schema.labelled:
        console.print("no labels: only for `bagpipe predict`")
    elif not dataset.schema.has_plain_labels or dataset.schema.group is not None:
        console.print(f"labels: {'; '.join(map(str, dataset.schema.labels))}")
        console.print(
            f"sample weights: {'yes' if dataset.schema.weighted else 'no'}; groups: {dataset.schema.group or 'none'}"
        )
    for split in report.splits:
        if split.times is not None:
            first, last = split.times
            console.print(f"times of {split.name} ({dataset.schema.time}): from {first} to {last}")
    console.print(f"chunks of {report.chunk_rows:,} samples, compression: {report.compression or 'none'}")
    console.print(_splits_table(dataset, report))
    console.print(_tables_table(dataset, report))
    if report.sequences:
        console.print(_sequences_table(report))
        for sequence in report.sequences:
            if elements := _elements_of(dataset, sequence):
                console.print(f"{sequence.name}: {elements}", soft_wrap=True)
    if report.accesses is not None:
        console.print(_reuse_table(report.accesses))
        for line in _access_lines(report.accesses):
            console.print(line, highlight=False, soft_wrap=True)


def _reuse_table(accesses: AccessReport) -> Table:
    shares = [f"{need.share:.0%}" for need in accesses.reuses[0].needs]
    heads = [f"{name}, {share}" for share in shares for name in ("L", "slots")]
    table = _columns("B", "batches", "rows", "most", "new", "distance", *heads)
    for each in accesses.reuses:
        needs = [
            text
            for need in each.needs
            for text in ("-" if need.window is None else f"{need.window:,}", f"{need.rows:,}")
        ]
        table.add_row(
            f"{each.batch_size:,}",
            f"{each.num_batches:,}",
            f"{each.unique_rows:,.0f}",
            f"{each.most_unique_rows:,}",
            f"{each.new_share:.1%}",
            f"{each.median_distance:,}",
            *needs,
        )
    return table


def _access_lines(accesses: AccessReport) -> Iterable[str]:
    """Yield what the figures mean, line by line."""
    yield (
        "by batch size: rows of a batch (mean, most); new: uses that are the first of their row; distance: batches "
        "from a use of a row to the next one (median); L: a window that has this part of all next uses, and the slots "
        "of all caches together that it needs"
    )
    shares = ", ".join(f"{hot:.1%} on the most used {part:.1%}" for part, hot in accesses.hot_shares)
    yield f"accesses of training samples: {shares} of the rows that occur"
    if accesses.drift is not None:
        yield (
            f"drift: {accesses.drift:.1%} of the {accesses.drift_rows:,} most used rows of the first tenth of the "
            "samples are not among the most used rows of the last tenth"
        )
    for each in accesses.reuses:
        first = each.needs[0]
        if first.window is not None:
            yield (
                f"B = {each.batch_size:,}: with lookahead.window {max(1, first.window)}, {first.share:.0%} of the uses "
                f"of a row again find it in a cache, which takes about {first.rows:,} slots of all trainers together "
                f"(cache.rows: {first.rows:,} / number of trainers, and a quarter more)"
            )


def _label_means(dataset: Dataset, means: tuple[float, ...]) -> str:
    shown = ["-" if math.isnan(mean) else f"{mean:.4f}" for mean in means]
    if len(shown) == 1:
        return shown[0]
    return ", ".join(f"{label.name} {mean}" for label, mean in zip(dataset.schema.labels, shown, strict=True))


def _splits_table(dataset: Dataset, report: DatasetReport) -> Table:
    table = _columns("split", "samples", "read", "label mean", "shards", "size", "largest shard")
    for split in report.splits:
        table.add_row(
            split.name,
            f"{split.num_samples:,}",
            f"{split.num_read:,}",
            _label_means(dataset, split.label_means),
            f"{len(split.shard_bytes):,}",
            _size(sum(split.shard_bytes)),
            _size(max(split.shard_bytes, default=0)),
        )
    return table


def _tables_table(dataset: Dataset, report: DatasetReport) -> Table:
    table = _columns("table", "kind", "rows", "occur", "accesses", "on hottest 1 %")
    for table_schema, table_report in zip(dataset.schema.tables, report.tables, strict=True):
        table.add_row(table_report.name, table_schema.kind, *_accesses(table_report))
    table.add_section()
    table.add_row("all", "", *_accesses(report.all_tables))
    return table


def _sequences_table(report: DatasetReport) -> Table:
    table = _columns("sequence", "samples without", "mean length", "median", "95 %", "longest", "distinct ids")
    distinct = {each.name: each.num_distinct for each in report.tables}
    for each in report.sequences:
        table.add_row(
            each.name,
            f"{each.num_empty:,}" + (f" ({each.num_empty / each.num_samples:.1%})" if each.num_samples else ""),
            f"{each.mean_length:.1f}",
            f"{each.median_length:,}",
            f"{each.long_length:,}",
            f"{each.max_length:,}",
            f"{distinct[each.name]:,}",
        )
    return table


def _elements_of(dataset: Dataset, sequence: SequenceReport) -> str:
    """Return the ranges of the values of elements, and what goes along with them; empty if there is neither."""
    parts = [f"{name} from {_shown(least)} to {_shown(most)}" for name, least, most in sequence.ranges]
    along = [each.name for each in dataset.schema.sequences if each.along == sequence.name]
    return ", ".join([*parts, *([f"along with it {' and '.join(along)}"] if along else [])])


def _shown(value: float) -> str:
    """Return an integer with all of its digits, another number with six."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _accesses(report: TableReport) -> tuple[str, ...]:
    share = f"{report.hot_share:.1%}" if report.num_accesses else "-"
    return f"{report.num_embeddings:,}", f"{report.num_distinct:,}", f"{report.num_accesses:,}", share


def _columns(first: str, *others: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _size(num_bytes: int) -> str:
    from rich.filesize import decimal

    return decimal(num_bytes)
