"""From a log of sessions to clicks and negatives, and on to histories."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.bench.next_click import log
from bagpipe_hpc.bench.next_click.log import Clicks, description, read_clicks, write_table
from bagpipe_hpc.data.dataset import open_dataset
from bagpipe_hpc.data.importing.importer import ImportSettings, import_files
from bagpipe_hpc.errors import DatasetError

CLICKS = Clicks(
    users=np.array([7, 8, 7, 9, 8, 7, 9]),
    sessions=np.array([1, 2, 1, 3, 2, 1, 3]),
    articles=np.array([10, 11, 12, 10, 13, 11, 12]),
    times=np.array([100, 101, 105, 105, 110, 120, 121]),
)
TEXT = (
    "user_id,session_id,session_start,click_article_id,click_timestamp\n"
    "7,1,0,10,100\n7,1,0,12,105\n7,1,0,11,120\n8,2,1,11,101\n8,2,1,13,110\n9,3,2,10,105\n9,3,2,12,121\n"
)


def table_of(path: Path, num_negatives: int, seed: int = 0) -> list[dict[str, int]]:
    write_table(CLICKS, path, num_negatives, seed)
    with path.open(newline="") as file:
        return [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("is_gzip", [False, True])
def test_clicks_are_read_in_the_order_of_their_times(tmp_path: Path, is_gzip: bool) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(gzip.compress(TEXT.encode()) if is_gzip else TEXT.encode())
    found = read_clicks(path, 100, has_users=True)
    assert found.users.tolist() == CLICKS.users.tolist()
    assert found.sessions.tolist() == CLICKS.sessions.tolist()
    assert found.articles.tolist() == CLICKS.articles.tolist()
    assert found.times.tolist() == CLICKS.times.tolist()
    assert read_clicks(path, 2).articles.tolist() == [10, 12]
    assert read_clicks(path, 100).users.tolist() == CLICKS.sessions.tolist()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("session_id,click_timestamp\n1,2\n", "has no column click_article_id"),
        ("", "has no column session_id"),
        (TEXT.replace("11,120", "eleven,120"), "line 4 does not have an integer in each of .*eleven"),
        (TEXT + "1,2\n", "line 9 does not have an integer"),
    ],
)
def test_a_log_that_cannot_be_used_is_named(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(DatasetError, match=f"{path}: {fault}"):
        read_clicks(path, 100)


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"missing\.csv: cannot be read"):
        read_clicks(tmp_path / "missing.csv", 100)


def test_negatives_are_recent_articles_that_the_session_does_not_have(tmp_path: Path) -> None:
    rows = table_of(tmp_path / "table.csv", num_negatives=2)
    for number, (session, article, time) in enumerate(zip(CLICKS.sessions, CLICKS.articles, CLICKS.times, strict=True)):
        *negatives, click = [row for row in rows if row["request"] == number]
        assert (click["session"], click["article"], click["time"], click["label"]) == (session, article, time, 1)
        before = set(CLICKS.articles[:number][CLICKS.sessions[:number] == session].tolist())
        assert click["weight"] == (1 if negatives else 0)
        assert all((row["session"], row["time"], row["label"], row["weight"]) == (session, time, 0, 1)
                   for row in negatives)  # fmt: skip
        drawn = [row["article"] for row in negatives]
        possible = set(CLICKS.articles[:number].tolist()) - before - {int(article)}
        assert len(set(drawn)) == len(drawn) == (min(2, len(possible)) if before else 0)
        assert set(drawn) <= possible
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_negatives_depend_on_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, again, other = (table_of(tmp_path / "table.csv", 1, seed) for seed in (0, 0, 5))
    assert first == again != other
    monkeypatch.setattr(log, "RECENT_CLICKS", 1)
    recent = [row for row in table_of(tmp_path / "table.csv", 1) if row["label"] == 0]
    assert [(row["request"], row["article"]) for row in recent] == [(2, 11), (4, 10), (5, 13), (6, 11)]


def test_histories_are_the_clicks_before(tmp_path: Path) -> None:
    write_table(CLICKS, tmp_path / "table.csv", 1, seed=1)
    settings = ImportSettings(min_count=1, validation_fraction=0.0)
    import_files([tmp_path / "table.csv"], tmp_path / "data", description(max_length=50), settings)
    dataset = open_dataset(tmp_path / "data")
    assert [table.name for table in dataset.schema.tables] == ["article", "article_history"]
    batch = dataset.train.read(0, dataset.train.num_samples)
    history = batch.bags["article_history"]
    times = np.split(history.elements["time"], history.offsets[1:-1])
    assert batch.sample_weights is not None
    counted = batch.sample_weights > 0
    assert [times[place].tolist() for place in np.flatnonzero(counted & (batch.labels == 1))] == [
        [100], [101], [100, 105], [105]
    ]  # fmt: skip
    assert [times[place].tolist() for place in np.flatnonzero(counted & (batch.labels == 0))] == [
        [100], [101], [100, 105], [105]
    ]  # fmt: skip
    assert all(not len(times[place]) for place in np.flatnonzero(~counted))


def test_tables_may_be_dynamic(tmp_path: Path) -> None:
    write_table(CLICKS, tmp_path / "table.csv", 1, seed=1)
    columns = description(max_length=50, has_users=True, is_dynamic=True)
    import_files([tmp_path / "table.csv"], tmp_path / "data", columns, ImportSettings(validation_fraction=0.0))
    dataset = open_dataset(tmp_path / "data")
    assert set(dataset.schema.dynamic_tables) == {"article", "user"}
    batch = dataset.train.read(0, dataset.train.num_samples)
    users = batch.ids[:, [table.name for table in dataset.schema.one_hot_tables].index("user")]
    assert set(users.tolist()) == {7, 8, 9}
    assert set(batch.bags["article_history"].ids.tolist()) <= {10, 11, 12, 13}
