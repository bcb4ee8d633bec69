"""What must be the same in a checkpoint and in a job that resumes from it."""

from __future__ import annotations

from typing import Any

from bagpipe_hpc.checkpoint.manifest import ModelEntry
from bagpipe_hpc.config import Config, TableConfig
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.item_features import item_features
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.row_layout import state_columns

OWN_MODEL = "own"


def model_entry(config: Config, dataset: Dataset) -> ModelEntry:
    """Return what must be the same in a checkpoint and in a job with this configuration and data set."""
    model, schema = config.model, dataset.schema
    return ModelEntry.model_validate(
        {
            **_architecture(config, schema),
            "num_dense": schema.num_dense,
            "tables": [
                {
                    "name": table.name,
                    "num_embeddings": table.num_embeddings,
                    "embedding_dim": config.embedding_dim_of(table.name)
                    if config.unused_columns_of(table.name)
                    else None,
                    "dynamic": None if table.dynamic is None else table.dynamic.model_dump(mode="json"),
                    "id_type": table.id_type,
                }
                for table in schema.own_tables
            ],
            "labels": _labels(schema),
            "features": [] if schema.is_plain else [_feature(config, table) for table in schema.tables],
            "embedding_dim": model.embedding_columns,
            "first_order_columns": model.row_dim - model.embedding_columns,
            "row_optimizer": config.row_optimizer.name,
            "row_optimizer_settings": config.row_optimizer.essentials,
            "row_state": [{"name": name, "columns": columns} for name, columns in state_columns(config).items()],
            "dense_optimizer": config.dense_optimizer.name.lower(),
            "dense_optimizer_settings": config.dense_optimizer.arguments,
            "seed": config.training.seed,
            "vocabulary_sha256": dataset.vocabulary_sha256,
        }
    )


def _labels(schema: Schema) -> list[dict[str, str]]:
    if [(label.name, label.kind) for label in schema.labels] == [("label", "binary")]:
        return []
    return [{"name": label.name, "kind": label.kind} for label in schema.labels]


def _feature(config: Config, table: TableSchema) -> dict[str, Any]:
    pooling = config.tables.get(table.name, TableConfig()).pooling
    if table.ragged and not table.sequence:
        pooling = pooling or "sum"
    return {
        "name": table.name,
        "table": table.table_name,
        "pooling": pooling,
        "weighted": table.weighted,
        "sequence": _sequence(config, table) if table.sequence else None,
    }


def _sequence(config: Config, table: TableSchema) -> dict[str, Any]:
    return {
        "max_length": config.tables.get(table.along or table.name, TableConfig()).max_length,
        "elements": [{"name": element.name, "kind": element.kind} for element in table.elements],
        "along": table.along,
    }


def _architecture(config: Config, schema: Schema) -> dict[str, Any]:
    """Return name and settings of the model. Parameters of a user's own model are compared later."""
    model = config.model
    if model.factory is not None:
        return {"name": OWN_MODEL, "settings": model.arguments}
    settings = model.model_dump(mode="json", exclude={"name", "embedding_dim", "factory", "arguments"})
    if model.name == "two_tower":  # name the item also where the data set decides
        settings["item_features"] = [table.name for table in item_features(config, schema)]
    return {"name": model.name, "settings": settings}
