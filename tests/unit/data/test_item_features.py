"""Which features say what a sample's item is."""

from __future__ import annotations

import pytest

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.item_features import counts_items, item_column, item_features
from bagpipe_hpc.data.schema import Schema, TableSchema

TABLES = (
    TableSchema(name="action", num_embeddings=3, ragged=True, sequence=True, along="seen"),
    TableSchema(name="seen", num_embeddings=9, ragged=True, sequence=True, shares="item"),
    TableSchema(name="user", num_embeddings=5),
    TableSchema(name="item", num_embeddings=9),
    TableSchema(name="other", num_embeddings=9, shares="item"),
    TableSchema(name="tags", num_embeddings=4, ragged=True),
)


def config(**model: object) -> Config:
    return Config.model_validate({"model": {"name": "two_tower", **model}})


@pytest.mark.parametrize(
    ("tables", "named", "expected", "column"),
    [
        (TABLES, (), ["item"], 1),  # the candidate of the sequence
        (TABLES[2:], (), ["other"], 2),  # the last one-hot feature
        (TABLES, ("other", "tags"), ["other", "tags"], 2),
        (TABLES[2:4], ("user",), ["user"], 0),
    ],
)
def test_the_first_one_is_a_column_of_the_ids(
    tables: tuple[TableSchema, ...], named: tuple[str, ...], expected: list[str], column: int
) -> None:
    schema = Schema(tables=tables)
    assert [table.name for table in item_features(config(item_features=named), schema)] == expected
    assert item_column(config(item_features=named), schema) == column


def test_names_that_are_not_there_are_left_out() -> None:
    assert item_features(config(item_features=("film",)), Schema(tables=TABLES)) == ()
    assert item_features(config(), Schema(tables=TABLES[-1:])) == ()


def test_only_jobs_that_need_it_count_items() -> None:
    assert counts_items(config())
    assert not counts_items(config(factory="my:model"))
    assert counts_items(config(factory="my:model", item_features=("item",)))
    assert not counts_items(Config())
    assert item_column(Config(), Schema(tables=TABLES)) is None
