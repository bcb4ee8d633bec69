"""Which features a model gets as one vector per sample, and which as sequences. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from bagpipe_hpc.config import Config, TableConfig
from bagpipe_hpc.data.item_features import item_features
from bagpipe_hpc.data.schema import Schema, TableSchema


@dataclass(frozen=True)
class SequenceInput:
    """A sequence that a model gets, with those that go along with it.

    Args:
        name: Its name.
        target: The position in `embedded` of the first one-hot feature that uses the same table, such as the candidate
            item of a history of items; None: there is none.
        along: The names of the sequences that go along.
        integers: The names of the integer values of its elements.
    """

    name: str
    target: int | None
    along: tuple[str, ...]
    integers: tuple[str, ...] = ()

    def time_element(self, name: str | None) -> str | None:
        """Return which integer value is the time of elements; None: no one is.

        Args:
            name: Its name; None: `time` or, if there is none of this name, the only integer value.
        """
        if name is not None:
            return name if name in self.integers else None
        only = self.integers[0] if len(self.integers) == 1 else None
        return "time" if "time" in self.integers else only


def is_unpooled(config: Config, table: TableSchema) -> bool:
    """Return whether a feature is a sequence that is not pooled."""
    return table.sequence and config.tables.get(table.name, TableConfig()).pooling is None


def vectors_of(config: Config, schema: Schema) -> tuple[TableSchema, ...]:
    """Return the features with one vector per sample, in the order of `embedded`."""
    return tuple(table for table in schema.tables if not is_unpooled(config, table))


def sequences_of(config: Config, schema: Schema) -> tuple[TableSchema, ...]:
    """Return the features that a model gets as sequences, in the order of the schema."""
    return tuple(table for table in schema.tables if is_unpooled(config, table))


def item_places(config: Config, schema: Schema) -> tuple[int, ...]:
    """Return the positions in `embedded` of the features of the item, the one that says which item it is first."""
    vectors = vectors_of(config, schema)
    return tuple(vectors.index(table) for table in item_features(config, schema))


def sequence_inputs(config: Config, schema: Schema) -> tuple[SequenceInput, ...]:
    """Return the sequences that go along with no other one, in the order of the schema."""
    targets: dict[str, int] = {}
    for position, table in enumerate(vectors_of(config, schema)):
        if not table.ragged:
            targets.setdefault(table.table_name, position)
    unpooled = sequences_of(config, schema)
    leading = [table for table in unpooled if table.along is None]
    return tuple(
        SequenceInput(
            table.name,
            targets.get(table.table_name),
            tuple(other.name for other in unpooled if other.along == table.name),
            table.element_names[1],
        )
        for table in leading
    )
