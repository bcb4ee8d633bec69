from __future__ import annotations

import pytest
from pydantic import ValidationError

from bagpipe_hpc.data.schema import Schema, TableSchema


def test_json_round_trip(schema):
    assert Schema.model_validate_json(schema.model_dump_json()) == schema


def test_counts(schema):
    assert schema.num_dense == 2
    assert schema.num_tables == 3
    assert schema.num_embeddings == (50, 7, 9)
    assert [table.name for table in schema.one_hot_tables] == ["user", "item"]
    assert [table.name for table in schema.ragged_tables] == ["genres"]


def test_is_frozen(schema):
    with pytest.raises(ValidationError, match="frozen"):
        schema.dense = ()


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".hidden", "a b", "a\n"])
def test_refuses_names_that_are_no_hdf5_names(name):
    with pytest.raises(ValidationError, match="pattern"):
        TableSchema(name=name, num_embeddings=1)


@pytest.mark.parametrize("num_embeddings", [0, -1])
def test_refuses_empty_tables(num_embeddings):
    with pytest.raises(ValidationError, match="greater than 0"):
        TableSchema(name="user", num_embeddings=num_embeddings)


def test_refuses_names_used_twice():
    table = TableSchema(name="user", num_embeddings=1)
    with pytest.raises(ValidationError, match="used more often: user"):
        Schema(tables=(table, table))
    with pytest.raises(ValidationError, match="used more often: age"):
        Schema(dense=("age", "age"), tables=(table,))


def test_refuses_no_tables_and_unknown_fields():
    with pytest.raises(ValidationError, match="at least 1 item"):
        Schema(tables=())
    with pytest.raises(ValidationError, match="Extra inputs"):
        Schema.model_validate({"tables": [{"name": "user", "num_embeddings": 1, "dim": 4}]})


def test_difference_names_the_first_one(schema):
    assert schema.difference(schema) == ""
    fewer = schema.model_copy(update={"tables": schema.tables[:1]})
    assert schema.difference(fewer) == "3 tables against 1"
    dense = schema.model_copy(update={"dense": ("age",)})
    assert schema.difference(dense) == "dense features ['age', 'price'] against ['age']"
    other = schema.model_copy(update={"tables": (TableSchema(name="user", num_embeddings=51), *schema.tables[1:])})
    assert schema.difference(other) == (
        "table (user: 50 rows, one-hot) against (user: 51 rows, one-hot)"
    )
