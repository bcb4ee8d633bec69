"""Which data sets a model can learn from. Pure: the oracle asks before any trainer starts."""

from __future__ import annotations

from bagpipe_hpc.config import Config, ModelConfig, TableConfig
from bagpipe_hpc.data.schema import Schema

PAIRING = ("dlrm", "deepfm", "fgcnn")
CONCATENATING = ("wide_deep", "dcn", "dcn_v2")


def misfit(model: ModelConfig, schema: Schema) -> str:
    """What keeps a model from learning from samples of a schema, and what mends it; empty if nothing does."""
    if model.factory is not None:
        return ""
    if model.name in PAIRING and schema.num_dense == 0 and schema.num_tables < 2:
        return f"has one table and no dense features: {model.name} needs two vectors to interact; add a feature"
    if model.name == "caser":
        return _no_sequence(schema)
    return ""


def table_misfit(config: Config, schema: Schema) -> str:
    """What in the settings of single tables fits not the data set or the model, and what does; empty if all does."""
    known = {table.name: table for table in schema.tables}
    for name, settings in config.tables.items():
        if name not in known:
            names = ", ".join(known)
            return f"tables.{name}: the data set has no table of this name; it has {names}"
        # What is as the default is no setting: the config.yaml of a run names all settings of a table.
        if settings.pooling != TableConfig().pooling and not known[name].ragged:
            ragged = ", ".join(table.name for table in schema.ragged_tables)
            return f"tables.{name}.pooling: {name} has one id per sample; ragged tables are {ragged or 'none'}"
        given = {each for each in ("learning_rate", "embedding_dim") if getattr(settings, each) is not None}
        if given and known[name].shares:
            return f"tables.{name}.{min(given)}: {name} uses the rows of {known[name].shares}; set it there"
        if problem := _dim_misfit(settings.embedding_dim, config.model):
            return f"tables.{name}.embedding_dim = {settings.embedding_dim}: {problem}"
    return ""


def _dim_misfit(dim: int | None, model: ModelConfig) -> str:
    if dim is None or dim == model.embedding_dim:
        return ""
    if dim > model.embedding_dim:
        return f"rows have model.embedding_dim columns, {model.embedding_dim}; raise that to the largest of all tables"
    if model.factory is None and model.name not in CONCATENATING:
        return f"{model.name} needs embeddings of one size; take {' or '.join(CONCATENATING)}, or leave it out"
    return ""


def _no_sequence(schema: Schema) -> str:
    mend = "make the data set again so, or choose another model.name"
    needed = "caser needs the tables user, candidate item and last items, oldest first, and nothing else"
    if schema.num_dense:
        return f"has {schema.num_dense} dense features: {needed}; {mend}"
    if ragged := ", ".join(table.name for table in schema.ragged_tables):
        return f"has ragged tables ({ragged}): {needed}, with one id each; {mend}"
    if schema.num_tables < 3:
        return f"has {schema.num_tables} table{'s' if schema.num_tables > 1 else ''}: {needed}; {mend}"
    if len({table.num_embeddings for table in schema.tables[1:]}) > 1:
        names = ", ".join(f"{table.name}: {table.num_embeddings}" for table in schema.tables[1:])
        return f"has tables of different sizes after the first ({names}): {needed}, all items being of one kind; {mend}"
    return ""
