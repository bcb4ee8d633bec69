"""Which features of a sample describe its item, for models that score items. Pure."""

from __future__ import annotations

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema


def counts_items(config: Config) -> bool:
    """Return whether the model of a job needs to know how often each item occurs."""
    return bool(config.model.item_features) if config.model.factory else config.model.name == "two_tower"


def item_features(config: Config, schema: Schema) -> tuple[TableSchema, ...]:
    """Return the features of the item. The id of the first one says which item it is.

    The setting model.item_features names them. Without it, the item is the candidate of the first sequence, which is
    the first one-hot feature that uses the same table, or else the last one-hot feature. Names that the schema lacks
    are left out, and so the result may be empty: trainer/model_check.py refuses such jobs.
    """
    known = {table.name: table for table in schema.tables}
    if config.model.item_features:
        return tuple(known[name] for name in config.model.item_features if name in known)
    one_hot = schema.one_hot_tables
    for sequence in schema.sequences:
        rows = sequence.table_name
        candidates = [table for table in one_hot if table.table_name == rows]
        if sequence.along is None and candidates:
            return tuple(candidates[:1])
    return one_hot[-1:]


def item_column(config: Config, schema: Schema) -> int | None:
    """Return which column of the ids of a batch says which item a sample has; None if the job does not count items."""
    if not counts_items(config):
        return None
    return schema.one_hot_tables.index(item_features(config, schema)[0])
