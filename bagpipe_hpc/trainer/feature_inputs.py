"""Which features a model gets as one vector per sample, and which as sequences. Pure."""

from __future__ import annotations

from bagpipe_hpc.config import Config, TableConfig
from bagpipe_hpc.data.schema import Schema, TableSchema


def is_unpooled(config: Config, table: TableSchema) -> bool:
    """Return whether a feature is a sequence that is not pooled."""
    return table.sequence and config.tables.get(table.name, TableConfig()).pooling is None


def vectors_of(config: Config, schema: Schema) -> tuple[TableSchema, ...]:
    """Return the features with one vector per sample, in the order of `embedded`."""
    return tuple(table for table in schema.tables if not is_unpooled(config, table))


def sequences_of(config: Config, schema: Schema) -> tuple[TableSchema, ...]:
    """Return the features that a model gets as sequences, in the order of the schema."""
    return tuple(table for table in schema.tables if is_unpooled(config, table))
