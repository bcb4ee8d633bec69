"""Times of samples, from text and from Parquet: what they may be, and that they never fall."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from bagpipe_hpc.data.dataset import Dataset, Split
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import DatasetError
from tests.unit.data.importing.conftest import bad_lines_of

ImportTable = Callable[..., Dataset]


def description_of(time: Any, **more: Any) -> TableDescription:
    return TableDescription.model_validate({"label": "click", "categorical": ["item"], "time": time, **more})


def times_of(split: Split) -> list[int]:
    found: list[int] = []
    for shard in split.shards:
        with split.open_shard(shard) as reader:
            found += reader.times(0, shard.num_samples).tolist()
    return found


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    def write(*times: object, name: str = "log.csv") -> Path:
        (tmp_path / name).write_text("click,item,at\n" + "".join(f"1,x,{time}\n" for time in times))
        return tmp_path / name

    return write


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_integers(import_table: ImportTable, tmp_path: Path, log: Callable[..., Path], num_ranks: int) -> None:
    files = [log(-(10**17), -1, 0, 0, name="a.csv"), log(7, 10**17, name="b.csv")]
    dataset = import_table(
        files, tmp_path / "data", description_of("at"), num_ranks=num_ranks, samples_per_shard=2,
        validation_fraction=0.34,
    )  # fmt: skip
    assert dataset.schema.time == "at"
    assert (times_of(dataset.train), times_of(dataset.validation)) == ([-(10**17), -1, 0, 0], [7, 10**17])
    assert dataset.train.read(0, 4).times is None  # batches do not need them


def test_texts_of_a_format(import_table: ImportTable, tmp_path: Path, log: Callable[..., Path]) -> None:
    """A column of times may also be a category, as the hour of Avazu's log."""
    file = log("14102100", "14102101")
    described = description_of({"column": "at", "format": "%y%m%d%H"}, categorical=["item", "at"])
    dataset = import_table([file], tmp_path / "data", described, min_count=1)
    assert times_of(dataset.train) == [1413849600, 1413853200]
    assert sorted(dataset.train.read(0, 2).ids[:, 1].tolist()) == [1, 2]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2, 2**40]), [1, 2, 2**40]),
        (pa.array(["1", "2", "3"]), [1, 2, 3]),
        (pa.array([datetime(1970, 1, 1, 0, 0, second, 999) for second in (1, 2, 3)]), [1, 2, 3]),
        (pa.array([datetime(1970, 1, 2)] * 3, pa.timestamp("ns", "UTC")), [86400] * 3),
        (pa.array([date(1970, 1, 1), date(1970, 1, 2), date(1970, 1, 3)]), [0, 86400, 172800]),
    ],
)
def test_parquet(import_table: ImportTable, tmp_path: Path, column: pa.Array, expected: list[int]) -> None:
    parquet.write_table(pa.table({"click": [1, 0, 1], "item": ["x"] * 3, "at": column}), tmp_path / "log.parquet")
    dataset = import_table([tmp_path / "log.parquet"], tmp_path / "data", description_of("at"), validation_fraction=0)
    assert times_of(dataset.train) == expected


def test_one_format_for_text_and_parquet(import_table: ImportTable, tmp_path: Path) -> None:
    columns = {"click": [1], "item": ["x"], "at": [date(1970, 1, 3)]}
    parquet.write_table(pa.table(columns), tmp_path / "log.parquet")
    described = description_of({"column": "at", "format": "%Y-%m-%d"})
    dataset = import_table([tmp_path / "log.parquet"], tmp_path / "data", described)
    assert times_of(dataset.train) == [172800]


@pytest.mark.parametrize(
    ("given", "text", "expected"),
    [
        ("%Y-%m-%d %H:%M:%S%z", "1970-01-01 02:00:01+0200", 1),
        ("%d/%b/%Y:%H:%M:%S.%f", "01/Jan/1970:00:00:07.999", 7),
        ("%G-W%V-%u", "1970-W01-5", 86400),
        ("%Y-%m-%d", "1969-12-31", -86400),
    ],
)
def test_formats(
    import_table: ImportTable, tmp_path: Path, log: Callable[..., Path], given: str, text: str, expected: int
) -> None:
    dataset = import_table([log(text)], tmp_path / "data", description_of({"column": "at", "format": given}))
    assert times_of(dataset.train) == [expected]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("%Q", "is no format of Python's strptime"),
        ("%H:%M", "has no year, so it says no time; add %Y or %y"),
        ("%Y-%m-%d %Z", "%Z does not say how far a time is from UTC; give the offset, with %z"),
    ],
)
def test_formats_that_say_no_time(given: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        description_of({"column": "at", "format": given})


def test_types_that_are_no_times(import_table: ImportTable, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"click": [1], "item": ["x"], "at": [1.5]}), tmp_path / "log.parquet")
    with pytest.raises(DatasetError, match=r"column 3 \(at\) is double, but times are integers, timestamps, dates or"):
        import_table([tmp_path / "log.parquet"], tmp_path / "data", description_of("at"))


@pytest.mark.parametrize("value", ["", "x", "1.5", "1e3", " 1", "1" * 19, "NA"])
def test_values_that_are_no_times(
    import_table: ImportTable, tmp_path: Path, log: Callable[..., Path], value: str
) -> None:
    with pytest.raises(DatasetError, match=r"line 3: column 3 \(at\) is '.*', but must be an integer of at most 18"):
        import_table([log(1, value, 2)], tmp_path / "data", description_of("at", missing=["NA"]), max_bad_lines=0)
    dataset = import_table([log(1, value, 2)], tmp_path / "data", description_of("at", missing=["NA"]), max_bad_lines=1)
    assert bad_lines_of(dataset)[0] == 1
    assert times_of(dataset.train) == [1, 2]


def test_texts_of_another_format(import_table: ImportTable, tmp_path: Path, log: Callable[..., Path]) -> None:
    described = description_of({"column": "at", "format": "%Y-%m-%d"})
    for bad in ("14102101", "2014-02-31", "2014-10-21x"):
        with pytest.raises(DatasetError, match=rf"line 3: .*'{bad}', but must be a time of the format '%Y-%m-%d'"):
            import_table([log("2014-10-21", bad)], tmp_path / "data", described, max_bad_lines=0)


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_times_that_fall(import_table: ImportTable, tmp_path: Path, log: Callable[..., Path], num_ranks: int) -> None:
    """Within a shard, between shards and between ranks; a bad line does not count."""
    files = [log(1, 2, "x", 2, name="a.csv"), log(1, 4, 5, name="b.csv")]
    with pytest.raises(
        DatasetError, match=r"b\.csv: line 2: column at is 1, but that of \S+a\.csv: line 5 is 2, and times must not"
    ):
        import_table(
            files, tmp_path / "data", description_of("at"), num_ranks=num_ranks, samples_per_shard=2, max_bad_lines=1,
            validation_fraction=0,
        )  # fmt: skip
    assert not (tmp_path / "data").exists()
    with pytest.raises(DatasetError, match=r"b\.csv: line 3: column at is 3, but that of \S+b\.csv: line 2 is 9"):
        import_table([log(9, 3, name="b.csv")], tmp_path / "data", description_of("at"))


def test_samples_without_labels_need_no_times(
    import_table: ImportTable, tmp_path: Path, log: Callable[..., Path]
) -> None:
    (tmp_path / "new.csv").write_text("item\nx\n")
    dataset = import_table([tmp_path / "new.csv"], tmp_path / "data", description_of("at").without_label())
    assert dataset.schema.time is None
    assert np.array_equal(dataset.validation.read(0, 1).labels, [0])
