"""What must be the same in a checkpoint and in a job that resumes from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.checkpoint.manifest import ElementEntry, SequenceEntry
from bagpipe_hpc.checkpoint.model_entry import model_entry
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.dataset import Dataset, Split
from bagpipe_hpc.data.schema import ElementSchema, LabelSchema, Schema, TableSchema

CLICKED, STARS = LabelSchema(name="clicked"), LabelSchema(name="stars", kind="real")


def labels_of(*labels: LabelSchema) -> list[tuple[str, str]]:
    tables = (TableSchema(name="item", num_embeddings=3),)
    schema = Schema(tables=tables, labels=labels) if labels else Schema(tables=tables)
    split = Split("train", Path(), schema, ())
    entry = model_entry(Config(), Dataset(Path(), schema, split, split, {}))
    return [(label.name, label.kind) for label in entry.labels]


@pytest.mark.parametrize("labels", [(CLICKED,), (STARS,), (CLICKED, STARS)])
def test_labels_are_told_apart_by_name_and_kind(labels: tuple[LabelSchema, ...]) -> None:
    assert labels_of(*labels) == [(label.name, label.kind) for label in labels]


def test_sequences_are_described() -> None:
    clicked = TableSchema(
        name="clicked",
        num_embeddings=3,
        ragged=True,
        sequence=True,
        shares="item",
        elements=(ElementSchema(name="stars"), ElementSchema(name="time", kind="integer")),
    )
    action = TableSchema(name="action", num_embeddings=3, ragged=True, sequence=True, along="clicked")
    tables = (TableSchema(name="item", num_embeddings=3), clicked, action)
    schema = Schema(tables=tables)
    split = Split("train", Path(), schema, ())
    config = Config.model_validate({"tables": {"clicked": {"max_length": 20}, "action": {"pooling": "mean"}}})
    item, first, second = model_entry(config, Dataset(Path(), schema, split, split, {})).features
    elements = (ElementEntry(name="stars", kind="real"), ElementEntry(name="time", kind="integer"))
    assert item.sequence is None
    assert (first.pooling, first.sequence) == (None, SequenceEntry(max_length=20, elements=elements))
    assert (second.pooling, second.sequence) == ("mean", SequenceEntry(max_length=20, along="clicked"))


def test_the_item_of_two_towers_is_named() -> None:
    schema = Schema(tables=(TableSchema(name="user", num_embeddings=3), TableSchema(name="item", num_embeddings=3)))
    split = Split("train", Path(), schema, ())
    config = Config.model_validate({"model": {"name": "two_tower"}})
    settings = model_entry(config, Dataset(Path(), schema, split, split, {})).settings
    assert settings["item_features"] == ["item"]
    assert settings["temperature"] == config.model.temperature


def test_the_label_of_most_data_sets_needs_no_name() -> None:
    assert labels_of() == []
    assert labels_of(LabelSchema(name="label", kind="real")) == [("label", "real")]
