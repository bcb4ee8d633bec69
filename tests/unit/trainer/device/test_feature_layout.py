"""The layout of features agrees with pooling."""

from __future__ import annotations

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.device.feature_layout import MEAN, ONE_HOT, SUM, WEIGHTED, layout_of

SCHEMA = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
    )
)


def test_features_stand_in_table_order() -> None:
    layout = layout_of(SCHEMA, Config.model_validate({"tables": {"topics": {"pooling": "mean"}}}))
    assert layout.features.tolist() == [0, 2, 1]
    assert layout.table_ends.tolist() == [0, 2, 3]
    assert layout.kinds.tolist() == [SUM, MEAN | WEIGHTED, ONE_HOT]
    assert layout.has_bags
    assert layout.has_means
    assert layout.has_weights
    assert not layout.is_masked


def test_features_have_the_columns_of_their_table() -> None:
    model = {"name": "wide_deep", "embedding_dim": 4}
    layout = layout_of(SCHEMA, Config.model_validate({"model": model, "tables": {"tags": {"embedding_dim": 3}}}))
    assert layout.used_columns.tolist() == [3, 4, 3]
    assert (layout.embedding_dim, layout.row_dim) == (4, 5)
    assert layout.is_masked


def test_without_sequences_features_have_the_numbers_of_their_vectors() -> None:
    tables = (
        TableSchema(name="seen", num_embeddings=9, ragged=True, sequence=True, shares="item"),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="site2"),
        TableSchema(name="site2", num_embeddings=9),
        TableSchema(name="other", num_embeddings=9, shares="item"),
    )
    settings = {"model": {"embedding_dim": 8}, "tables": {"item": {"embedding_dim": 3}}}
    pooled = layout_of(Schema(tables=tables), Config.model_validate(settings)).pooled
    names = ("site", "item", "other", "topics", "site2")  # in table order
    assert (pooled.names, len(pooled.elements)) == (names, 5)
    assert pooled.features.tolist() == [0, 1, 4, 2, 3]
    assert pooled.kinds.tolist() == [ONE_HOT, ONE_HOT, ONE_HOT, SUM | WEIGHTED, ONE_HOT]
    assert pooled.table_ends.tolist() == [0, 1, 3, 5]
    assert pooled.used_columns.tolist() == [8, 3, 8, 8, 3]
    assert pooled.has_bags
    assert not pooled.has_sequences
    assert pooled.pooled is pooled


def test_one_hot_features_need_no_bags() -> None:
    layout = layout_of(Schema(tables=SCHEMA.tables[1:2]), Config())
    assert not layout.has_bags
    assert not layout.has_means
    assert not layout.has_weights
