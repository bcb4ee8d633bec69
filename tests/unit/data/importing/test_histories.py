"""Histories made while importing, compared with dictionaries of Python, on any number of ranks."""

from __future__ import annotations

import gzip
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import ValidationError

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.importing import histories, shards, text
from bagpipe_hpc.data.importing import parquet as parquet_files
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import DatasetError
from tests.unit.data.importing.conftest import ImportTable, bad_lines_of

COLUMNS = ("clicked", "user", "session", "item", "time", "stars", "action")
Line = Mapping[str, str]
BY_USER: dict[str, Any] = {
    "of": "item",
    "by": "user",
    "order": "time",
    "max_length": 3,
    "elements": [{"column": "time", "type": "integer"}, "stars"],
    "along": ["action"],
    "where": "clicked",
}
BY_SESSION: dict[str, Any] = {"of": "action", "by": "session", "max_length": 2, "name": "done", "order": "stars"}
DESCRIBED: dict[str, Any] = {"label": "clicked", "categorical": ["user", "item", "action"], "history": [BY_USER]}


def describe(**changes: Any) -> TableDescription:
    return TableDescription.model_validate({**DESCRIBED, **changes})


def number(field: str) -> float:
    return float(field) if field else 0.0


def is_malformed(line: Line, described: Sequence[Mapping[str, Any]]) -> bool:
    orders = [line[history["order"]] for history in described if "order" in history]
    return line["clicked"] not in ("0", "1") or "" in orders


def twin(
    lines: Sequence[Line], described: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[int, dict[str, list[tuple[Any, ...]]]]]:
    """Yield the number of each good line, and its histories by name: of each element the value, numbers, companions."""
    known: dict[tuple[str, str], list[Line]] = defaultdict(list)
    newest: dict[tuple[str, str, str], float] = {}
    for place, line in enumerate(lines):
        if is_malformed(line, described):
            continue
        is_late = False
        for by, order in {(history["by"], history["order"]) for history in described if "order" in history}:
            if line[by]:
                key = (by, order, line[by])
                is_late |= float(line[order]) < newest.get(key, -np.inf)
                newest[key] = max(newest.get(key, -np.inf), float(line[order]))
        if is_late:
            continue
        found = {}
        for history in described:
            name = history.get("name", f"{history['of']}_history")
            before = known[name, line[history["by"]]]
            if line[history["by"]]:
                elements = [e if isinstance(e, str) else e["column"] for e in history.get("elements", [])]
                found[name] = [
                    (
                        each[history["of"]],
                        *(number(each[element]) for element in elements),
                        *(each[other] for other in history.get("along", [])),
                    )
                    for each in before[-history["max_length"] :]
                ]
                if line[history["of"]] and line.get(history.get("where", ""), "1") == "1":
                    before.append(line)
            else:
                found[name] = []
        yield place, found


def written(path: Path, lines: Sequence[Line], columns: Sequence[str] = COLUMNS) -> Path:
    path.write_text(
        "\n".join([",".join(columns), *(",".join(line[name] for name in columns) for line in lines)]) + "\n"
    )
    return path


def files_of(dataset: Dataset) -> dict[Path, bytes]:
    return {file.relative_to(dataset.path): file.read_bytes() for file in dataset.path.rglob("*") if file.is_file()}


def histories_of(dataset: Dataset, lines: Sequence[Line], history: Mapping[str, Any]) -> list[list[tuple[Any, ...]]]:
    """The histories of all samples, which are the given lines, with texts in place of row ids, empty for row 0."""
    batch = Batch.concatenate([b for split in (dataset.train, dataset.validation) for b in split.batches(1000)])
    columns: dict[str, dict[int, str]] = {name: {} for name in ("user", "item", "action")}
    for place, (name, texts) in enumerate(columns.items()):
        texts.update(zip(batch.ids[:, place].tolist(), [line[name] for line in lines], strict=True))
        texts[0] = ""  # missing, or only in the validation split
    name = history.get("name", f"{history['of']}_history")
    bags = batch.bags[name]
    along = [batch.bags[f"{name}_{other}"] for other in history.get("along", [])]
    for other in along:
        assert np.array_equal(other.offsets, bags.offsets)
    values = [
        [columns[history["of"]][row] for row in bags.ids.tolist()],
        *(each.tolist() for each in bags.elements.values()),
        *(
            [columns[feature][row] for row in other.ids.tolist()]
            for feature, other in zip(history.get("along", []), along, strict=True)
        ),
    ]
    elements = list(zip(*values, strict=True))
    return [elements[a:b] for a, b in zip(bags.offsets[:-1].tolist(), bags.offsets[1:].tolist(), strict=True)]


def encoded(
    elements: Sequence[tuple[Any, ...]], history: Mapping[str, Any], trained: Sequence[Line]
) -> list[tuple[Any, ...]]:
    """The elements, with empty texts for values that occur in no training line."""
    first = 1 + len(history.get("elements", []))
    features = {0: history["of"], **dict(enumerate(history.get("along", []), first))}
    known = {place: {line[feature] for line in trained} for place, feature in features.items()}
    return [
        tuple(value if place not in known or value in known[place] else "" for place, value in enumerate(element))
        for element in elements
    ]


def field(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(values)


LINES = st.lists(
    st.fixed_dictionaries(
        {
            "clicked": field("1", "1", "0", "x"),
            "user": field("a", "b", "a", ""),
            "session": field("s", "t", "", "s"),
            "item": field("i", "j", "k", ""),
            "time": field("1", "2", "3", "3", "4", ""),
            "stars": field("1", "2.5", "3", "3"),
            "action": field("v", "w", ""),
        }
    ),
    min_size=1,
    max_size=60,
)


@given(LINES, st.integers(1, 9), st.integers(2, 4), st.sampled_from([[BY_USER], [BY_USER, BY_SESSION], [BY_SESSION]]))
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_log_on_any_number_of_ranks(
    import_table: ImportTable,
    lines: list[Line],
    samples_per_shard: int,
    num_ranks: int,
    described: list[dict[str, Any]],
) -> None:
    expected = list(twin(lines, described))
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(text, "BLOCK_BYTES", 150),
        patch.object(histories, "MAX_ELEMENTS", 7),
        patch.object(shards, "PIECE_SAMPLES", 4),
    ):
        file = written(Path(folder) / "log.csv", lines)
        options: dict[str, Any] = {"max_bad_lines": len(lines), "samples_per_shard": samples_per_shard, "min_count": 1}
        num_train = len(lines) - int(0.4 * len(lines))
        options["validation_fraction"] = 0.4
        description = describe(history=described)
        trained = [lines[place] for place, _ in expected if place < num_train]
        if not trained:
            with pytest.raises(DatasetError):
                import_table([file], Path(folder) / "none", description, **options)
            return
        alone = import_table([file], Path(folder) / "alone", description, **options)
        together = import_table([file], Path(folder) / "together", description, num_ranks=num_ranks, **options)
        assert files_of(together) == files_of(alone)
        good = [lines[place] for place, _ in expected]
        for history in described:
            name = history.get("name", f"{history['of']}_history")
            assert histories_of(alone, good, history) == [
                encoded(found[name], history, trained) for _, found in expected
            ]
        if len(expected) < len(lines):
            assert bad_lines_of(alone)[0] == len(lines) - len(expected)


def a_log(num_lines: int, seed: int = 0) -> list[Line]:
    """A log without bad lines. All items occur in its first lines, so they are in the vocabulary."""
    random = np.random.default_rng(seed)
    times = np.sort(random.integers(1_700_000_000, 1_700_000_500, num_lines))
    return [
        {
            "clicked": str(random.integers(2)),
            "user": f"u{random.integers(7)}",
            "session": f"s{random.integers(5)}",
            "item": f"i{place if place < 9 else random.integers(9)}",
            "time": str(time),
            "stars": str(random.integers(2, 10) / 2),
            "action": f"a{random.integers(3)}",
        }
        for place, time in enumerate(times)
    ]


def in_parquet(path: Path, lines: Sequence[Line]) -> Path:
    convert: dict[str, type] = {"clicked": int, "time": int, "stars": float}
    columns = {name: [convert.get(name, str)(line[name]) for line in lines] for name in COLUMNS}
    parquet.write_table(pa.table(columns), path, row_group_size=30)
    return path


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_parquet_gives_the_same(
    import_table: ImportTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    monkeypatch.setattr(parquet_files, "BATCH_ROWS", 11)
    lines = a_log(100)
    options: dict[str, Any] = {"samples_per_shard": 17, "min_count": 1}
    from_text = import_table([written(tmp_path / "log", lines)], tmp_path / "text", describe(), **options)
    file = in_parquet(tmp_path / "log.parquet", lines)
    from_parquet = import_table([file], tmp_path / "parquet", describe(), num_ranks=num_ranks, **options)
    ours, others = files_of(from_parquet), files_of(from_text)
    names = [name for name in ours if name.suffix == ".h5"]
    assert {name: ours[name] for name in names} == {name: others[name] for name in names}


def test_timestamps_of_parquet(import_table: ImportTable, tmp_path: Path) -> None:
    lines = a_log(30)
    table = parquet.read_table(in_parquet(tmp_path / "log.parquet", lines))
    position = COLUMNS.index("time")
    times = pc.multiply(table.column("time"), 1_000_000).cast(pa.timestamp("us", "UTC"))
    parquet.write_table(table.set_column(position, "time", times), tmp_path / "times.parquet")
    dataset = import_table([tmp_path / "times.parquet"], tmp_path / "data", describe(), min_count=1)
    assert histories_of(dataset, lines, BY_USER) == [found["item_history"] for _, found in twin(lines, [BY_USER])]
    description = describe(history={"of": "item", "by": "user", "order": "user"}, categorical=["item"])
    with pytest.raises(DatasetError, match="column 'user' is used as a category or text and as a moment"):
        import_table([tmp_path / "times.parquet"], tmp_path / "none", description)
    texts = describe(history={"of": "item", "by": "session", "order": "user"}, categorical=["item"])
    with pytest.raises(
        DatasetError, match=r"column 2 \(user\) is string, but a history takes integers, .* or dates; cast"
    ):
        import_table([tmp_path / "times.parquet"], tmp_path / "none", texts)


@pytest.mark.parametrize("num_ranks", [1, 4])
def test_several_files_one_of_them_gzip(import_table: ImportTable, tmp_path: Path, num_ranks: int) -> None:
    lines = a_log(60)
    files = [written(tmp_path / str(number), lines[start : start + 20]) for number, start in enumerate((0, 20, 40))]
    files[1].write_bytes(gzip.compress(files[1].read_bytes()))
    options: dict[str, Any] = {"num_ranks": num_ranks, "samples_per_shard": 9, "min_count": 1}
    dataset = import_table(files, tmp_path / "data", describe(), **options)
    wanted = [found["item_history"] for _, found in twin(lines, [BY_USER])]
    assert histories_of(dataset, lines, BY_USER) == wanted


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("hash_rows", [None, 1000])
def test_predictions_with_the_rows_that_a_model_knows(
    import_table: ImportTable, tmp_path: Path, num_ranks: int, hash_rows: int | None
) -> None:
    """Candidates have no label yet, so they are in no history."""
    lines = a_log(60)
    file = written(tmp_path / "log", lines)
    known = import_table([file], tmp_path / "known", describe(), min_count=1, hash_rows=hash_rows)
    later = [{**line, "clicked": "" if place % 3 else line["clicked"]} for place, line in enumerate(lines)]
    options: dict[str, Any] = {"num_ranks": num_ranks, "vocabulary": known.path, "samples_per_shard": 13}
    file = written(tmp_path / "later", later)
    dataset = import_table([file], tmp_path / "data", describe().without_label(), **options)
    assert not dataset.schema.labelled
    assert dataset.schema.tables == known.schema.tables
    unclicked = [{**line, "clicked": line["clicked"] or "0"} for line in later]
    wanted = [found["item_history"] for _, found in twin(unclicked, [BY_USER])]
    assert histories_of(dataset, lines, BY_USER) == wanted
    assert np.array_equal(dataset.validation.read(0, 5).ids, known.train.read(0, 5).ids)


def test_a_value_counts_once_per_line(import_table: ImportTable, tmp_path: Path) -> None:
    """However many histories it is in."""
    lines = [{**line, "item": line["item"] if place else "rare"} for place, line in enumerate(a_log(60))]
    lines[0] = {**lines[0], "clicked": "1"}
    file = written(tmp_path / "log", lines)
    with_histories = import_table([file], tmp_path / "with", describe(), min_count=2)
    without = import_table([file], tmp_path / "without", describe(history=()), min_count=2)
    vocabulary = Path("vocabulary.h5")
    assert files_of(with_histories)[vocabulary] == files_of(without)[vocabulary]
    assert with_histories.train.read(0, 1).ids[0, 1] == 0
    assert 0 in with_histories.train.read(0, 54).bags["item_history"].ids  # it is in histories, as too rare a value


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_time_that_falls(import_table: ImportTable, tmp_path: Path, num_ranks: int) -> None:
    lines = a_log(40)
    lines[20] = {**lines[20], "time": "5"}
    file = written(tmp_path / "log.csv", lines)
    options: dict[str, Any] = {"num_ranks": num_ranks, "samples_per_shard": 10}
    before = max(int(line["time"]) for line in lines[:20] if line["user"] == lines[20]["user"])
    fault = (
        rf"log\.csv: line 22: column 5 \(time\) is 5, but must be at least {before}, as in an earlier line with "
        rf"'{lines[20]['user']}' in column 2 \(user\) \(if there are many"
    )
    with pytest.raises(DatasetError, match=fault):
        import_table([file], tmp_path / "data", describe(), **options)
    dataset = import_table([file], tmp_path / "data", describe(), max_bad_lines=1, **options)
    assert bad_lines_of(dataset)[0] == 1
    unchecked = import_table([file], tmp_path / "any", describe(history={"of": "item", "by": "user"}), **options)
    assert "bad_lines" not in unchecked.origin


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"time": ""}, r"line 4: column 5 \(time\) is missing, but must be a number, because it orders a history"),
        ({"time": "1700000000.5"}, r"line 4: column 5 \(time\) is 1700000000.5, but must be missing or an integer"),
        (
            {"time": "9007199254740993"},
            r"line 4: column 5 \(time\) is about 9.01e\+15, but what orders a history must",
        ),
        ({"time": "now"}, r"line 4: column 5 \(time\) is 'now', but must be empty or a number"),
    ],
)
def test_bad_numbers(import_table: ImportTable, tmp_path: Path, change: dict[str, str], fault: str) -> None:
    lines = a_log(5)
    lines[2] = {**lines[2], **change}
    file = written(tmp_path / "log.csv", lines)
    with pytest.raises(DatasetError, match=fault):
        import_table([file], tmp_path / "data", describe(), max_bad_lines=0)
    dataset = import_table([file], tmp_path / "data", describe(), max_bad_lines=1)
    assert bad_lines_of(dataset)[0] == 1


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"history": {"of": "goods", "by": "user"}},
            "of of the history goods_history is 'goods', but must be",
        ),
        ({"history": {"of": "item", "by": "user", "along": ["stars"]}}, "along of the history item_history is 'stars'"),
        ({"history": {"of": "item", "by": "user", "name": "item"}}, "item; give columns that are used twice a `name`"),
        ({"history": {"of": "item", "by": "user", "max_length": 0}}, "greater than or equal to 1"),
        (
            {"lists": [{"column": "x", "sequence": True, "along": "item_history"}]},
            "x goes along item_history, but must go along a sequence under lists: x",
        ),
    ],
)
def test_settings_that_do_not_fit(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        describe(**changes)


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ({"of": "item", "by": "users"}, r"column 'users' does not exist \(did you mean 'user'\?\)"),
        (
            {"of": "item", "by": "user", "where": "stars"},
            "column 'stars' is used as a number and as 0 or 1, as by",
        ),
        ({"of": "item", "by": "user", "order": "user"}, "column 'user' is used as a category or text and as a moment"),
    ],
)
def test_columns_that_do_not_fit(
    import_table: ImportTable, tmp_path: Path, history: dict[str, Any], fault: str
) -> None:
    description = describe(dense=["stars"], history=history)
    with pytest.raises(DatasetError, match=fault):
        import_table([written(tmp_path / "log.csv", a_log(5))], tmp_path / "data", description)


def test_columns_by_number_stay_right_without_labels() -> None:
    numbered = {"of": "item", "by": 2, "order": 5, "elements": [{"column": 6, "name": "stars"}], "where": 1}
    [history] = describe(columns=COLUMNS, history=numbered).without_label().history
    assert (history.by.column, history.elements[0].column) == ("user", "stars")


@pytest.mark.parametrize("time", [{"column": "time"}, {"column": 5, "format": "%Y%m%d%H%M%S"}])
@pytest.mark.parametrize("is_labelled", [True, False])
def test_the_time_of_samples_may_order_histories(
    import_table: ImportTable, tmp_path: Path, time: dict[str, Any], is_labelled: bool
) -> None:
    lines = [{**line, "time": str(20260101000000 + place)} for place, line in enumerate(a_log(50))]
    seconds = [1767225600 + place if "format" in time else int(line["time"]) for place, line in enumerate(lines)]
    wanted = twin([{**line, "time": str(time)} for line, time in zip(lines, seconds, strict=True)], [BY_USER])
    description = describe(time={**time, "name": "t"}) if is_labelled else describe(time=time).without_label()
    file = written(tmp_path / "log.csv", lines)
    dataset = import_table([file], tmp_path / "data", description, num_ranks=2, samples_per_shard=9, min_count=1)
    assert histories_of(dataset, lines, BY_USER) == [found["item_history"] for _, found in wanted]

    lines[30] = {**lines[30], "time": "soon"}
    file = written(tmp_path / "bad.csv", lines)
    with pytest.raises(DatasetError, match=r"line 32: column 5 \(time\) is 'soon', but must be a"):
        import_table([file], tmp_path / "none", description)
    dataset = import_table([file], tmp_path / "bad", description, max_bad_lines=1)
    assert bad_lines_of(dataset)[0] == 1


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_labels_that_depend_on_the_next_line(
    import_table: ImportTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    """A line waits for the next good one, and has the history from before both."""
    monkeypatch.setattr(text, "BLOCK_BYTES", 150)
    lines = a_log(60)
    lines[30] = {**lines[30], "time": "1"}  # out of order, unless it is the first line of its user
    good = [line for place, line in enumerate(lines) if place != 30]
    file = written(tmp_path / "log.csv", lines)
    description = describe(label={"column": "session", "continues": True})
    options: dict[str, Any] = {"num_ranks": num_ranks, "samples_per_shard": 7, "max_bad_lines": 1, "min_count": 1}
    dataset = import_table([file], tmp_path / "data", description, **options)
    assert bad_lines_of(dataset)[0] == 1
    assert histories_of(dataset, good, BY_USER) == [found["item_history"] for _, found in twin(lines, [BY_USER])]
    labels = np.concatenate([b.labels for split in (dataset.train, dataset.validation) for b in split.batches(99)])
    sessions = [line["session"] for line in good]
    assert labels.tolist() == [a == b for a, b in zip(sessions, [*sessions[1:], ""], strict=True)]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_hexadecimal_values_and_shared_tables(import_table: ImportTable, tmp_path: Path, num_ranks: int) -> None:
    lines = ["y,user,seen,bought", "1,A,1f,2", "1,a,,1F", "0,b,2,2", "1,0a,3,1f", "1,,2,2"]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    described = {
        "label": "y",
        "categorical": [
            {"column": "user", "type": "hexadecimal"},
            {"column": "seen", "type": "hexadecimal"},
            {"column": "bought", "type": "hexadecimal", "shares": "seen"},
        ],
        "history": {"of": "bought", "by": "user", "along": ["seen"], "name": "cart"},
    }
    options: dict[str, Any] = {"num_ranks": num_ranks, "samples_per_shard": 2, "min_count": 1, "validation_fraction": 0}
    description = TableDescription.model_validate(described)
    dataset = import_table([tmp_path / "log.csv"], tmp_path / "data", description, **options)
    assert [table.shares for table in dataset.schema.sequences] == ["seen", "seen"]
    batch = dataset.train.read(0, 5)
    (_, seen, bought), cart = batch.ids.T.tolist(), batch.bags["cart"]
    assert cart.offsets.tolist() == [0, 0, 1, 1, 3, 3]
    assert cart.ids.tolist() == [bought[0], bought[0], bought[1]]
    assert batch.bags["cart_seen"].ids.tolist() == [seen[0], seen[0], 0]
