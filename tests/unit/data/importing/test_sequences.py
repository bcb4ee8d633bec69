"""Sequences of tables, from text and from Parquet."""

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
from bagpipe_hpc.errors import DatasetError
from tests.unit.data.importing.conftest import bad_lines_of

ImportTable = Callable[..., Dataset]
DESCRIBED: dict[str, Any] = {
    "label": "y",
    "categorical": ["item"],
    "lists": [
        {
            "column": "clicked",
            "sequence": True,
            "shares": "item",
            "elements": [{"column": "when", "name": "time", "type": "integer"}, "stars"],
        },
        {"column": "action", "sequence": True, "along": "clicked"},
    ],
    "missing": ["NA"],
}
LINES = """y,item,clicked,when,stars,action
1,a,a|b|a,10|20|900719925474099301,1.5|-2|3e1,view|buy|view
0,b,,,,
1,a,b|NA|a,1|x|3,0|y|.5,view||buy
0,b,b,7,1,
"""
IDS = [["a", "b", "a"], [], ["b", "a"], ["b"]]
TIMES = [[10, 20, 900719925474099301], [], [1, 3], [7]]
STARS = [[1.5, -2, 30], [], [0, 0.5], [1]]


def describe(**changes: Any) -> TableDescription:
    return TableDescription.model_validate({**DESCRIBED, **changes})


def in_parquet(path: Path, **changes: Any) -> Path:
    columns = {
        "y": [1, 0, 1, 0],
        "item": ["a", "b", "a", "b"],
        "clicked": [["a", "b", "a"], None, ["b", None, "a"], ["b"]],
        "when": [[10, 20, 900719925474099301], [], [1, None, 3], [7]],
        "stars": [[1.5, -2.0, 30.0], [], [0.0, None, 0.5], [1.0]],
        "action": [["view", "buy", "view"], [], ["view", "", "buy"], [None]],
    }
    parquet.write_table(pa.table({**columns, **changes}), path)
    return path


def samples(dataset: Dataset, name: str, values: str | None = None) -> list[list[Any]]:
    bags = dataset.train.read(0, 4).bags[name]
    chosen = bags.ids if values is None else bags.elements[values]
    return [chosen[start:stop].tolist() for start, stop in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]


@pytest.mark.parametrize("is_text", [True, False])
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_table_of_them(import_table: ImportTable, tmp_path: Path, is_text: bool, num_ranks: int) -> None:
    (tmp_path / "table.csv").write_text(LINES)
    file = tmp_path / "table.csv" if is_text else in_parquet(tmp_path / "table.parquet")
    dataset = import_table(
        [file], tmp_path / "data", describe(), num_ranks=num_ranks, validation_fraction=0, min_count=1
    )
    assert [table.kind for table in dataset.schema.sequences] == [
        "sequence with time, stars, rows of item",
        "sequence along clicked",
    ]
    items = dataset.train.read(0, 4).ids[:, 0].tolist()
    row_of = {"a": items[0], "b": items[1]}
    assert samples(dataset, "clicked") == [[row_of[text] for text in each] for each in IDS]
    assert samples(dataset, "clicked", "time") == TIMES
    assert samples(dataset, "clicked", "stars") == STARS
    view, buy = samples(dataset, "action")[0][:2]
    missing = samples(dataset, "action")[3][0]
    assert samples(dataset, "action") == [[view, buy, view], [], [view, buy], [missing]]
    assert len({view, buy, missing}) == 3


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "1,a,a|b,1,1|2,v|v",
            r"column 4 \(when\) has 1 values, but 2 are needed, one for each of column 3 \(clicked\)",
        ),
        ("1,a,a|b,1|2,1|2|3,v|v", r"column 5 \(stars\) has 3 values, but 2 are needed"),
        ("1,a,a|b,1|2,1|2,v", r"column 6 \(action\) has 1 values, but 2 are needed"),
        ("1,a,a|b,1|2.5,1|2,v|v", r"column 4 \(when\) has '2.5', but each value must be an integer of at most 18"),
        ("1,a,a|b,1|,1|2,v|v", r"column 4 \(when\) has '', but each value must be an integer"),
        ("1,a,a|b,1|2,1|nan,v|v", r"column 5 \(stars\) has 'nan', but each value must be a number of float32"),
        ("1,a,a|b,1|2,1|1e39,v|v", r"column 5 \(stars\) has '1e39', but each value must be a number of float32"),
    ],
)
def test_bad_sequences_are_named_by_file_line_and_column(
    import_table: ImportTable, tmp_path: Path, line: str, fault: str
) -> None:
    (tmp_path / "table.csv").write_text(f"{LINES}{line}\n")
    with pytest.raises(DatasetError, match=rf"table\.csv.*line 6: {fault}"):
        import_table([tmp_path / "table.csv"], tmp_path / "data", describe(), max_bad_lines=0)
    dataset = import_table([tmp_path / "table.csv"], tmp_path / "data", describe(), max_bad_lines=1, min_count=1)
    count, _ = bad_lines_of(dataset)
    assert count == 1


def test_bad_lines_of_both_kinds_are_numbered_in_order(import_table: ImportTable, tmp_path: Path) -> None:
    lines = LINES.splitlines()
    lines[2:2] = ["2,a,a,1,1,v", "1,a,a,x,1,v"]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    dataset = import_table([tmp_path / "table.csv"], tmp_path / "data", describe(), max_bad_lines=2, min_count=1)
    count, faults = bad_lines_of(dataset)
    assert count == 2
    assert "line 3: column 1 (y)" in faults[0]
    assert "line 4: column 4 (when)" in faults[1]


def test_bad_values_in_parquet(import_table: ImportTable, tmp_path: Path) -> None:
    file = in_parquet(tmp_path / "table.parquet", stars=[[1.5, np.inf, 3.0], [], [0.0, None, 0.5], [1.0]])
    with pytest.raises(DatasetError, match=r"row 1: column 5 \(stars\) has 'inf', but each value must be a number"):
        import_table([file], tmp_path / "data", describe(), max_bad_lines=0)
    file = in_parquet(tmp_path / "other.parquet", stars=pa.array([[True]] * 4).cast(pa.list_(pa.bool_())))
    with pytest.raises(DatasetError, match=r"column 5 \(stars\) has 1 values, but 3 are needed"):
        import_table([file], tmp_path / "data", describe(), max_bad_lines=0)
    dates = pa.array([[0]] * 4, pa.list_(pa.timestamp("s")))
    file = in_parquet(tmp_path / "dates.parquet", stars=dates)
    with pytest.raises(DatasetError, match=r"column 5 \(stars\) is list<.*, but values of elements are lists"):
        import_table([file], tmp_path / "data", describe())
