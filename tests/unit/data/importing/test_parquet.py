from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet as pq

from bagpipe_hpc.data.importing import parquet
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import DatasetError
from tests.unit.conftest import AssertEqual
from tests.unit.data.importing.conftest import ImportTable, bad_lines_of

DESCRIPTION = TableDescription.model_validate(
    {
        "label": "clicked",
        "dense": ["price", {"column": "age", "type": "integer"}],
        "categorical": ["user", {"column": "code", "type": "hexadecimal"}],
        "lists": [{"column": "genres", "separator": "|"}],
    }
)
NUM_ROWS = 50


@pytest.fixture
def rows() -> pa.Table:
    """Rows in the types that a program would choose; every type has missing ones."""
    ids = range(NUM_ROWS)
    return pa.table(
        {
            "unused": pa.array([{"a": i} for i in ids]),
            "clicked": pa.array([i % 3 == 0 for i in ids]),
            "price": pa.array([None if i % 7 == 0 else math.nan if i % 5 == 0 else i / 4 for i in ids], pa.float32()),
            "age": pa.array([None if i % 11 == 0 else i for i in ids], pa.int16()),
            "user": pa.array([None if i % 13 == 0 else i % 9 - 4 for i in ids], pa.int64()),
            "code": pa.array([None if i % 4 == 0 else f"{i:x}" for i in ids]).dictionary_encode(),
            "genres": pa.array([None if i % 10 == 0 else [f"g{j}" for j in range(i % 4)] for i in ids]),
        }
    )


def as_csv(rows: pa.Table) -> str:
    """The same rows as text."""
    lines = ["unused,clicked,price,age,user,code,genres"]
    for row in rows.to_pylist():
        price = "" if row["price"] is None or math.isnan(row["price"]) else repr(row["price"])
        values = ["x", int(row["clicked"]), price, row["age"], row["user"], row["code"], "|".join(row["genres"] or [])]
        lines.append(",".join("" if value is None else str(value) for value in values))
    return "\n".join(lines)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_the_same_rows_as_text_give_the_same_data_set(
    rows: pa.Table, import_table: ImportTable, assert_equal: AssertEqual, tmp_path: Path, num_ranks: int
) -> None:
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=7)
    (tmp_path / "rows.csv").write_text(as_csv(rows))
    options: dict[str, Any] = {"min_count": 2, "validation_fraction": 0.2, "samples_per_shard": 9}
    text = import_table([tmp_path / "rows.csv"], tmp_path / "text", DESCRIPTION, **options)
    columnar = import_table(
        [tmp_path / "rows.parquet"], tmp_path / "columnar", DESCRIPTION, num_ranks=num_ranks, **options
    )
    assert columnar.schema == text.schema
    assert columnar.train.shards == text.train.shards
    for name in ("train", "validation"):
        [expected], [found] = (list(getattr(data, name).batches(100)) for data in (text, columnar))
        assert_equal(found, expected)
    assert text.schema.num_embeddings[0] == 10  # -4 to 4 and the missing one


def test_files_of_both_kinds_follow_each_other(
    rows: pa.Table, import_table: ImportTable, assert_equal: AssertEqual, tmp_path: Path
) -> None:
    pq.write_table(rows.slice(0, 20), tmp_path / "0.parquet")
    (tmp_path / "1.csv").write_text(as_csv(rows.slice(20)))
    (tmp_path / "all.csv").write_text(as_csv(rows))
    mixed = import_table([tmp_path / "0.parquet", tmp_path / "1.csv"], tmp_path / "mixed", DESCRIPTION, num_ranks=2)
    text = import_table([tmp_path / "all.csv"], tmp_path / "text", DESCRIPTION)
    assert_equal(next(mixed.train.batches(100)), next(text.train.batches(100)))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("clicked", pa.scalar(2), r"column 2 \(clicked\) is '2.0', but must be 0 or 1"),
        ("clicked", pa.scalar(None, pa.int8()), r"column 2 \(clicked\) is 'None', but must be 0 or 1"),
        ("price", pa.scalar(math.inf), r"column 3 \(price\) is 'inf', but must be missing or a finite number"),
        ("price", pa.scalar(1e300), r"column 3 \(price\) is '1e\+300'"),
        ("code", pa.scalar("0x1f"), r"column 6 \(code\) is '0x1f', but must be missing or at most 8 hexadecimal"),
        ("age", pa.scalar(2.5), r"column 4 \(age\) is '2.5', but must be missing or an integer of at most 18 digits"),
        ("age", pa.scalar(1e19), r"column 4 \(age\) is '1e\+19'"),
    ],
)
def test_bad_rows(
    rows: pa.Table, import_table: ImportTable, tmp_path: Path, column: str, value: pa.Scalar, reason: str
) -> None:
    position = rows.schema.get_field_index(column)
    column_type = pa.string() if column == "code" else pa.float64()
    values = rows.column(position).cast(pa.int8()) if column == "clicked" else rows.column(position)
    mask = pa.array([row == 33 for row in range(NUM_ROWS)])
    changed = rows.set_column(position, column, pc.if_else(mask, value.cast(column_type), values.cast(column_type)))
    pq.write_table(changed, tmp_path / "bad.parquet", row_group_size=10)
    with pytest.raises(DatasetError, match=rf"/bad.parquet: row 34: {reason}"):
        import_table([tmp_path / "bad.parquet"], tmp_path / "clicks", DESCRIPTION)
    dataset = import_table([tmp_path / "bad.parquet"], tmp_path / "clicks", DESCRIPTION, max_bad_lines=1)
    assert dataset.train.num_samples + dataset.validation.num_samples == NUM_ROWS - 1
    assert bad_lines_of(dataset)[0] == 1


IDS = [[b"\xff\xfe", b"x"], None, [], [None, b"y"]]
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef", None, None, b"0" * 16], pa.binary(16)))


def one_column(values: Sequence[object] | pa.Array, data_type: pa.DataType | None = None) -> pa.Table:
    """A table with this column c, labels and a category."""
    column = values if isinstance(values, pa.Array) else pa.array(values, data_type)
    return pa.table({"y": [1] * len(column), "c": column, "k": ["k"] * len(column)})


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "", "b"]),
        pa.array(["a", None, "", "b"], pa.large_string()),
        pa.array(["a", None, "", "b"], pa.string_view()),
        pa.array(["a", None, "", "b"], DICTIONARY),
        pa.array([b"\xff", None, b"", b"b"]),
        pa.array([b"\xff", None, b"", b"b"], pa.large_binary()),
        pa.array([b"\xff", None, b"", b"b"], pa.binary_view()),
        pa.array([b"\xff", None, b"", b"b"], pa.dictionary(pa.int8(), pa.binary())),
        pa.array([b"ab", None, None, b"cd"], pa.binary(2)),
        pa.array([1, None, None, -3], pa.int8()),
        pa.array([2**64 - 1, None, None, 3], pa.uint64()),
        pa.array([Decimal(12), None, None, Decimal(-5)], pa.decimal128(20, 0)),
        pa.array([Decimal(12), None, None, Decimal(-5)], pa.decimal256(60, 0)),
        pa.array([True, None, None, False]),
        UUIDS,
    ],
    ids=lambda column: str(column.type),
)
def test_types_of_categories(import_table: ImportTable, tmp_path: Path, column: pa.Array) -> None:
    """Two values and two missing ones: whatever the type, and stored with or without Arrow's word for it."""
    description = TableDescription.model_validate({"label": "y", "categorical": ["c"]})
    ids = []
    for stored in (True, False):
        file, output = tmp_path / f"{stored}.parquet", tmp_path / f"{stored}"
        pq.write_table(one_column(column), file, store_schema=stored)
        dataset = import_table([file], output, description, min_count=1, validation_fraction=0)
        ids.append(next(dataset.train.batches(4)).ids[:, 0].tolist())
    assert ids[0] == ids[1]
    assert [bool(row) for row in ids[0]] == [True, False, False, True]
    assert ids[0][0] != ids[0][3]


@pytest.mark.parametrize(
    ("column", "as_text"),
    [
        (pa.array([["a", "b"], None, [], [None, "a"]]), ["a|b", "", "", "|a"]),
        (pa.array([["a", "b"], None, [], [None, "a"]], pa.large_list(pa.string())), ["a|b", "", "", "|a"]),
        (pa.array([["a", "b"], None, [], [None, "a"]], pa.list_view(pa.string())), ["a|b", "", "", "|a"]),
        (pa.array([["a", "b"], None, None, [None, "a"]], pa.list_(pa.string(), 2)), ["a|b", "", "", "|a"]),
        (pa.array([["a", "b"], None, [], [None, "a"]], pa.list_(DICTIONARY)), ["a|b", "", "", "|a"]),
        (pa.array(IDS, pa.list_(pa.large_binary())), [b"\xff\xfe|x", "", "", "|y"]),
        (pa.array(IDS), [b"\xff\xfe|x", "", "", "|y"]),
        (pa.array([[1, 2], None, [], [None, 1]]), ["1|2", "", "", "|1"]),
        (pa.array([[True, False], None, [], [True]]), ["1|0", "", "", "1"]),
        (pa.array([[None], None, [], [None, None]], pa.list_(pa.null())), ["", "", "", ""]),
        (pa.nulls(4), ["", "", "", ""]),
        (pa.array(["a|b", None, "", "|a"]), ["a|b", "", "", "|a"]),
        (pa.array(["a|b", None, "", "|a"], pa.large_string()), ["a|b", "", "", "|a"]),
        (pa.array([b"\xff|b", None, b"", b"|b"]), [b"\xff|b", "", "", "|b"]),
        (pa.array([7, None, None, 8]), ["7", "", "", "8"]),
    ],
    ids=lambda column: str(column.type) if isinstance(column, pa.Array) else "",
)
def test_types_of_lists(
    import_table: ImportTable,
    assert_equal: AssertEqual,
    tmp_path: Path,
    column: pa.Array,
    as_text: Sequence[str | bytes],
) -> None:
    description = TableDescription.model_validate({"label": "y", "lists": ["c"]})
    pq.write_table(one_column(column), tmp_path / "c.parquet")
    lines = [text if isinstance(text, bytes) else text.encode() for text in as_text]
    (tmp_path / "c.csv").write_bytes(b"y,c\n" + b"".join(b"1," + line + b"\n" for line in lines))
    found, expected = (
        import_table([tmp_path / f"c.{kind}"], tmp_path / kind, description, min_count=1, validation_fraction=0)
        for kind in ("parquet", "csv")
    )
    assert found.schema == expected.schema
    assert_equal(next(found.train.batches(4)), next(expected.train.batches(4)))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, None], pa.float16()),
        pa.array([1.5, math.nan], pa.float32()),
        pa.array([Decimal("1.50"), None], pa.decimal128(20, 2)),
        pa.array([True, None]),
        pa.array([2, None], pa.uint64()),
        pa.array([2, None], pa.dictionary(pa.int8(), pa.int64())),
        pa.nulls(2),
    ],
    ids=lambda column: str(column.type),
)
def test_types_of_numbers(import_table: ImportTable, tmp_path: Path, column: pa.Array) -> None:
    description = TableDescription.model_validate({"label": "y", "dense": ["c"], "categorical": ["k"]})
    pq.write_table(one_column(column), tmp_path / "c.parquet")
    dataset = import_table([tmp_path / "c.parquet"], tmp_path / "c", description, validation_fraction=0)
    value = column[0].as_py()
    assert next(dataset.train.batches(4)).dense[:, 0].tolist() == [float(value or 0), 0.0]


@pytest.mark.parametrize(
    ("use", "column", "reason"),
    [
        (
            "categorical",
            pa.array([1.5]),
            "is double, but a category or group takes text, .*; cast it where the file is",
        ),
        ("categorical", pa.array([Decimal("1.5")]), r"is decimal128\(2, 1\), but a category or group takes"),
        ("categorical", pa.array([date(2020, 1, 1)]), r"is date32\[day\], but a category or group takes"),
        ("categorical", pa.array([datetime(2020, 1, 1)]), r"is timestamp\[us\], but a category or group takes"),
        (
            "categorical",
            pa.array([["a"]]),
            r"is list<element: string>, but a category or group .*; give a category under `lists`, or",
        ),
        ("categorical", pa.array([{"x": 1}]), "is struct<x: int64>, but a category or group takes"),
        ("lists", pa.array([[1.5]]), "is list<element: double>, but a list takes lists of text, .*; cast it"),
        ("lists", pa.array([[["a"]]]), "is list<element: list<element: string>>, but a list takes"),
        ("lists", pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "is map<.*>, but a list takes"),
        (
            "dense",
            pa.array(["1"]),
            "is string, but a label, weight or dense feature takes integers, .*; cast it",
        ),
        ("dense", pa.array([datetime(2020, 1, 1)]), r"is timestamp\[us\], but a label, weight or dense feature takes"),
        ("dense", pa.array([[1]]), "is list<element: int64>, but a label, weight or dense"),
        ("hexadecimal", pa.array([15]), "is int64, but hexadecimal digits are text; remove"),
    ],
)
def test_types_that_do_not_fit(
    import_table: ImportTable, tmp_path: Path, use: str, column: pa.Array, reason: str
) -> None:
    uses: dict[str, object] = {"categorical": ["k"], use: ["c"]}
    if use == "hexadecimal":
        uses = {"categorical": [{"column": "c", "type": "hexadecimal"}]}
    description = TableDescription.model_validate({"label": "y", **uses})
    pq.write_table(one_column(column), tmp_path / "c.parquet")
    with pytest.raises(DatasetError, match=rf"/c.parquet: column 2 \(c\) {reason}"):
        import_table([tmp_path / "c.parquet"], tmp_path / "out", description)


def test_a_list_that_is_a_category_too(import_table: ImportTable, tmp_path: Path) -> None:
    description = TableDescription.model_validate(
        {"label": "y", "categorical": ["c"], "lists": [{"column": "c", "name": "l"}]}
    )
    pq.write_table(one_column([["a"]]), tmp_path / "c.parquet")
    with pytest.raises(DatasetError, match="but a category or group takes"):
        import_table([tmp_path / "c.parquet"], tmp_path / "out", description)
    pq.write_table(one_column(["a|b"]), tmp_path / "c.parquet")
    dataset = import_table([tmp_path / "c.parquet"], tmp_path / "out", description, min_count=1)
    assert dataset.schema.num_embeddings == (2, 3)


def test_columns_of_one_name_are_chosen_by_number(import_table: ImportTable, tmp_path: Path) -> None:
    """Also between columns that are nested, or whose names hold dots."""
    columns = {
        "c.x": pa.array([{"x": 1, "y": [{"z": 2}]}] * 3),
        "y": pa.array([1, 0, 1]),
        "d": pa.array(["p", "q", "r"]),
        "c": pa.array(["a", "b", None]),
    }
    table = pa.Table.from_arrays([*columns.values(), pa.array(["x", "y", "x"])], names=[*columns, "c"])
    pq.write_table(table, tmp_path / "c.parquet")
    chosen = {"categorical": [{"column": 4, "name": "c"}, {"column": 5, "name": "c2"}]}
    description = TableDescription.model_validate({"label": "y", **chosen})
    dataset = import_table([tmp_path / "c.parquet"], tmp_path / "out", description, min_count=1, validation_fraction=0)
    ids = next(dataset.train.batches(3)).ids
    assert dataset.schema.num_embeddings == (3, 3)
    assert ids[2, 0] == 0
    assert ids[0, 1] == ids[2, 1] != ids[1, 1]


def test_a_column_of_nulls_in_one_file_is_missing(import_table: ImportTable, tmp_path: Path) -> None:
    description = TableDescription.model_validate({"label": "y", "categorical": ["c"]})
    pq.write_table(one_column(["a", "b"]), tmp_path / "a.parquet")
    pq.write_table(one_column(pa.nulls(2)), tmp_path / "b.parquet")
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    dataset = import_table(files, tmp_path / "out", description, min_count=1, validation_fraction=0)
    assert [bool(row) for row in next(dataset.train.batches(4)).ids[:, 0]] == [True, True, False, False]


def test_missing_texts_are_missing_in_parquet_too(
    import_table: ImportTable, assert_equal: AssertEqual, tmp_path: Path
) -> None:
    uses = {"categorical": ["c", {"column": "h", "type": "hexadecimal"}], "lists": ["l"]}
    description = TableDescription.model_validate({"label": "y", **uses, "missing": ["NULL", "-1"]})
    rows = pa.table({"y": [1, 0, 1], "c": [-1, 2, 3], "h": ["NULL", "f", "0"], "l": [["x", "NULL"], ["NULL"], ["y"]]})
    pq.write_table(rows, tmp_path / "c.parquet")
    (tmp_path / "c.csv").write_text("y,c,h,l\n1,-1,NULL,x|NULL\n0,2,f,NULL\n1,3,0,y\n")
    found, expected = (
        import_table([tmp_path / f"c.{kind}"], tmp_path / kind, description, min_count=1, validation_fraction=0)
        for kind in ("parquet", "csv")
    )
    assert_equal(next(found.train.batches(4)), next(expected.train.batches(4)))
    assert found.schema.num_embeddings == expected.schema.num_embeddings == (3, 3, 3)


def test_a_damaged_file(rows: pa.Table, import_table: ImportTable, tmp_path: Path) -> None:
    pq.write_table(rows, tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(content[:-9])
    assert parquet.is_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        import_table([tmp_path / "rows.parquet"], tmp_path / "clicks", DESCRIPTION)
