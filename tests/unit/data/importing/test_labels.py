"""Several labels, weights and groups of a table, from text and from Parquet."""

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
from bagpipe_hpc.data.schema import LabelSchema
from bagpipe_hpc.errors import DatasetError
from tests.unit.data.importing.conftest import bad_lines_of

ImportTable = Callable[..., Dataset]
DESCRIBED = {
    "labels": [
        "clicked",
        {"column": "stars", "name": "liked", "threshold": 4, "optional": True},
        {"column": "stars", "type": "real", "optional": True},
        {"column": "bought", "optional": True},
    ],
    "weight": "importance",
    "group": "user",
    "categorical": ["user", "item"],
    "missing": ["NA"],
}
NAN = float("nan")
LINES = """clicked,stars,bought,importance,user,item
1,5,0,1,anna,x
0,,,0.25,bob,y
1,2.5,1,0,anna,x
0,NA,NA,2e1,,z
"""
EXPECTED = [[1, 1, 5, 0], [0, NAN, NAN, NAN], [1, 0, 2.5, 1], [0, NAN, NAN, NAN]]


def in_parquet(path: Path) -> Path:
    columns = {
        "clicked": [True, False, True, False],
        "stars": [5.0, None, 2.5, NAN],
        "bought": [0, None, 1, None],
        "importance": [1.0, 0.25, 0.0, 20.0],
        "user": ["anna", "bob", "anna", None],
        "item": ["x", "y", "x", "z"],
    }
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_table_of_them(import_table: ImportTable, tmp_path: Path, is_text: bool, num_ranks: int) -> None:
    (tmp_path / "table.csv").write_text(LINES)
    file = tmp_path / "table.csv" if is_text else in_parquet(tmp_path / "table.parquet")
    description = TableDescription.model_validate(DESCRIBED)
    dataset = import_table([file], tmp_path / "data", description, num_ranks=num_ranks, validation_fraction=0)
    assert dataset.schema.labels == (
        LabelSchema(name="clicked"),
        LabelSchema(name="liked", optional=True),
        LabelSchema(name="stars", kind="real", optional=True),
        LabelSchema(name="bought", optional=True),
    )
    assert (dataset.schema.weighted, dataset.schema.group) == (True, "user")
    batch = dataset.train.read(0, 4)
    assert np.array_equal(batch.labels, np.array(EXPECTED, np.float32), equal_nan=True)
    assert batch.sample_weights is not None
    assert batch.sample_weights.tolist() == [1, 0.25, 0, 20]
    assert batch.groups is not None
    anna, bob, again, nobody = batch.groups.tolist()
    assert anna == again != bob
    assert nobody < 0 <= min(anna, bob)  # a group of its own


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("2,1,1,1,u,i", r"column 1 \(clicked\) is '2', but must be 0 or 1"),
        (",1,1,1,u,i", r"column 1 \(clicked\) is '', but must be 0 or 1"),
        ("1,many,1,1,u,i", r"column 2 \(stars\) is 'many', but must be empty or a number"),
        ("1,1,0.5,1,u,i", r"column 3 \(bought\) is '0.5', but must be empty, 0 or 1"),
        ("1,1,1,-1,u,i", r"column 4 \(importance\) is '-1', but must be a number that is not negative"),
        ("1,1,1,,u,i", r"column 4 \(importance\) is '', but must be a number that is not negative"),
        ("1,1,1,1e13,u,i", r"column 4 \(importance\) is '1e\+13', but must be 0 or a number between 1e-12 and 1e\+12"),
        ("1,1,1,1e-13,u,i", r"column 4 \(importance\) is '1e-13', but must be 0 or a number between 1e-12"),
        ("1,1,1,inf,u,i", r"column 4 \(importance\) is 'inf', but must be a number that is not negative"),
    ],
)
def test_bad_values_are_named_by_file_line_and_column(
    import_table: ImportTable, tmp_path: Path, line: str, fault: str
) -> None:
    (tmp_path / "table.csv").write_text(f"{LINES}{line}\n")
    description = TableDescription.model_validate(DESCRIBED)
    with pytest.raises(DatasetError, match=rf"table\.csv.*line 6.*{fault}"):
        import_table([tmp_path / "table.csv"], tmp_path / "data", description, max_bad_lines=0)


@pytest.mark.parametrize(("column", "value"), [("importance", -1.0), ("importance", NAN), ("bought", 2)])
def test_bad_values_in_parquet(import_table: ImportTable, tmp_path: Path, column: str, value: Any) -> None:
    table = parquet.read_table(in_parquet(tmp_path / "sound.parquet")).to_pydict()
    table[column][2] = value
    parquet.write_table(pa.table(table), tmp_path / "table.parquet")
    description = TableDescription.model_validate(DESCRIBED)
    dataset = import_table([tmp_path / "table.parquet"], tmp_path / "data", description, max_bad_lines=1)
    count, faults = bad_lines_of(dataset)
    assert count == 1
    assert "row 3" in faults[0]
    assert f"({column})" in faults[0]


@pytest.mark.parametrize("has_header", [True, False])
def test_files_for_predictions_may_lack_labels_weight_and_group(
    import_table: ImportTable, tmp_path: Path, has_header: bool
) -> None:
    described = {**DESCRIBED, "categorical": ["item"]}
    names = ["clicked", "stars", "bought", "importance", "user", "item"]
    if not has_header:
        described["columns"] = names
    description = TableDescription.model_validate(described).without_label()
    (tmp_path / "short.csv").write_text("item\nx\ny\n" if has_header else "x\ny\n")
    (tmp_path / "long.csv").write_text((",".join(names) + "\n" if has_header else "") + "?,?,?,?,?,x\n?,?,?,?,?,y\n")
    ids = []
    for name in ("short", "long"):
        dataset = import_table([tmp_path / f"{name}.csv"], tmp_path / name, description, min_count=1)
        batch = dataset.validation.read(0, 2)
        assert not dataset.schema.labelled
        assert dataset.schema.num_labels == 4  # what models predict
        assert batch.labels.shape == (2, 4)
        assert (batch.sample_weights, batch.groups) == (None, None)
        ids.append(batch.ids.tolist())
    assert ids[0] == ids[1]
