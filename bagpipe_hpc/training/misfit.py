"""Which data sets a model can learn from. Pure: the oracle asks before any trainer starts."""

from __future__ import annotations

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.schema import Schema

PAIRING = ("dlrm", "deepfm", "fgcnn")


def misfit(model: ModelConfig, schema: Schema) -> str:
    """What keeps a model from learning from samples of a schema, and what mends it; empty if nothing does."""
    if ragged := [table.name for table in schema.ragged_tables]:
        return (
            f"has ragged tables ({', '.join(ragged)}); models take one id per table: make the data set again "
            "without them"
        )
    if model.factory is not None:
        return ""
    if model.name in PAIRING and schema.num_dense == 0 and schema.num_tables < 2:
        return f"has one table and no dense features: {model.name} needs two vectors to interact; add a feature"
    if model.name == "caser":
        return _no_sequence(schema)
    return ""


def _no_sequence(schema: Schema) -> str:
    mend = "make the data set again so, or choose another model.name"
    needed = "caser needs the tables user, candidate item and last items, oldest first, and nothing else"
    if schema.num_dense:
        return f"has {schema.num_dense} dense features: {needed}; {mend}"
    if schema.num_tables < 3:
        return f"has {schema.num_tables} table{'s' if schema.num_tables > 1 else ''}: {needed}; {mend}"
    sizes = schema.num_embeddings[1:]
    if len(set(sizes)) > 1:
        names = ", ".join(f"{table.name}: {table.num_embeddings}" for table in schema.tables[1:])
        return f"has tables of different sizes after the first ({names}): {needed}, all items being of one kind; {mend}"
    return ""
