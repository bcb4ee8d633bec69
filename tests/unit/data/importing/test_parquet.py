from __future__ import annotations

import math

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet as pq

from bagpipe_hpc.data.importing import parquet
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import DatasetError

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
def rows():
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


def as_csv(rows):
    """The same rows as text."""
    lines = ["unused,clicked,price,age,user,code,genres"]
    for row in rows.to_pylist():
        price = "" if row["price"] is None or math.isnan(row["price"]) else repr(row["price"])
        values = ["x", int(row["clicked"]), price, row["age"], row["user"], row["code"], "|".join(row["genres"] or [])]
        lines.append(",".join("" if value is None else str(value) for value in values))
    return "\n".join(lines)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_the_same_rows_as_text_give_the_same_data_set(rows, import_table, assert_equal, tmp_path, num_ranks):
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=7)
    (tmp_path / "rows.csv").write_text(as_csv(rows))
    options = {"min_count": 2, "validation_fraction": 0.2, "samples_per_shard": 9}
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


def test_files_of_both_kinds_follow_each_other(rows, import_table, assert_equal, tmp_path):
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
def test_bad_rows(rows, import_table, tmp_path, column, value, reason):
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
    assert dataset.origin["bad_lines"]["count"] == 1


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("price", ["a"] * NUM_ROWS, "column 'price' is string, but its use needs number"),
        ("user", [1.5] * NUM_ROWS, "column 'user' is double, but its use needs text or integers"),
        ("genres", ["a|b"] * NUM_ROWS, "column 'genres' is string, but its use needs a list of text or integers"),
        ("code", [15] * NUM_ROWS, "column 'code' is int64, but its use needs hexadecimal"),
    ],
)
def test_types_that_do_not_fit(rows, import_table, tmp_path, column, values, reason):
    changed = rows.set_column(rows.schema.get_field_index(column), column, pa.array(values))
    pq.write_table(changed, tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match=f"/rows.parquet: {reason}"):
        import_table([tmp_path / "rows.parquet"], tmp_path / "clicks", DESCRIPTION)


def test_a_damaged_file(rows, import_table, tmp_path):
    pq.write_table(rows, tmp_path / "rows.parquet")
    content = (tmp_path / "rows.parquet").read_bytes()
    (tmp_path / "rows.parquet").write_bytes(content[:-9])
    assert parquet.is_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DatasetError, match="cannot be read as Parquet"):
        import_table([tmp_path / "rows.parquet"], tmp_path / "clicks", DESCRIPTION)
