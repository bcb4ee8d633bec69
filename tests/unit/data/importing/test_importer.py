from __future__ import annotations

import gzip
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.importing import text
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.verify import verify_files
from bagpipe_hpc.errors import ConfigError, DatasetError
from tests.unit.data.importing.conftest import ImportTable, OnRanks, bad_lines_of

DESCRIPTION = TableDescription.model_validate(
    {
        "label": {"column": "session", "continues": True},
        "dense": [{"column": "price", "transform": "log"}],
        "categorical": [
            "user",
            {"column": "item", "hash_rows": 50},
            {"column": "item", "name": "item2", "min_count": 1},
        ],
        "lists": [{"column": "tags", "min_count": 2}],
    }
)
HEADER = "session,price,user,item,tags"
NUM_LINES = 200


def clicks(num_lines: int = NUM_LINES, bad: Collection[int] = ()) -> tuple[str, list[float]]:
    """Lines in sessions of 1 to 5, and what their labels are; the numbers of bad lines have the header as 1."""
    random = np.random.default_rng(0)
    sessions = np.repeat(np.arange(num_lines), random.integers(1, 6, num_lines))[:num_lines]
    lines = [
        f"s{session},{random.integers(100) / 4},u{random.integers(30)},i{random.integers(60)},"
        + "|".join(f"t{tag}" for tag in random.integers(0, 9, random.integers(4)))
        for session in sessions
    ]
    for number in bad:
        lines[number - 2] = "bad"
    return "\n".join([HEADER, *lines]) + "\n", [*(sessions[:-1] == sessions[1:]).astype(float), 0.0]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 300)


def shards(path: Path) -> dict[Path, bytes]:
    return {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("num_ranks", [2, 3, 5])
@pytest.mark.parametrize("packed", ["plain", "gzip", "three files"])
@pytest.mark.parametrize("bad", [(), (2, 50, 51, 199)])
def test_any_number_of_ranks_gives_the_same_files(
    import_table: ImportTable, small_blocks: None, tmp_path: Path, num_ranks: int, packed: str, bad: tuple[int, ...]
) -> None:
    content, _ = clicks(bad=bad)
    files = [tmp_path / "clicks"]
    if packed == "three files":
        lines = content.splitlines(keepends=True)
        files = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
        for file, part in zip(files, (lines[1:60], lines[60:61], lines[61:]), strict=True):
            file.write_text(lines[0] + "".join(part))
    else:
        files[0].write_bytes(gzip.compress(content.encode()) if packed == "gzip" else content.encode())
    options = {"max_bad_lines": len(bad), "samples_per_shard": 37, "min_count": 2}
    alone = import_table(files, tmp_path / "alone", DESCRIPTION, **options)
    import_table(files, tmp_path / "together", DESCRIPTION, num_ranks=num_ranks, **options)
    assert shards(tmp_path / "together") == shards(tmp_path / "alone")
    assert alone.train.num_samples + alone.validation.num_samples == NUM_LINES - len(bad)


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_label_that_continues(import_table: ImportTable, small_blocks: None, tmp_path: Path, num_ranks: int) -> None:
    content, labels = clicks()
    (tmp_path / "clicks.csv").write_text(content)
    dataset = import_table(
        [tmp_path / "clicks.csv"],
        tmp_path / "clicks",
        DESCRIPTION,
        num_ranks=num_ranks,
        samples_per_shard=10,
        validation_fraction=0.25,
    )
    found = [label for split in (dataset.train, dataset.validation) for b in split.batches(7) for label in b.labels]
    assert found == labels


def test_values(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "clicks.csv").write_text(
        f"{HEADER}\ns,0,u1,i1,a|b\ns,3,u2,,\n,,u1,i2,b\n,-1,u1,i1,a|c|a\n", encoding="utf-8-sig"
    )
    dataset = import_table(
        [tmp_path / "clicks.csv"], tmp_path / "clicks", DESCRIPTION, min_count=2, validation_fraction=0
    )
    [batch] = dataset.train.batches(10)
    assert batch.labels.tolist() == [1, 0, 0, 0]
    assert batch.dense[:, 0].tolist() == np.log1p(np.array([0, 3, 0, 0], np.float32)).tolist()
    assert dataset.schema.num_embeddings == (2, 50, 3, 3)
    assert batch.ids[:, 0].tolist() == [1, 0, 1, 1]
    assert batch.ids[:, 2].tolist() == [1, 0, 2, 1]
    assert batch.ids[0, 1] == batch.ids[3, 1] > 0 == batch.ids[1, 1]
    assert batch.bags["tags"].offsets.tolist() == [0, 2, 2, 3, 6]
    assert batch.bags["tags"].ids.tolist() == [1, 2, 2, 1, 0, 1]


@pytest.mark.parametrize("hash_rows", [None, 20])
def test_columns_that_share_a_table(
    import_table: ImportTable, on_ranks: OnRanks, tmp_path: Path, hash_rows: int | None
) -> None:
    """Values are counted over all of them."""
    description = TableDescription.model_validate(
        {
            "label": "y",
            "categorical": ["item", {"column": "next", "shares": "item"}],
            "lists": [{"column": "seen", "shares": "item"}],
        }
    )
    (tmp_path / "clicks.csv").write_text("y,item,next,seen\n1,a,b,a|c\n0,b,a,\n1,d,b,a\n")
    dataset = import_table(
        [tmp_path / "clicks.csv"], tmp_path / "clicks", description, min_count=2, hash_rows=hash_rows,
        validation_fraction=0,
    )  # fmt: skip
    [batch] = dataset.train.batches(10)
    assert [table.shares for table in dataset.schema.tables] == [None, "item", "item"]
    (a, b), (b_too, a_too), (d, b_again) = batch.ids.tolist()
    assert (b, b_again, a_too) == (b_too, b, a)
    seen = batch.bags["seen"]
    assert seen.offsets.tolist() == [0, 2, 2, 3]
    assert seen.ids[[0, 2]].tolist() == [a, a]
    if hash_rows is None:  # a 4 times, b 3 times, c and d once
        assert dataset.schema.num_embeddings == (3,)
        assert [a, b, d, seen.ids[1]] == [1, 2, 0, 0]
    else:
        assert dataset.schema.num_embeddings == (20,)


def test_threshold(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "ratings.tsv").write_text("5.0\tu\n3.5\tu\n4\tv\n")
    description = TableDescription.model_validate(
        {
            "columns": ["rating", "user"],
            "delimiter": "\t",
            "label": {"column": 1, "threshold": 4},
            "categorical": [{"column": 2, "name": "user"}],
        }
    )
    dataset = import_table([tmp_path / "ratings.tsv"], tmp_path / "out", description, validation_fraction=0)
    assert next(dataset.train.batches(9)).labels.tolist() == [1, 0, 1]


class TestBadLines:
    @pytest.mark.parametrize("num_ranks", [1, 2, 4])
    def test_lines_are_numbered_rightly_on_every_rank(
        self, import_table: ImportTable, small_blocks: None, tmp_path: Path, num_ranks: int
    ) -> None:
        (tmp_path / "clicks.csv").write_text(clicks(bad=[150])[0])
        with pytest.raises(DatasetError, match=r"/clicks.csv: line 150: has 1 comma-separated column, but 5"):
            import_table([tmp_path / "clicks.csv"], tmp_path / "clicks", DESCRIPTION, num_ranks=num_ranks)
        assert not (tmp_path / "clicks").exists()

    @pytest.mark.parametrize("num_ranks", [1, 3])
    def test_up_to_the_limit_they_are_counted_and_reported(
        self, import_table: ImportTable, small_blocks: None, tmp_path: Path, num_ranks: int
    ) -> None:
        bad = [2, 9, 50, 51, 100, 150, 201]
        (tmp_path / "clicks.csv").write_text(clicks(bad=bad)[0])
        files = [tmp_path / "clicks.csv"]
        dataset = import_table(
            files, tmp_path / "clicks", DESCRIPTION, num_ranks=num_ranks, max_bad_lines=7, samples_per_shard=11
        )
        count, first = bad_lines_of(dataset)
        assert count == 7
        assert [line.split(": ")[1] for line in first] == [f"line {number}" for number in bad[:5]]
        with pytest.raises(DatasetError, match="more than the 6 bad lines that --max-bad-lines allows"):
            import_table(
                files, tmp_path / "none", DESCRIPTION, num_ranks=num_ranks, max_bad_lines=6, samples_per_shard=11
            )
        assert not (tmp_path / "none").exists()

    def test_nothing_is_left(self, import_table: ImportTable, tmp_path: Path) -> None:
        (tmp_path / "clicks.csv").write_text(clicks(bad=[200])[0])
        with pytest.raises(DatasetError, match="line 200"):
            import_table([tmp_path / "clicks.csv"], tmp_path / "clicks", DESCRIPTION)
        assert [path.name for path in tmp_path.iterdir()] == ["clicks.csv"]

    def test_nothing_but_bad_lines(self, import_table: ImportTable, tmp_path: Path) -> None:
        (tmp_path / "clicks.csv").write_text(HEADER + "\nbad\n")
        with pytest.raises(DatasetError, match="the input has no training sample"):
            import_table([tmp_path / "clicks.csv"], tmp_path / "clicks", DESCRIPTION, max_bad_lines=9)


def test_columns_that_differ(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(clicks()[0])
    (tmp_path / "b.csv").write_text("user,item\n")
    with pytest.raises(DatasetError, match=r"b\.csv: has other columns than .*a\.csv"):
        import_table([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "clicks", DESCRIPTION)
    with pytest.raises(DatasetError, match=r"b\.csv: column 'session' does not exist; columns: user, item; correct"):
        import_table([tmp_path / "b.csv"], tmp_path / "clicks", DESCRIPTION)


def test_only_a_header(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER)
    with pytest.raises(DatasetError, match=r"a\.csv: has no line with a sample"):
        import_table([tmp_path / "a.csv"], tmp_path / "clicks", DESCRIPTION)


@pytest.mark.parametrize("setting", ["max_bad_lines", "samples_per_shard"])
def test_bad_settings(import_table: ImportTable, tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match="is -1, but must be at least"):
        import_table([tmp_path / "none"], tmp_path / "clicks", DESCRIPTION, **{setting: -1})


PEAK = """
import sys
from pathlib import Path
from bagpipe_hpc.data.importing.click_logs import CRITEO
from bagpipe_hpc.data.importing.importer import ImportSettings, import_files

import_files([Path(sys.argv[1])], Path(sys.argv[2]), CRITEO, ImportSettings(samples_per_shard=50_000))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Files of 13 and 157 MB with the same values."""
    peaks = []
    lines = "".join("1\t" + "\t".join(["7"] * 13 + [f"{i + j:08x}" for j in range(26)]) + "\n" for i in range(1000))
    for repeats in (50, 600):
        with open(tmp_path / "clicks.txt", "w", encoding="ascii") as file:
            file.writelines(lines for _ in range(repeats))
        program = [sys.executable, "-c", PEAK, str(tmp_path / "clicks.txt"), str(tmp_path / str(repeats))]
        done = subprocess.run(program, capture_output=True, text=True, check=True, env=os.environ)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 80, f"MiB: {peaks}"


class TestKnownVocabulary:
    FIRST = f"{HEADER}\ns,0,u1,i1,a|b\ns,3,u2,,\n,,u1,i2,b\n,-1,u1,i1,a|c|a\n"
    OTHER = f"{HEADER}\ns,0,u9,i1,c|b\ns,3,u1,,x\ns,3,u2,i2,a\n"

    @pytest.fixture
    def first(self, import_table: ImportTable, tmp_path: Path) -> Dataset:
        (tmp_path / "first.csv").write_text(self.FIRST)
        return import_table(
            [tmp_path / "first.csv"], tmp_path / "first", DESCRIPTION, min_count=1, validation_fraction=0
        )

    @pytest.mark.parametrize("num_ranks", [1, 2])
    def test_values_keep_their_rows(
        self, import_table: ImportTable, first: Dataset, tmp_path: Path, num_ranks: int
    ) -> None:
        (tmp_path / "other.csv").write_text(self.OTHER)
        other = import_table(
            [tmp_path / "other.csv"],
            tmp_path / "other",
            DESCRIPTION,
            num_ranks=num_ranks,
            vocabulary=first.path,
            validation_fraction=0,
        )
        assert other.schema == first.schema
        [old], [new] = first.train.batches(10), other.train.batches(10)
        assert new.ids[:, 0].tolist() == [0, *old.ids[:2, 0]]  # u9 is not known
        assert new.ids[:, 1:].tolist() == old.ids[[0, 1, 2], 1:].tolist()  # hashed, and counted
        assert new.bags["tags"].ids.tolist() == [0, 2, 0, 1]  # c was seen once, but min_count of tags is 2
        assert other.origin["vocabulary"] == "first"
        assert (other.path / "vocabulary.h5").read_bytes() == (first.path / "vocabulary.h5").read_bytes()
        assert other.vocabulary_sha256 == first.vocabulary_sha256 is not None

    def test_a_vocabulary_of_its_own_has_another_digest(
        self, import_table: ImportTable, first: Dataset, tmp_path: Path
    ) -> None:
        (tmp_path / "other.csv").write_text(self.FIRST.replace("i1", "i3"))
        other = import_table(
            [tmp_path / "other.csv"], tmp_path / "other", DESCRIPTION, min_count=1, validation_fraction=0
        )
        assert other.schema == first.schema
        assert other.vocabulary_sha256 != first.vocabulary_sha256

        (other.path / "vocabulary.h5").write_bytes((first.path / "vocabulary.h5").read_bytes())
        faults = {name: str(fault) for name, fault in verify_files(other.path) if fault}
        assert list(faults) == ["vocabulary.h5"]
        assert "belongs to another data set" in faults["vocabulary.h5"]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"dense": []}, r"dense features \['price'\] against \[\]"),
            ({"categorical": ["user"]}, "4 tables against 2"),
            ({"lists": [], "categorical": ["user", "item", {"column": "item", "name": "item2"}, "tags"]}, r"table \("),
            (
                {
                    "categorical": [
                        {"column": "user", "type": "hexadecimal"},
                        "item",
                        {"column": "item", "name": "item2"},
                    ]
                },
                "values are {'item': 'text'",
            ),
        ],
    )
    def test_other_columns_are_refused(
        self, import_table: ImportTable, first: Dataset, tmp_path: Path, change: dict[str, object], reason: str
    ) -> None:
        description = TableDescription.model_validate({**DESCRIPTION.model_dump(), **change})
        with pytest.raises(DatasetError, match=rf"first: differs from the input \({reason}"):
            import_table([tmp_path / "first.csv"], tmp_path / "other", description, vocabulary=first.path)
