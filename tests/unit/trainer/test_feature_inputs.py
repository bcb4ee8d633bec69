"""Which features are vectors, and which are sequences."""

from __future__ import annotations

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.feature_inputs import SequenceInput, is_unpooled, sequence_inputs, sequences_of, vectors_of

SEEN = TableSchema(name="seen", num_embeddings=7, ragged=True, sequence=True)
SCHEMA = Schema(tables=(SEEN, TableSchema(name="tags", num_embeddings=3, ragged=True)))


def test_a_sequence_stays_one_unless_the_settings_pool_it() -> None:
    pooled = Config.model_validate({"tables": {"seen": {"pooling": "mean"}}})
    assert is_unpooled(Config(), SEEN)
    assert not is_unpooled(pooled, SEEN)
    assert [table.name for table in vectors_of(Config(), SCHEMA)] == ["tags"]
    assert [table.name for table in sequences_of(Config(), SCHEMA)] == ["seen"]
    assert [table.name for table in vectors_of(pooled, SCHEMA)] == ["seen", "tags"]
    assert sequences_of(pooled, SCHEMA) == ()


def test_the_target_is_the_first_one_hot_feature_of_the_same_table() -> None:
    schema = Schema(
        tables=(
            TableSchema(name="action", num_embeddings=3, ragged=True, sequence=True, along="clicked"),
            TableSchema(name="bag", num_embeddings=9, ragged=True, shares="item"),
            TableSchema(name="clicked", num_embeddings=9, ragged=True, sequence=True, shares="item"),
            TableSchema(name="user", num_embeddings=5),
            TableSchema(name="item", num_embeddings=9),
            TableSchema(name="other", num_embeddings=9, shares="item"),
            SEEN,
        )
    )
    assert sequence_inputs(Config(), schema) == (
        SequenceInput("clicked", 2, ("action",)),  # of the vectors bag, user, item, other
        SequenceInput("seen", None, ()),
    )


def test_which_element_is_the_time() -> None:
    one, named, two = (SequenceInput("seen", 0, (), names) for names in (("at",), ("at", "time"), ("at", "seconds")))
    assert [each.time_element(None) for each in (one, named, two)] == ["at", "time", None]
    assert [each.time_element("seconds") for each in (one, named, two)] == [None, None, "seconds"]
    assert SequenceInput("seen", 0, ()).time_element(None) is None
