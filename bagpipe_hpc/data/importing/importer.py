"""Import of described tables as a data set, in passes over a stream of lines. Memory grows only with distinct values.

1. All ranks count lines, each in its part of the bytes. After that, every rank knows which lines are training lines and
   where each line is.
2. Each rank counts the values in its part of the training lines. Ranks merge the counts, and all keep the same
   vocabulary. Hashed columns need no counting. If there are histories, this pass also notes what the lines leave behind
   for later lines, and a pass before it notes the orders that the lines of later ranks must not fall below.
3. Each rank writes its own shards. A shard is a fixed range of lines, so its content does not depend on the rank.
4. Rank 0 writes vocabulary.h5, then dataset.json, and renames the directory.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.dataset import (
    SAMPLES_PER_SHARD,
    PartialDataset,
    Progress,
    ShardEntry,
    no_progress,
    num_training_samples,
    read_manifest,
    refuse_occupied,
    require_samples_per_shard,
)
from bagpipe_hpc.data.importing.bad_lines import BadLines, report_bad_lines
from bagpipe_hpc.data.importing.description import Category, CategoryList, TableDescription
from bagpipe_hpc.data.importing.dynamic_ids import dynamic_encoders
from bagpipe_hpc.data.importing.features import Features
from bagpipe_hpc.data.importing.inputs import Inputs
from bagpipe_hpc.data.importing.own_lines import OwnLines
from bagpipe_hpc.data.importing.ranks import Alone, Ranks, allgather_json, from_first, share_of
from bagpipe_hpc.data.importing.samples import SampleReader
from bagpipe_hpc.data.importing.shards import ShardTask, all_tasks, write_shards
from bagpipe_hpc.data.importing.times import TimeOrder
from bagpipe_hpc.data.importing.vocabularies import count_values, merge_counts
from bagpipe_hpc.data.schema import MAX_ROWS, Schema
from bagpipe_hpc.data.shard import Compression
from bagpipe_hpc.data.vocabulary import Encoder, HashedVocabulary, ValueCounter, Vocabulary, require_min_count
from bagpipe_hpc.data.vocabulary_file import FILE as VOCABULARY
from bagpipe_hpc.data.vocabulary_file import TableVocabulary, read_vocabulary, vocabulary_digest, write_vocabulary
from bagpipe_hpc.errors import ConfigError, DatasetError
from bagpipe_hpc.sharding import Int64Array

VALIDATION_FRACTION = 0.1


@dataclass(frozen=True)
class ImportSettings:
    """How to import.

    Args:
        min_count: Values that occur less often in the training part share row 0, unless their column says otherwise.
        hash_rows: If given, hash values to this many rows per table, unless their column says otherwise.
        validation_fraction: Fraction of the lines, the latest ones, that become the validation split; None:
            VALIDATION_FRACTION. Samples without labels all belong to the validation split.
        samples_per_shard: Lines of every shard, except the last of a split. A shard with bad lines has fewer samples.
        max_bad_lines: Lines to skip, on all ranks together, before the import ends with an error.
        vocabulary: A data set. Values get the rows that they have there, instead of being counted or hashed.
    """

    min_count: int = 4
    hash_rows: int | None = None
    validation_fraction: float | None = None
    samples_per_shard: int = SAMPLES_PER_SHARD
    compression: Compression | None = None
    max_bad_lines: int = 0
    vocabulary: Path | None = None

    def check(self) -> None:
        """Raise ConfigError if a setting is out of range."""
        require_min_count(self.min_count)
        HashedVocabulary(2 if self.hash_rows is None else self.hash_rows)
        num_training_samples(1, self.validation_fraction or 0)
        require_samples_per_shard(self.samples_per_shard)
        if self.max_bad_lines < 0:
            raise ConfigError(f"the limit of bad lines is {self.max_bad_lines}, but must be at least 0")


def import_files(
    files: Sequence[Path],
    output: Path,
    description: TableDescription,
    settings: ImportSettings | None = None,
    *,
    command: str = "import table",
    ranks: Ranks | None = None,
    progress: Progress = no_progress,
) -> None:
    """Make a data set from files. The result does not depend on the number of ranks.

    Args:
        files: Files in time order. All ranks see them, and the output, under these paths.
        output: Directory of the data set; must not exist, or must be empty.
        command: Command name for the data set's origin.
    Raises:
        ConfigError: A setting is out of range.
        DatasetError: A file is missing, damaged or malformed; names file, line, column and reason. It is raised on the
            rank that found it; the caller must end the other ranks.
    Communication: collective.
    """
    _Import(files, output, description, settings or ImportSettings(), ranks or Alone(), progress).run(command)


@dataclass(frozen=True)
class _Import:
    files: Sequence[Path]
    output: Path
    description: TableDescription
    settings: ImportSettings
    ranks: Ranks
    progress: Progress

    def run(self, command: str) -> None:
        from_first(self.ranks, self._check)
        known = self._known_vocabulary()
        inputs = Inputs(self.files, self.description, self.ranks, self.progress)
        from_first(self.ranks, lambda: self._check_lines(inputs))
        num_train = self._num_train(inputs.num_lines)
        features = Features(self.description, inputs.header)
        tasks = all_tasks(num_train, inputs.num_lines, self.settings.samples_per_shard)
        tasks = tasks[slice(*share_of(len(tasks), self.ranks))]
        span = (tasks[0].start, tasks[-1].stop) if tasks else (0, 0)
        lines = OwnLines(inputs, self.description, span, self.settings.max_bad_lines, self.ranks, self.progress)
        lines.find_order()
        # Values of the validation split would leak the future. Samples without labels have no other split.
        num_counted = num_train if self.description.is_labelled else inputs.num_lines
        counted = [] if known else self._counted()
        counters = count_values(lines.to_count(counted, num_counted), features, counted, num_counted)
        vocabulary = known or self._new_vocabulary(counters)
        encoder_of: dict[str, Encoder] = {name: table.encoder for name, table in vocabulary.items()}
        encoder_of |= dynamic_encoders(self.description)
        lines.find_histories(encoder_of)
        encoders = [encoder_of[table.table_name] for table in self.description.tables]
        reader = SampleReader(inputs, self.description, features, encoders, lines.check, lines.histories)
        partial = PartialDataset(self.output, from_first(self.ranks, lambda: secrets.token_hex(4)))
        from_first(self.ranks, partial.make)
        try:
            self._write(partial, reader, vocabulary, tasks, command)
        except BaseException:
            # The rank that fails first removes the directory, and its error ends all ranks. The other ranks wait for
            # this end silently: their errors about the missing directory would hide the cause.
            if not partial.discard():
                self.ranks.await_end()
            raise

    def _check(self) -> None:
        refuse_occupied(self.output)
        self.settings.check()
        if not self.description.is_labelled and self.settings.validation_fraction is not None:
            raise ConfigError(
                "samples without labels all become the validation split, which `bagpipe predict` reads; remove "
                "--validation-fraction"
            )

    def _num_train(self, num_lines: int) -> int:
        """Return the number of training lines: 0 if samples have no labels."""
        if not self.description.is_labelled:
            return 0
        fraction = self.settings.validation_fraction
        return num_training_samples(num_lines, VALIDATION_FRACTION if fraction is None else fraction)

    def _check_lines(self, inputs: Inputs) -> None:
        if not inputs.num_lines:
            files = ", ".join(map(str, self.files[:5])) + (", ..." if len(self.files) > 5 else "")
            is_empty = all(file.stat().st_size == 0 for file in self.files)
            why = "is empty" if is_empty else "has no line with a sample"
            raise DatasetError(f"{files}: {why}; give at least one file with samples")

    def _known_vocabulary(self) -> dict[str, TableVocabulary] | None:
        """Return the vocabulary of the given data set. Rank 0 reads it first: only it reports errors."""
        if (path := self.settings.vocabulary) is None:
            return None
        self.progress("reading the vocabulary", 0, 0)
        known = self._read_vocabulary(path) if self.ranks.rank == 0 else None
        from_first(self.ranks, lambda: None)
        return known or self._read_vocabulary(path)

    def _read_vocabulary(self, path: Path) -> dict[str, TableVocabulary]:
        """Return the vocabulary by table. The tables must be those of the data set, so that one model can use both."""
        found, schema = read_vocabulary(path), read_manifest(path).sample_schema
        tables = self.description.tables
        types = {name: table.type for name, table in found.items()}
        rows = {name: table.encoder.num_embeddings for name, table in found.items()}
        rows |= {table.feature_name: table.dynamic.num_rows for table in tables if table.dynamic is not None}
        ours = _as_recorded(self.description.schema_of([rows.get(table.table_name, 1) for table in tables]), schema)
        fault, dynamic = schema.difference_of_features(ours), schema.dynamic_tables
        if not fault and types != {each.table_name: each.type for each in tables if each.table_name not in dynamic}:
            fault = f"values are {types}"
        if fault:
            raise DatasetError(
                f"{path}: differs from the input ({fault}); give --vocabulary a data set of the same columns"
            )
        return {table.table_name: found[table.table_name] for table in tables if not (table.shares or table.dynamic)}

    def _counted(self) -> list[Category | CategoryList]:
        """Return the features whose values are counted."""
        tables = self.description.tables
        dynamic = {table.feature_name for table in tables if table.dynamic is not None}
        hashed = {table.feature_name for table in tables if table.shares is None and self._hash_rows(table)}
        return [table for table in tables if table.table_name not in hashed | dynamic]

    def _new_vocabulary(self, counters: Mapping[str, ValueCounter]) -> dict[str, TableVocabulary]:
        return {
            table.feature_name: TableVocabulary(table.type, self._encoder(table, counters.get(table.feature_name)))
            for table in self.description.tables
            if table.shares is None and table.dynamic is None
        }

    def _encoder(self, table: Category | CategoryList, counter: ValueCounter | None) -> Encoder:
        if counter is None:
            return HashedVocabulary(self._hash_rows(table) or 2)
        min_count = self.settings.min_count if table.min_count is None else table.min_count
        if self.ranks.size > 1:
            self.progress("merging the counts of all ranks", 0, 0)
        return Vocabulary(merge_counts(counter, min_count, self.ranks).frequent(min_count))

    def _hash_rows(self, table: Category | CategoryList) -> int | None:
        if table.hash_rows is None and table.min_count is None:
            return self.settings.hash_rows
        return table.hash_rows

    def _write(
        self,
        partial: PartialDataset,
        reader: SampleReader,
        vocabulary: dict[str, TableVocabulary],
        tasks: Sequence[ShardTask],
        command: str,
    ) -> None:
        if self.ranks.rank == 0:
            self.progress("writing the vocabulary", 0, 0)
            write_vocabulary(partial.directory / VOCABULARY, vocabulary)
            partial.sync(VOCABULARY)
        rows = [encoder.num_embeddings for encoder in reader.encoders]
        if (total := sum(table.encoder.num_embeddings for table in vocabulary.values())) > MAX_ROWS:
            raise ConfigError(
                f"the tables have {total} rows together, but at most 2^62 are possible; hash to fewer rows"
            )
        schema = self.description.schema_of(rows)
        start, stop = (tasks[0].start, tasks[-1].stop) if tasks else (0, 0)
        bad = BadLines(self.settings.max_bad_lines, stop)

        def watch(line: int) -> None:
            self.progress("writing shards", line - start, stop - start)

        watch(start)
        samples = self._watched(reader.read(start, stop, bad), watch) if tasks else iter(())
        if (time := self.description.time) is not None:
            order = TimeOrder(reader.inputs.place_of, time.feature_name)
            samples = order.watch(samples)
        # A block of lines may be many small shards, and after a signal a launcher does not wait long for its ranks.
        compression = self.settings.compression
        shards = write_shards(samples, tasks, partial, schema, compression, lambda task: watch(task.stop))
        if self.ranks.size > 1:
            self.progress("waiting for other ranks", 0, 0)
        if time is not None:
            order.check_ranks(self.ranks)
        written = allgather_json(self.ranks, [shard.model_dump() for shard in shards])
        shards = [ShardEntry.model_validate(shard) for shards_of_rank in written for shard in shards_of_rank]
        skipped = report_bad_lines(self.ranks, bad)
        self.progress("writing dataset.json", 0, 0)
        origin = self._origin(command, skipped)
        from_first(self.ranks, lambda: partial.commit(schema, shards, origin, vocabulary_digest(vocabulary)))

    def _watched(
        self, samples: Iterator[tuple[Int64Array, Batch]], watch: Callable[[int], None]
    ) -> Iterator[tuple[Int64Array, Batch]]:
        for lines, batch in samples:
            yield lines, batch
            if len(lines):
                watch(int(lines[-1]) + 1)

    def _origin(self, command: str, skipped: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return {
            "command": command,
            "files": [_printable(file.name) for file in self.files],
            **self._rows_origin(),
            **self._split_origin(),
            **({"bad_lines": skipped} if skipped["count"] else {}),
        }

    def _split_origin(self) -> dict[str, JsonValue]:
        if not self.description.is_labelled:
            return {}
        fraction = self.settings.validation_fraction
        return {"validation_fraction": VALIDATION_FRACTION if fraction is None else fraction}

    def _rows_origin(self) -> dict[str, JsonValue]:
        settings = self.settings
        if settings.vocabulary is not None:
            return {"vocabulary": _printable(settings.vocabulary.resolve().name)}
        return {"min_count": settings.min_count} if settings.hash_rows is None else {"hash_rows": settings.hash_rows}


def _printable(name: str) -> str:
    """Return a file name as text. Bytes that are not UTF-8 become escapes, because JSON cannot hold them."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _as_recorded(ours: Schema, recorded: Schema) -> Schema:
    """Return our schema without the types of ids that an earlier release has not recorded in a data set."""
    known = {table.name for table in recorded.tables if table.id_type is not None}
    unknown = {"id_type": None}
    tables = [table if table.name in known else table.model_copy(update=unknown) for table in ours.tables]
    return ours.model_copy(update={"tables": tuple(tables)})
