from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.schema_file import load_description
from bagpipe_hpc.errors import ConfigError, DatasetError

WHOLE = """
label: {column: rating, threshold: 4}
dense: [price, {column: age, type: integer, transform: log}]
categorical:
  - user_id
  - {column: 5, name: item, hash_rows: 1000}
lists:
  - {column: genres, separator: "/", min_count: 1}
delimiter: "\\t"
missing: [NA]
"""
HEADER = ["rating", "price", "age", "user_id", "item id", "genres"]


def describe(**changes: object) -> TableDescription:
    return TableDescription.model_validate({"label": "y", "categorical": ["c"], **changes})


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(WHOLE)
    description = load_description(tmp_path / "schema.yaml")
    schema = description.schema_of([3, 1000, 4])
    assert schema.dense == ("price", "age")
    assert [(t.name, t.num_embeddings, t.ragged) for t in schema.tables] == [
        ("user_id", 3, False),
        ("item", 1000, False),
        ("genres", 4, True),
    ]
    assert description.kinds(HEADER) == {0: "rating", 1: "number", 2: "integer", 3: "text", 4: "text", 5: "text"}
    assert TableDescription.model_validate(description.model_dump(mode="json")) == description


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"categorical": []}, "no column is under categorical or lists; put at least one there"),
        ({"categorical": ["c", "c"]}, "used more often: c"),
        ({"categorical": ["user id"]}, "'user id' cannot be a name .* give the column a name"),
        ({"categorical": [{"column": "c", "min_count": 0}]}, "greater than or equal to 1"),
        ({"categorical": [{"column": "c", "hash_rows": 1}]}, "greater than or equal to 2"),
        ({"categorical": [{"column": "c", "hash_rows": 5, "min_count": 2}]}, "not both"),
        ({"categorical": [{"column": 0}]}, "greater than 0"),
        ({"label": {"column": "y", "continues": True, "threshold": 1}}, "give one of them"),
        ({"label": {"column": "y", "treshold": 1}}, "Extra inputs"),
        ({"lists": [{"column": "d", "shares": "c", "min_count": 2}]}, "are settings of c; give them there"),
        ({"lists": [{"column": "d", "shares": "e"}]}, "d shares e, but the tables with rows of their own are c"),
        (
            {"categorical": [{"column": "c", "type": "hexadecimal"}, {"column": "d", "shares": "c"}]},
            "both must have the same type, but they are text and hexadecimal",
        ),
        ({"delimiter": ", "}, "one ASCII character"),
        ({"delimiter": '"'}, "one ASCII character"),
        ({"dense": [{"column": "a", "transform": "exec"}]}, "'log'"),
    ],
)
def test_faults(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        describe(**changes)


@pytest.mark.parametrize(
    ("changes", "header", "reason"),
    [
        ({}, ["y", "d"], "column 'c' does not exist; columns: y, d"),
        ({}, ["y", "c", "c"], "column 'c' exists more than once: give its number"),
        ({"categorical": [{"column": 9, "name": "c"}]}, ["y", "c"], "column 9 does not exist"),
        ({"dense": ["c"]}, ["y", "c"], "column 'c' is used as a number and as a category or text"),
    ],
)
def test_a_header_that_does_not_fit(changes: dict[str, object], header: list[str], reason: str) -> None:
    with pytest.raises(DatasetError, match=reason):
        describe(**changes).kinds(header)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("label: y", "schema .*bad.yaml: no column is under categorical or lists"),
        ("- y", "must be a mapping"),
        ("label: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(ConfigError, match=reason):
        load_description(tmp_path / "bad.yaml")
