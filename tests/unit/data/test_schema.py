from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bagpipe_hpc.data.schema import ElementSchema, LabelSchema, Schema, TableSchema
from bagpipe_hpc.feature_tables import FeatureTables


def test_json_round_trip(schema: Schema) -> None:
    assert Schema.model_validate_json(schema.model_dump_json()) == schema


def test_counts(schema: Schema) -> None:
    assert schema.num_dense == 2
    assert schema.num_tables == 4
    assert schema.num_embeddings == (50, 7, 9)
    assert [table.name for table in schema.one_hot_tables] == ["user", "item"]
    assert [table.name for table in schema.ragged_tables] == ["genres", "seen"]
    assert [table.name for table in schema.own_tables] == ["user", "genres", "item"]
    assert schema.features == FeatureTables((0, 1, 2, 2), ragged=(1, 3))
    assert not schema.is_plain
    assert Schema(tables=(schema.tables[0],)).is_plain


def test_a_schema_of_before_there_were_weights_and_sharing() -> None:
    old = Schema.model_validate({"tables": [{"name": "user", "num_embeddings": 50, "ragged": False}]})
    assert old == Schema(tables=(TableSchema(name="user", num_embeddings=50),))


def test_refuses_weights_of_one_id() -> None:
    with pytest.raises(ValidationError, match="weighted, so it must be ragged"):
        TableSchema(name="user", num_embeddings=50, weighted=True)


@pytest.mark.parametrize(("shares", "num_embeddings"), [("nobody", 9), ("item", 8), ("seen", 9)])
def test_refuses_to_share_rows_that_are_not_there(shares: str, num_embeddings: int) -> None:
    tables = (
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="seen", num_embeddings=9, shares="item"),
        TableSchema(name="next", num_embeddings=num_embeddings, shares=shares),
    )
    with pytest.raises(ValidationError, match=rf"next has . rows of {shares}, but .* of their own are item \(9 rows\)"):
        Schema(tables=tables)


def test_is_frozen(schema: Schema) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        schema.dense = ()  # type: ignore[misc]  # which is what must fail


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", ".hidden", "a b", "a\n"])
def test_refuses_names_that_are_no_hdf5_names(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        TableSchema(name=name, num_embeddings=1)


@pytest.mark.parametrize("num_embeddings", [0, -1])
def test_refuses_empty_tables(num_embeddings: int) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        TableSchema(name="user", num_embeddings=num_embeddings)


def test_refuses_names_used_twice() -> None:
    table = TableSchema(name="user", num_embeddings=1)
    with pytest.raises(ValidationError, match="used more often: user"):
        Schema(tables=(table, table))
    with pytest.raises(ValidationError, match="used more often: age"):
        Schema(dense=("age", "age"), tables=(table,))


def test_refuses_no_tables_and_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Schema(tables=())
    with pytest.raises(ValidationError, match="Extra inputs"):
        Schema.model_validate({"tables": [{"name": "user", "num_embeddings": 1, "dim": 4}]})


def test_difference_names_the_first_one(schema: Schema) -> None:
    assert schema.difference(schema) == ""
    fewer = schema.model_copy(update={"tables": schema.tables[:1]})
    assert schema.difference(fewer) == "4 tables against 1"
    dense = schema.model_copy(update={"dense": ("age",)})
    assert schema.difference(dense) == "dense features ['age', 'price'] against ['age']"
    other = schema.model_copy(update={"tables": (TableSchema(name="user", num_embeddings=51), *schema.tables[1:])})
    assert schema.difference(other) == ("table (user: 50 rows, one-hot) against (user: 51 rows, one-hot)")


def test_difference_names_the_field_that_words_leave_out() -> None:
    def schema_of(kind: str = "real", **changes: Any) -> Schema:
        elements = [{"name": "price"}, {"name": "time", "kind": kind}]
        seen = {"name": "seen", "num_embeddings": 9, "ragged": True, "sequence": True, "elements": elements}
        user = {"name": "user", "num_embeddings": 4, "dynamic": {"capacity": 3, **changes}, "id_type": "text"}
        return Schema.model_validate({"tables": [user, seen]})

    schema = schema_of()
    assert schema.difference(schema_of()) == ""
    assert schema.difference(schema_of("integer")) == "table seen.elements[1].kind is 'real' against 'integer'"
    assert schema.difference(schema_of(admit_after=2)) == "table user.dynamic.admit_after is 1 against 2"
    expiring = schema_of(expire_after="9 iterations")
    assert schema.difference(expiring) == "table user.dynamic.expire_after is None against '9 iterations'"
    user = schema.tables[0].model_copy(update={"id_type": "integer"})
    other = schema.model_copy(update={"tables": (user, schema.tables[1])})
    assert schema.difference(other) == "table user.id_type is 'text' against 'integer'"


def test_only_dynamic_tables_have_a_type_of_ids() -> None:
    with pytest.raises(ValidationError, match="table user is not dynamic, so its rows have no id_type"):
        TableSchema(name="user", num_embeddings=1, id_type="text")


def test_difference_names_labels_weights_and_groups(schema: Schema) -> None:
    stars = LabelSchema(name="stars", kind="real", optional=True)
    more = schema.model_copy(update={"labels": (*schema.labels, stars)})
    assert schema.difference(more) == "label (none) against (stars: real, may be missing)"
    weighted = schema.model_copy(update={"weighted": True})
    assert schema.difference(weighted) == "samples without weights against samples with weights"
    grouped = schema.model_copy(update={"group": "user"})
    assert schema.difference(grouped) == "groups by nothing against user"


def test_labels_have_distinct_names() -> None:
    table = TableSchema(name="user", num_embeddings=1)
    with pytest.raises(ValidationError, match="used more often: click"):
        Schema(tables=(table,), labels=(LabelSchema(name="click"), LabelSchema(name="click", kind="real")))
    with pytest.raises(ValidationError, match="at least 1 item"):
        Schema(tables=(table,), labels=())


def test_a_schema_of_an_earlier_release_has_one_plain_label() -> None:
    schema = Schema.model_validate({"tables": [{"name": "user", "num_embeddings": 1}], "labelled": True})
    assert schema.has_plain_labels
    assert (schema.num_labels, schema.label_shape, schema.weighted, schema.group) == (1, (), False, None)
    assert not schema.model_copy(update={"weighted": True}).has_plain_labels
    assert schema.model_copy(update={"labels": (LabelSchema(name="clicked"),)}).has_plain_labels
    assert not schema.model_copy(update={"labels": (LabelSchema(optional=True),)}).has_plain_labels


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ragged": False}, "table seen is a sequence, so it must be ragged and without weights"),
        ({"weighted": True}, "table seen is a sequence, so it must be ragged and without weights"),
        ({"sequence": False}, "table seen is no sequence, so it has neither elements nor along"),
        ({"elements": [{"name": "time"}, {"name": "time"}]}, "used more often: time"),
        ({"along": "user"}, "goes along user, but the sequences that others may go along are none"),
    ],
)
def test_sequences_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    seen = {"name": "seen", "num_embeddings": 5, "ragged": True, "sequence": True, "elements": [{"name": "time"}]}
    with pytest.raises(ValidationError, match=said):
        Schema.model_validate({"tables": [{"name": "user", "num_embeddings": 5}, {**seen, **changes}]})


def test_kinds_in_words() -> None:
    action = TableSchema(name="action", num_embeddings=3, ragged=True, sequence=True, along="seen")
    assert action.kind == "sequence along seen"
    elements = (ElementSchema(name="time", kind="integer"), ElementSchema(name="stars"))
    seen = TableSchema(
        name="seen", num_embeddings=3, ragged=True, sequence=True, elements=elements, shares="item"
    )  # fmt: skip
    assert seen.kind == "sequence with time, stars, rows of item"
