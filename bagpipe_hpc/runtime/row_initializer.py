"""What makes the initial rows of a job: those that were never used, and those of dynamic tables that begin anew."""

from __future__ import annotations

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.row_layout import initial_tails
from bagpipe_hpc.sharding import KeySpace


def row_initializer(config: Config, schema: Schema) -> RowInitializer:
    """Return what makes the initial rows of a job."""
    columns, tables = config.model.embedding_columns, schema.own_tables
    dims = [columns - config.unused_columns_of(table.name) for table in tables]
    tails = initial_tails(config, len(tables))
    return RowInitializer(KeySpace(schema.num_embeddings), columns, config.training.seed, tails, dims)
