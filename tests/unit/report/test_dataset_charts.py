"""Charts of a data set."""

from __future__ import annotations

from typing import Any

from bagpipe_hpc.data.inspect import DatasetReport, TableReport
from bagpipe_hpc.data.inspect_reuse import AccessReport, ReuseReport, WindowNeed
from bagpipe_hpc.report.dataset_charts import MAX_TABLES, pictures_of_dataset
from bagpipe_hpc.report.encodings import Picture

ALL = TableReport("all", 9, 3, 10, 0.5)
NEEDS = (WindowNeed(0.5, 1, 3), WindowNeed(1.0, 4, 7))


def report_of(accesses: AccessReport | None, num_tables: int = 1) -> DatasetReport:
    tables = tuple(TableReport(f"t{i}", 9, i, 10, 0.5) for i in range(num_tables))
    return DatasetReport((), tables, (), ALL, 1024, None, accesses)


def values_of(picture: Picture) -> list[dict[str, Any]]:
    (values,) = picture.chart.to_dict(validate=False)["datasets"].values()
    return list(values)


def test_windows_and_skew_are_drawn() -> None:
    reuse = ReuseReport(1024, 8, 2.5, 3, 0.1, 1, NEEDS, NEEDS)
    accesses = AccessReport((reuse,), ((0.01, 0.5),), ((0.5, 0.8), (1.0, 1.0)), 0.1, 3)
    pictures = {each.key: each for each in pictures_of_dataset(report_of(accesses, 3))}
    assert list(pictures) == ["reuses", "slots", "batches", "skew", "tables"]
    values = values_of(pictures["slots"])
    assert [(each["window"], each["share"], each["rows"]) for each in values] == [(1, 0.5, 3), (4, 1.0, 7)]


def test_what_has_no_values_is_left_out() -> None:
    assert pictures_of_dataset(report_of(None)) == []
    never_again = ReuseReport(1024, 1, 2.0, 2, 1.0, 0, NEEDS, ())
    accesses = AccessReport((never_again,), (), (), None, 0)
    assert [each.key for each in pictures_of_dataset(report_of(accesses))] == ["batches"]


def test_the_largest_tables_are_shown() -> None:
    (picture,) = pictures_of_dataset(report_of(None, MAX_TABLES + 5))
    values = values_of(picture)
    assert [each["table"] for each in values][:2] == [f"t{MAX_TABLES + 4}", f"t{MAX_TABLES + 3}"]
    assert len(values) == MAX_TABLES
    assert f"the {MAX_TABLES} largest" in picture.says
