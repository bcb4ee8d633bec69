"""Dynamic tables of text and Parquet files: ids are integers as they are, or hashes of texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bagpipe_hpc.batch import Bags
from bagpipe_hpc.bounded_json import dump_json, with_checksum
from bagpipe_hpc.data.dataset import Dataset, open_dataset
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.hashing import hashed_texts
from bagpipe_hpc.dynamic_rules import MISSING, DynamicSchema
from bagpipe_hpc.errors import DatasetError

ImportTable = Callable[..., Dataset]
RULES = {"capacity": 9, "expire_after": "4 iterations"}
DESCRIBED = {
    "label": "click",
    "categorical": [
        {"column": "user", "type": "integer", "dynamic": RULES},
        {"column": "item", "dynamic": {"capacity": 5}},
        "country",
    ],
    "lists": [{"column": "seen", "shares": "item"}],
    "history": {"of": "user", "by": "country", "max_length": 3},
}
USERS = ["5", "-7", "9223372036854775807", "", "-9223372036854775807", "0005"]


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_table(import_table: ImportTable, tmp_path: Path, is_text: bool, num_ranks: int) -> None:
    items, seen = ["a", "b", "", "a", "c", "a"], ["a|b", "", "c", "a", "a||b", "b"]
    if is_text:
        file = tmp_path / "log.csv"
        lines = [",".join(["1", *each, "x"]) for each in zip(USERS, items, seen, strict=True)]
        file.write_text("\n".join(["click,user,item,seen,country", *lines]) + "\n")
    else:
        file = tmp_path / "log.parquet"
        users = [int(each) if each else None for each in USERS]
        columns = {"click": [1] * 6, "user": users, "item": [each or None for each in items], "seen": seen}
        parquet.write_table(pa.table({**columns, "country": ["x"] * 6}), file)
    description = TableDescription.model_validate(DESCRIBED)
    dataset = import_table(
        [file], tmp_path / "data", description, num_ranks=num_ranks, min_count=1, validation_fraction=0,
        samples_per_shard=2,
    )  # fmt: skip
    hashes = dict(zip("abc", hashed_texts(pa.array([b"a", b"b", b"c"])).tolist(), strict=True))
    batch = dataset.train.read(0, 6)
    users = [5, -7, 2**63 - 1, MISSING, -(2**63) + 1, 5]
    assert batch.ids[:, 0].tolist() == users
    assert batch.ids[:, 1].tolist() == [hashes.get(each, MISSING) for each in items]
    assert batch.ids[:, 2].tolist() == [1] * 6
    assert batch.bags["seen"].ids.tolist() == [hashes[each] for each in "abcaabb"]
    history = batch.bags["user_history"]
    assert np.diff(history.offsets).tolist() == [0, 1, 2, 3, 3, 3]
    assert history.ids.tolist() == [5, 5, -7, 5, -7, 2**63 - 1, 5, -7, 2**63 - 1, -7, 2**63 - 1, -(2**63) + 1]
    assert {name: rules.capacity for name, rules in dataset.schema.dynamic_tables.items()} == {"user": 9, "item": 5}
    assert dataset.schema.dynamic_tables["user"].expire_after == "4 iterations"
    again = import_table(
        [file], tmp_path / "again", description, num_ranks=num_ranks, vocabulary=dataset.path, validation_fraction=0
    )
    assert again.train.read(0, 6).ids.tolist() == batch.ids.tolist()
    assert {table.name: table.id_type for table in dataset.schema.own_tables} == {
        "user": "integer",
        "item": "text",
        "country": None,
    }
    item = description.categorical[1].model_copy(update={"dynamic": DynamicSchema(capacity=6)})
    other = description.model_copy(
        update={"categorical": (description.categorical[0], item, description.categorical[2])}
    )
    with pytest.raises(DatasetError, match=r"item: 6 rows, dynamic one-hot.* against .item: 7 rows"):
        import_table([file], tmp_path / "other", other, vocabulary=dataset.path)


def described(changes: dict[str, Any]) -> TableDescription:
    return TableDescription.model_validate(
        {"label": "click", "categorical": [{"column": "user", "dynamic": {"capacity": 3}, **changes}]}
    )


def test_ids_of_another_type_need_another_vocabulary(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("click,user\n1,5\n0,6\n")
    files, path = [tmp_path / "log.csv"], tmp_path / "data"
    import_table(files, path, described({}), validation_fraction=0)
    with pytest.raises(DatasetError, match=r"table user\.id_type is 'text' against 'integer'"):
        import_table(files, tmp_path / "other", described({"type": "integer"}), vocabulary=path)
    for file in [path / "dataset.json", *(path / "train").iterdir()]:  # as an earlier release has written them
        forget_types(file)
    known = import_table(files, tmp_path / "more", described({"type": "integer"}), vocabulary=path)
    assert open_dataset(path).schema.tables[0].id_type is None
    assert known.schema.tables[0].id_type == "integer"


def forget_types(file: Path) -> None:
    if file.suffix == ".json":
        content = json.loads(file.read_text())
        del content["schema"]["tables"][0]["id_type"], content["checksum"]
        file.write_bytes(dump_json(with_checksum(content)))
        return
    with h5py.File(file, "r+") as shard:
        schema = json.loads(shard.attrs["schema"])
        del schema["tables"][0]["id_type"]
        shard.attrs["schema"] = json.dumps(schema)


@pytest.mark.parametrize("value", ["x", "1.5", "1e3", str(2**63), " 1"])
def test_ids_that_are_no_integers(import_table: ImportTable, tmp_path: Path, value: str) -> None:
    (tmp_path / "log.csv").write_text(f"click,user,item,seen,country\n1,{value},a,a,x\n")
    description = TableDescription.model_validate(DESCRIBED)
    with pytest.raises(DatasetError, match=r"line 2: column 2 \(user\) is .*, but must be empty or an integer of 64"):
        import_table([tmp_path / "log.csv"], tmp_path / "data", description, max_bad_lines=0)


OF_INTEGERS: dict[str, Any] = {
    "label": "click",
    "categorical": [{"column": "user", "type": "integer", "dynamic": RULES}],
    "lists": [
        {"column": "friends", "type": "integer", "shares": "user", "sequence": True, "elements": ["since"]},
        {"column": "by", "type": "integer", "sequence": True, "along": "friends", "dynamic": {"capacity": 3}},
        {"column": "words", "type": "integer", "dynamic": {"capacity": 4}},
    ],
    "missing": ["NA"],
}
FRIENDS = [[-7, 2**63 - 1], [], [5], [1, 2]]
WORDS = [[3, 3, -3], [], [], [4]]


@pytest.mark.parametrize("is_text", [True, False])
def test_lists_of_integers(import_table: ImportTable, tmp_path: Path, is_text: bool) -> None:
    if is_text:
        file = tmp_path / "log.tsv"
        lines = [
            "click user friends since by words",
            f"1 5 -7|NA|{2**63 - 1} 1|x|3 1||2 3|3||-3",
            "0 NA NA NA NA NA",
            "1 -7 005 .5 NA NA",
            "0 1 1|2 4|5 -9|8 4",
        ]
        file.write_text("\n".join(lines).replace(" ", "\t") + "\n")
    else:
        file = tmp_path / "log.parquet"
        columns: dict[str, Any] = {
            "click": [1, 0, 1, 0],
            "user": [5, None, -7, 1],
            "friends": [[-7, None, 2**63 - 1], None, [5], [1, 2]],
            "since": [[1.0, None, 3.0], None, [0.5], [4.0, 5.0]],
            "by": [[1, None, 2], [], [None], [-9, 8]],
            "words": [[3, 3, None, -3], None, [], [4]],
        }
        parquet.write_table(pa.table(columns), file)
    description = TableDescription.model_validate({**OF_INTEGERS, "delimiter": "\t"})
    dataset = import_table([file], tmp_path / "data", description, validation_fraction=0)
    batch = dataset.train.read(0, 4)
    assert batch.ids[:, 0].tolist() == [5, MISSING, -7, 1]
    assert _lists(batch.bags["friends"]) == FRIENDS
    assert _lists(batch.bags["by"]) == [[1, 2], [], [MISSING], [-9, 8]]
    assert _lists(batch.bags["words"]) == WORDS
    assert batch.bags["friends"].elements["since"].tolist() == [1, 3, 0.5, 4, 5]


def _lists(bags: Bags) -> list[list[int]]:
    return [part.tolist() for part in np.split(bags.ids, bags.offsets[1:-1])]


@pytest.mark.parametrize("value", ["x", "1.5", str(2**63), " 1"])
def test_lists_with_values_that_are_no_integers(import_table: ImportTable, tmp_path: Path, value: str) -> None:
    (tmp_path / "log.csv").write_text(f"click,user,friends,since,by,words\n1,1,,,,\n1,1,,,,2|{value}||y\n")
    said = rf"line 3: column 6 \(words\) has '{value}', but each value must be empty or an integer of 64 bits"
    with pytest.raises(DatasetError, match=said):
        import_table([tmp_path / "log.csv"], tmp_path / "data", TableDescription.model_validate(OF_INTEGERS))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "categorical": [{"column": "u", "type": "integer", "dynamic": {"capacity": 3}}],
                "lists": [{"column": "seen", "shares": "u"}],
            },
            "seen shares u, so both must have the same type, but they are text and integer; give both the same",
        ),
        (
            {
                "categorical": [
                    {"column": "u", "dynamic": {"capacity": 3}},
                    {"column": "v", "type": "integer", "shares": "u"},
                ]
            },
            "v shares u, so both must have the same type",
        ),
        ({"categorical": [{"column": "u", "type": "integer"}]}, "u is of type integer, which is for dynamic tables"),
        ({"lists": [{"column": "u", "type": "integer"}]}, "u is of type integer, which is for dynamic tables"),
        ({"lists": [{"column": "u", "type": "hexadecimal"}]}, "'text' or 'integer'"),
        (
            {"categorical": [{"column": "u", "dynamic": {"capacity": 3}, "min_count": 2}]},
            "a dynamic table has no vocabulary and rows of its own; remove min_count, hash_rows, shares",
        ),
        ({"categorical": [{"column": "u", "dynamic": {}}]}, "capacity"),
        ({"categorical": [{"column": "u", "dynamic": {"capacity": 0}}]}, "greater than 0"),
        ({"categorical": [{"column": "u", "dynamic": {"capacity": 3, "expire_after": "soon"}}]}, "must be a number of"),
        ({"categorical": [{"column": "u", "dynamic": {"capacity": 3, "expire_after": 30}}]}, "must be a number of"),
        ({"categorical": [{"column": "u", "dynamic": {"capacity": True}}]}, "must be a number, not true"),
    ],
)
def test_descriptions_that_cannot_be(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TableDescription.model_validate({"label": "click", **changes})
