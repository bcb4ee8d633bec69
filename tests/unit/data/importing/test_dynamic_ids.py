"""Dynamic tables of text and Parquet files: ids are integers as they are, or hashes of texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.dynamic_ids import integers_of
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


def test_integers_of_texts() -> None:
    texts = ["0", "-0", "007", "-12", str(2**63 - 1), str(-(2**63) + 1), str(2**63), "9" * 19, "9" * 20, "1.0", "x", ""]
    expected = [0, 0, 7, -12, 2**63 - 1, -(2**63) + 1, *[MISSING] * 6]
    assert integers_of(pa.array([each.encode() for each in texts] + [None])).tolist() == [*expected, MISSING]


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
    item = description.categorical[1].model_copy(update={"dynamic": DynamicSchema(capacity=6)})
    other = description.model_copy(
        update={"categorical": (description.categorical[0], item, description.categorical[2])}
    )
    with pytest.raises(DatasetError, match=r"item: 6 rows, dynamic one-hot.* against .item: 7 rows"):
        import_table([file], tmp_path / "other", other, vocabulary=dataset.path)


@pytest.mark.parametrize("value", ["x", "1.5", "1e3", str(2**63), " 1"])
def test_ids_that_are_no_integers(import_table: ImportTable, tmp_path: Path, value: str) -> None:
    (tmp_path / "log.csv").write_text(f"click,user,item,seen,country\n1,{value},a,a,x\n")
    description = TableDescription.model_validate(DESCRIBED)
    with pytest.raises(DatasetError, match=r"line 2: column 2 \(user\) is .*, but must be empty or an integer of 64"):
        import_table([tmp_path / "log.csv"], tmp_path / "data", description, max_bad_lines=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {
                "categorical": [{"column": "u", "type": "integer", "dynamic": {"capacity": 3}}],
                "lists": [{"column": "seen", "shares": "u"}],
            },
            "seen shares u, so both must have the same type, but they are text and integer; lists are always text",
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
