from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from bagpipe_hpc.batch import Float32Array
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.importing import text
from bagpipe_hpc.data.importing.click_logs import AVAZU, CRITEO
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.importer import import_files
from bagpipe_hpc.errors import ConfigError, DatasetError
from tests.parts import real_clicks
from tests.unit.conftest import AssertEqual
from tests.unit.data.importing.conftest import ImportTable


class ImportCriteo(Protocol):
    """Makes a data set of files in Criteo's layout, with the options of `ImportTable`."""

    def __call__(self, files: Sequence[Path], output: Path, **options: Any) -> Dataset: ...


def line(label: str = "0", integers: dict[int, str] | None = None, categories: dict[int, str] | None = None) -> str:
    """A line whose columns are empty but for those given by number (I1 = 1, C1 = 1)."""
    columns = [label]
    columns += [(integers or {}).get(i, "") for i in range(1, 14)]
    columns += [(categories or {}).get(i, "") for i in range(1, 27)]
    return "\t".join(columns) + "\n"


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Ten lines; C1 is a, a, b, -, a, b, c, a | c, c."""
    categories = ["aa", "aa", "bb", "", "aa", "bb", "cc", "aa", "cc", "cc"]
    integers = ["0", "1", "-2", "", "99", "3", "3", "3", "3", "3"]
    lines = [line(str(i % 2), {1: integers[i], 13: "7"}, {1: categories[i], 26: "FFffFFff"}) for i in range(10)]
    return write(tmp_path / "small.txt", *lines)


@pytest.fixture
def import_criteo(import_table: ImportTable) -> ImportCriteo:
    def run(files: Sequence[Path], output: Path, **options: Any) -> Dataset:
        return import_table(files, output, CRITEO, command="import criteo", **options)

    return run


class TestImport:
    def test_values(self, import_criteo: ImportCriteo, small: Path, tmp_path: Path) -> None:
        dataset = import_criteo([small], tmp_path / "clicks", min_count=2, validation_fraction=0.2)
        train = next(dataset.train.batches(100))
        assert train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
        np.testing.assert_array_equal(train.dense[:, 0], np.log1p(np.array([0, 1, 0, 0, 99, 3, 3, 3], np.float32)))
        assert set(train.dense[:, 12].tolist()) == {float(np.log1p(np.float32(7)))}
        assert not train.dense[:, 1:12].any()
        assert train.ids[:, 0].tolist() == [1, 1, 2, 0, 1, 2, 0, 1]
        assert set(train.ids[:, 25].tolist()) == {1}
        assert not train.ids[:, 1:25].any()

    def test_validation_is_the_tail_and_leaves_the_vocabulary_alone(
        self, import_criteo: ImportCriteo, small: Path, tmp_path: Path
    ) -> None:
        dataset = import_criteo([small], tmp_path / "clicks", min_count=2, validation_fraction=0.2)
        validation = next(dataset.validation.batches(100))
        assert validation.labels.tolist() == [0, 1]
        assert validation.ids[:, 0].tolist() == [0, 0]  # "cc" is frequent only because of the validation split
        assert dataset.schema.num_embeddings == (3, *[1] * 24, 2)
        everything = import_criteo([small], tmp_path / "all", min_count=2, validation_fraction=0)
        assert everything.schema.num_embeddings[0] == 4
        assert everything.validation.num_samples == 0

    def test_schema_and_origin(self, import_criteo: ImportCriteo, small: Path, tmp_path: Path) -> None:
        dataset = import_criteo([small], tmp_path / "clicks")
        assert dataset.schema.dense == tuple(f"I{i}" for i in range(1, 14))
        assert [table.name for table in dataset.schema.tables] == [f"C{i}" for i in range(1, 27)]
        assert dataset.origin == {
            "command": "import criteo",
            "files": ["small.txt"],
            "min_count": 4,
            "validation_fraction": 0.1,
        }

    def test_hashing(self, import_criteo: ImportCriteo, small: Path, tmp_path: Path) -> None:
        dataset = import_criteo([small], tmp_path / "clicks", hash_rows=1000, validation_fraction=0)
        ids = next(dataset.train.batches(100)).ids
        assert dataset.schema.num_embeddings == (1000,) * 26
        assert ids[3, 0] == 0
        assert ids[0, 0] == ids[1, 0] == ids[4, 0] != ids[2, 0]
        assert dataset.origin["hash_rows"] == 1000

    def test_files_follow_each_other(
        self, import_criteo: ImportCriteo, small: Path, tmp_path: Path, assert_equal: AssertEqual
    ) -> None:
        lines = small.read_text().splitlines(keepends=True)
        (tmp_path / "a.gz").write_bytes(gzip.compress("".join(lines[:4]).encode()))
        write(tmp_path / "b", *lines[4:-1], lines[-1].rstrip("\n"))
        together = import_criteo([small], tmp_path / "one")
        apart = import_criteo([tmp_path / "a.gz", tmp_path / "b"], tmp_path / "two")
        assert apart.schema == together.schema
        assert_equal(next(apart.train.batches(100)), next(together.train.batches(100)))

    def test_progress(self, import_criteo: ImportCriteo, small: Path, tmp_path: Path) -> None:
        calls = []
        import_criteo([small], tmp_path / "clicks", progress=lambda *call: calls.append(call))
        size = small.stat().st_size
        assert list(dict.fromkeys(calls)) == [
            ("counting lines, by bytes", size, size),
            ("counting values", 0, 9),
            ("counting values", 9, 9),
            ("writing the vocabulary", 0, 0),
            ("writing shards", 0, 10),
            ("writing shards", 9, 10),
            ("writing shards", 10, 10),
            ("writing dataset.json", 0, 0),
        ]

    def test_bad_settings(self, import_criteo: ImportCriteo, small: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="validation fraction is 1"):
            import_criteo([small], tmp_path / "clicks", validation_fraction=1)
        with pytest.raises(ConfigError, match="minimum count is 0"):
            import_criteo([small], tmp_path / "clicks", min_count=0)
        with pytest.raises(ConfigError, match="hashing is 1"):
            import_criteo([small], tmp_path / "clicks", hash_rows=1)

    def test_occupied_output_is_refused_before_any_work(self, import_criteo: ImportCriteo, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match="already exists and is not empty"):
            import_criteo([tmp_path / "none"], Path(__file__).parent)


class TestMalformed:
    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (line("2"), r"column 1 \(label\) is '2', but must be 0 or 1"),
            (line(""), r"column 1 \(label\) is '', but must be 0 or 1"),
            (line("01"), r"column 1 \(label\) is '01'"),
            (line("-0"), r"column 1 \(label\) is '-0'"),
            (line(integers={3: "1.5"}), r"column 4 \(I3\) is '1\.5', but must be empty or an integer"),
            (line(integers={13: "-"}), r"column 14 \(I13\) is '-'"),
            (line(integers={1: "1" * 19}), r"column 2 \(I1\) is '1{19}', but must be .* at most 18 digits"),
            (line(categories={1: "0x1f"}), r"column 15 \(C1\) is '0x1f', but must be empty or at most 8 hex"),
            (line(categories={26: "123456789"}), r"column 40 \(C26\) is '123456789'"),
            (line(integers={1: " 5"}), r"column 2 \(I1\) is ' 5'"),
            (line(integers={1: "0x5"}), r"column 2 \(I1\) is '0x5'"),
            (line(categories={25: "1\r"}), r"has a quoted field that does not end, .* or a line end in it"),
            (line(categories={1: '"1"'}), r"column 15 \(C1\) is '\"1\"'"),
            (line(categories={2: "-1"}), r"column 16 \(C2\) is '-1'"),
            (line(categories={2: "é" * 100}), r"column 16 \(C2\) is 'é{20}'"),
            ("\n", r"has 1 tab-separated column, but 40 are needed .the line is empty.; correct"),
            (line()[:-2] + "\n", r"has 39 tab-separated columns, but 40 are needed \(is this a file without labels"),
            (line()[:-1] + "\t\n", r"has 41 tab-separated columns"),
        ],
    )
    def test_line_and_column_are_named(
        self, import_criteo: ImportCriteo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str, reason: str
    ) -> None:
        monkeypatch.setattr(text, "BLOCK_BYTES", 256)
        good = write(tmp_path / "good.txt", *[line()] * 3)
        path = write(tmp_path / "bad.txt", *[line("1", {1: "5"}, {7: "abc"})] * 6, bad, line())
        with pytest.raises(DatasetError, match=rf"/bad\.txt: line 7: {reason}"):
            import_criteo([good, path], tmp_path / "clicks", hash_rows=10)

    def test_nothing_is_left(self, import_criteo: ImportCriteo, tmp_path: Path) -> None:
        path = write(tmp_path / "bad.txt", *[line()] * 9, line("x"))
        with pytest.raises(DatasetError, match="line 10"):
            import_criteo([path], tmp_path / "clicks")
        assert list(tmp_path.iterdir()) == [path]

    def test_missing_file(self, import_criteo: ImportCriteo, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"none\.txt: is missing; check the path"):
            import_criteo([tmp_path / "none.txt"], tmp_path / "clicks")

    def test_directory(self, import_criteo: ImportCriteo, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"cannot be read .*directory"):
            import_criteo([tmp_path], tmp_path / "clicks")

    def test_no_lines(self, import_criteo: ImportCriteo, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"empty\.txt: is empty; give"):
            import_criteo([write(tmp_path / "empty.txt")], tmp_path / "clicks")

    def test_no_text(self, import_criteo: ImportCriteo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(text, "BLOCK_BYTES", 100)
        with pytest.raises(DatasetError, match="zeros: line 1: has more than 100 bytes; shorten"):
            import_criteo([write(tmp_path / "zeros", "0" * 1000)], tmp_path / "clicks")

    @pytest.mark.parametrize("cut", [-1, -9, 12])
    def test_truncated_gzip(self, import_criteo: ImportCriteo, tmp_path: Path, cut: int) -> None:
        text = "".join(line(categories={1: f"{i:x}"}) for i in range(1000))
        (tmp_path / "cut.gz").write_bytes(gzip.compress(text.encode())[:cut])
        with pytest.raises(DatasetError, match="is a damaged or truncated gzip file"):
            import_criteo([tmp_path / "cut.gz"], tmp_path / "clicks")


def test_extreme_values(import_criteo: ImportCriteo, tmp_path: Path) -> None:
    integers = ["", "0", "-0", "-7", "007", "9" * 18, "-" + "9" * 18]
    digits = ["", "0", "00000000", "ffffffff", "FFFFFFFF", "0000000a", "a"]
    path = write(tmp_path / "clicks.txt", *[line("1", {13: i}, {26: d}) for i, d in zip(integers, digits, strict=True)])
    [batch] = import_criteo([path], tmp_path / "clicks", min_count=1, validation_fraction=0).train.batches(100)
    assert batch.dense[:, 12].tolist() == np.log1p([0, 0, 0, 0, 7, 10**18 - 1, 0]).astype(np.float32).tolist()
    # by falling count, then by value: 0, 10, ffffffff, twice each
    assert batch.ids[:, 25].tolist() == [0, 1, 1, 3, 3, 2, 2]


def all_labels(dataset: Dataset) -> Float32Array:
    return np.concatenate(
        [batch.labels for split in (dataset.train, dataset.validation) for batch in split.batches(16_384)]
    )


class TestRealClicks:
    def test_criteo(self, import_criteo: ImportCriteo, tmp_path: Path) -> None:
        dataset = import_criteo([real_clicks("criteo_kaggle_110k.txt.gz")], tmp_path / "clicks", min_count=4)
        assert (dataset.train.num_samples, dataset.validation.num_samples) == (99_000, 11_000)
        assert int(all_labels(dataset).sum()) == 28_243
        assert next(dataset.train.batches(1)).dense[0, 1] == np.log1p(np.float32(1))
        assert all(n > 1 for n in dataset.schema.num_embeddings)

    def test_avazu(self, import_table: ImportTable, tmp_path: Path) -> None:
        dataset = import_table([real_clicks("avazu_23k.csv.gz")], tmp_path / "clicks", AVAZU, min_count=1)
        assert dataset.train.num_samples + dataset.validation.num_samples == 23_299
        assert 0.16 < all_labels(dataset).mean() < 0.18
        assert dataset.schema.num_dense == 0
        assert [table.name for table in dataset.schema.tables[:3]] == ["hour", "C1", "banner_pos"]
        assert len(dataset.schema.tables) == 22
        assert next(dataset.train.batches(100)).ids.all()  # nothing is missing or unknown

    def test_globo(self, import_table: ImportTable, tmp_path: Path) -> None:
        description = TableDescription.model_validate(
            {
                "label": {"column": "session_id", "continues": True},
                "categorical": ["user_id", "click_article_id"],
            }
        )
        files = [real_clicks("globo_clicks_1m.csv.gz")]
        dataset = import_table(files, tmp_path / "clicks", description, min_count=1, validation_fraction=0)
        assert dataset.train.num_samples == 1_000_000
        assert dataset.schema.num_embeddings == (1 + 185_656, 1 + 18_761)
        assert int(all_labels(dataset).sum()) == 1_000_000 - 352_994  # clicks less sessions
        assert next(dataset.train.batches(4)).labels.tolist() == [1, 0, 1, 0]

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (
                "id,click,hour\n1,0,14\n",
                r"has 1 tab-.* \(is this a Criteo log\? the line looks comma-separated; `bagpipe",
            ),
            ("a\tb\n", r"has 2 tab-.* \(is this a Criteo log\? `bagpipe import table` imports files of any layout\)"),
        ],
    )
    def test_files_that_are_no_criteo_log(
        self, import_criteo: ImportCriteo, tmp_path: Path, content: str, reason: str
    ) -> None:
        with pytest.raises(DatasetError, match=rf"line 1: {reason}"):
            import_criteo([write(tmp_path / "other.csv", content)], tmp_path / "clicks", hash_rows=10)

    @pytest.mark.parametrize("log", [AVAZU, AVAZU.without_label()])
    def test_files_that_are_no_avazu_log(self, tmp_path: Path, log: TableDescription) -> None:
        (tmp_path / "good.csv").write_text("y,c\n1,a\n")
        with pytest.raises(
            DatasetError, match=r"does not have the layout of the Avazu log: import it with `bagpipe import table`$"
        ):
            import_files([tmp_path / "good.csv"], tmp_path / "clicks", log)
