from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.bounded_json import dump_json, with_checksum
from bagpipe_hpc.data.dataset import Dataset, DatasetWriter, num_training_samples, open_dataset, read_manifest
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.data.verify import verify_files
from bagpipe_hpc.errors import ConfigError, DatasetError
from tests.unit.conftest import AssertEqual, MakeBatch, WriteDataset


@pytest.fixture
def dataset(tmp_path: Path, schema: Schema, make_batch: MakeBatch, write_dataset: WriteDataset) -> Dataset:
    """25 training samples in shards of 10, 5 validation samples."""
    train, validation = [make_batch(schema, 25, 1)], [make_batch(schema, 5, 2)]
    return write_dataset(tmp_path / "clicks", train, validation, samples_per_shard=10, origin={"seed": 1})


def rewrite(path: Path, change: Callable[[Any], object]) -> None:
    """Change dataset.json by hand, and mend its checksum."""
    manifest = json.loads((path / "dataset.json").read_text())
    change(manifest)
    (path / "dataset.json").write_bytes(dump_json(with_checksum(manifest)))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=3).filter(any),
    samples_per_shard=st.integers(1, 25),
    batch_size=st.integers(1, 70),
    place=st.floats(0, 1),
)
def test_batches_over_shard_borders(
    schema: Schema,
    make_batch: MakeBatch,
    assert_equal: AssertEqual,
    write_dataset: WriteDataset,
    sizes: list[int],
    samples_per_shard: int,
    batch_size: int,
    place: float,
) -> None:
    pieces = [make_batch(schema, size, seed) for seed, size in enumerate(sizes)]
    start_sample = round(place * sum(sizes))
    with tempfile.TemporaryDirectory() as folder:
        train = write_dataset(Path(folder) / "clicks", pieces, samples_per_shard=samples_per_shard).train
        assert [shard.num_samples for shard in train.shards[:-1]] == [samples_per_shard] * (len(train.shards) - 1)
        assert train.num_batches(batch_size) == len(list(train.batches(batch_size)))
        batches = list(train.batches(batch_size, start_sample=start_sample))
    assert [batch.num_samples for batch in batches[:-1]] == [batch_size] * max(0, len(batches) - 1)
    expected = Batch.concatenate(pieces).slice(start_sample, sum(sizes))
    assert_equal(Batch.concatenate([expected.slice(0, 0), *batches]), expected)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), border=st.integers(1, 45))
@settings(max_examples=20, deadline=None)
def test_a_stream_is_split_in_time_order(
    schema: Schema, make_batch: MakeBatch, assert_equal: AssertEqual, sizes: list[int], border: int
) -> None:
    pieces = [make_batch(schema, size, seed) for seed, size in enumerate(sizes)]
    whole = Batch.concatenate(pieces)
    border = min(border, whole.num_samples)
    if not border:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clicks"
        with DatasetWriter(path, schema) as writer:
            writer.write(pieces, border)
        dataset = open_dataset(path)
        assert dataset.train.num_samples == border
        assert_equal(next(dataset.train.batches(100)), whole.slice(0, border))
        for batch in dataset.validation.batches(100):
            assert_equal(batch, whole.slice(border, whole.num_samples))


@pytest.mark.parametrize(
    ("num_samples", "fraction", "expected"), [(100, 0.1, 90), (9, 0.1, 9), (1, 0.99, 1), (7, 0, 7)]
)
def test_num_training_samples(num_samples: int, fraction: float, expected: int) -> None:
    assert num_training_samples(num_samples, fraction) == expected


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_refuses_fractions(fraction: float) -> None:
    with pytest.raises(ConfigError, match="must be at least 0 and below 1"):
        num_training_samples(10, fraction)


def test_dataset_json_is_the_documented_one(dataset: Dataset, schema: Schema) -> None:
    content = json.loads((dataset.path / "dataset.json").read_text())
    checksum = content.pop("checksum")
    assert content == {
        "format": "bagpipe_hpc.dataset",
        "format_version": 2,
        "schema": json.loads(schema.model_dump_json()),
        "splits": {
            "train": [
                {"file": "train/shard-00000.h5", "num_samples": 10},
                {"file": "train/shard-00001.h5", "num_samples": 10},
                {"file": "train/shard-00002.h5", "num_samples": 5},
            ],
            "validation": [{"file": "validation/shard-00000.h5", "num_samples": 5}],
        },
        "vocabulary_sha256": None,
        "origin": {"seed": 1},
    }
    assert dataset.origin == {"seed": 1}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert checksum == f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def test_batches_refuse_what_cannot_be(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match="batch size is 0"):
        dataset.train.batches(0)
    with pytest.raises(DatasetError, match="train split has 25 samples, so reading cannot start at sample 26"):
        dataset.train.batches(4, start_sample=26)


class TestWriter:
    @pytest.fixture
    def batch(self, schema: Schema, make_batch: MakeBatch) -> Batch:
        return make_batch(schema, 3)

    def test_nothing_has_the_final_name_before_the_end(self, tmp_path: Path, schema: Schema, batch: Batch) -> None:
        path = tmp_path / "deep" / "clicks"
        with DatasetWriter(path, schema, samples_per_shard=1) as writer:
            writer.append("train", batch)
            assert not path.exists()
        assert {file.name for file in path.iterdir()} == {"dataset.json", "train", "validation"}
        assert list(path.parent.iterdir()) == [path]

    def test_an_error_leaves_nothing(self, tmp_path: Path, schema: Schema, batch: Batch) -> None:
        def interrupted() -> Iterator[Batch]:
            yield batch
            raise ZeroDivisionError

        with (
            pytest.raises(ZeroDivisionError),
            DatasetWriter(tmp_path / "clicks", schema, samples_per_shard=2) as writer,
        ):
            writer.write(interrupted(), 100)
        assert not list(tmp_path.iterdir())

    def test_takes_an_empty_directory_but_no_other(self, tmp_path: Path, schema: Schema, batch: Batch) -> None:
        path = tmp_path / "clicks"
        path.mkdir()
        with DatasetWriter(path, schema) as writer:
            writer.append("train", batch)
        with pytest.raises(DatasetError, match="already exists and is not empty; choose another"):
            DatasetWriter(path, schema)

    def test_does_not_replace_what_came_meanwhile(self, tmp_path: Path, schema: Schema, batch: Batch) -> None:
        path = tmp_path / "clicks"
        writer = DatasetWriter(path, schema).__enter__()
        writer.append("train", batch)
        path.mkdir()
        (path / "precious").touch()
        with pytest.raises(DatasetError, match="cannot be finished"):
            writer.__exit__(None, None, None)
        assert [file.name for file in path.iterdir()] == ["precious"]
        assert list(tmp_path.iterdir()) == [path]

    def test_refuses_a_place_that_cannot_be(self, tmp_path: Path, schema: Schema) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DatasetError, match="cannot be made"), DatasetWriter(tmp_path / "file" / "clicks", schema):
            pass

    def test_refuses_no_training_samples(self, tmp_path: Path, schema: Schema, batch: Batch) -> None:
        with (
            pytest.raises(DatasetError, match="the input has no training sample"),
            DatasetWriter(tmp_path / "clicks", schema) as writer,
        ):
            writer.append("validation", batch)

    def test_refuses_empty_shards(self, tmp_path: Path, schema: Schema) -> None:
        with pytest.raises(ConfigError, match="samples per shard is 0"):
            DatasetWriter(tmp_path / "clicks", schema, samples_per_shard=0)


class TestOpening:
    def check(self, path: Path, message: str) -> None:
        with pytest.raises(DatasetError, match=f"^{re.escape(str(path))}.*{message}.*; "):
            open_dataset(path)

    def test_no_directory(self, tmp_path: Path) -> None:
        self.check(tmp_path / "none", "is not a directory")

    def test_no_dataset_json(self, tmp_path: Path) -> None:
        self.check(tmp_path, "has no dataset.json, so it is not a data set, or an incomplete one")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"\xff\xfe", "is not valid JSON"),
            (b"{", "is not valid JSON"),
            (b"[" * 1000, "is not valid JSON .nested more than 64 deep"),
            (b'{"format_version": %s}' % (b"9" * 30), "is not valid JSON .* is an integer of more than 64 bits"),
            (b"[]", "its format is None"),
            (b'{"format": "other"}', "its format is 'other'"),
            (b'{"format": "bagpipe_hpc.dataset", "format_version": 3}', "has format version 3, but this release"),
            (b'{"format": "bagpipe_hpc.dataset", "format_version": true}', "has format version True, but this release"),
            (
                b'{"format": "bagpipe_hpc.dataset", "format_version": 1}',
                "has format version 1, from before",
            ),
            (b'{"format": "bagpipe_hpc.dataset", "format_version": 2}', "has no checksum"),
        ],
    )
    def test_bad_dataset_json(self, dataset: Dataset, content: bytes, message: str) -> None:
        (dataset.path / "dataset.json").write_bytes(content)
        self.check(dataset.path, message)

    def test_dataset_json_without_end(self, dataset: Dataset) -> None:
        (dataset.path / "dataset.json").unlink()
        (dataset.path / "dataset.json").symlink_to("/dev/zero")
        self.check(dataset.path, "is, or links to, a device")

    def test_every_flipped_bit_of_dataset_json_is_found(self, dataset: Dataset) -> None:
        file = dataset.path / "dataset.json"
        content = file.read_bytes()
        value = json.loads(content)
        for place in range(len(content)):
            damaged = bytearray(content)
            damaged[place] ^= 1 << place % 8
            file.write_bytes(damaged)
            try:
                read_manifest(dataset.path)
            except DatasetError:
                continue
            assert json.loads(damaged) == value, "white space has changed, and nothing else"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m["splits"]["train"][0].update(num_samples="10"), r"splits\.train\.0\.num_samples: .*integer"),
            (lambda m: m["splits"]["train"][0].update(num_samples=10.0), r"splits\.train\.0\.num_samples: .*integer"),
            (lambda m: m["splits"]["train"][0].update(num_samples=True), r"splits\.train\.0\.num_samples: .*integer"),
            (lambda m: m["splits"]["train"][0].update(num_samples=-1), r"splits\.train\.0\.num_samples: .*greater"),
            (lambda m: m["splits"].update(train={}), "splits.train: .*array"),
            (lambda m: m.update(splits=[]), "splits: .*object"),
            (lambda m: m["schema"].update(labelled="yes"), "schema.labelled: .*boolean"),
            (lambda m: m["schema"]["tables"][0].update(num_embeddings=2**63), "schema.tables: .*at most 2.62"),
            (lambda m: m["schema"]["tables"][0].update(ragged=1), r"schema\.tables\.0\.ragged: .*boolean"),
            (lambda m: m["splits"]["train"].append(m["splits"]["train"][0]), "splits: .*00000.h5 is listed 2 times"),
            (lambda m: m.update(extra=1), "extra"),
        ],
    )
    def test_dataset_json_of_wrong_types_with_a_mended_checksum(
        self, dataset: Dataset, change: Callable[[Any], object], message: str
    ) -> None:
        rewrite(dataset.path, change)
        self.check(dataset.path, f"is not valid .{message}")

    @pytest.mark.parametrize("file", ["/etc/passwd", "train/../../x.h5", "train/.h5", "other/shard-00000.h5"])
    def test_shards_outside_the_directory(self, dataset: Dataset, file: str) -> None:
        rewrite(dataset.path, lambda manifest: manifest["splits"]["train"][0].update(file=file))
        self.check(dataset.path, r"is not valid .splits\.train\.0\.file")

    def test_missing_shard(self, dataset: Dataset) -> None:
        (dataset.path / "train/shard-00001.h5").unlink()
        self.check(dataset.path, r"/train/shard-00001\.h5: is missing")

    def test_truncated_shard(self, dataset: Dataset) -> None:
        shard = dataset.path / "validation/shard-00000.h5"
        shard.write_bytes(shard.read_bytes()[:-1])
        self.check(dataset.path, r"/validation/shard-00000\.h5: is truncated")

    def test_shard_of_another_length(self, dataset: Dataset) -> None:
        (dataset.path / "train/shard-00000.h5").replace(dataset.path / "validation/shard-00000.h5")
        rewrite(dataset.path, lambda manifest: manifest["splits"]["train"].pop(0))
        self.check(dataset.path, r"holds 10 samples, but dataset\.json says 5")

    def test_shard_of_another_schema(self, dataset: Dataset, schema: Schema) -> None:
        with h5py.File(dataset.path / "train/shard-00000.h5", "r+") as file:
            file.attrs["schema"] = schema.model_copy(update={"dense": ("age", "cost")}).model_dump_json()
        self.check(dataset.path, "has another schema than its data set")


def test_bad_sample_is_named_while_reading(dataset: Dataset) -> None:
    with h5py.File(dataset.path / "train/shard-00001.h5", "r+") as file:
        file["one_hot"][3, 0] = 50
    with pytest.raises(DatasetError, match=r"train/shard-00001\.h5: sample 3: table 'user': row id 50 is outside"):
        list(open_dataset(dataset.path).train.batches(7))


def test_an_origin_that_is_no_json_is_refused(tmp_path: Path, schema: Schema, make_batch: MakeBatch) -> None:
    with (
        pytest.raises(DatasetError, match="the origin of a data set has values that JSON cannot hold"),
        DatasetWriter(tmp_path / "clicks", schema, origin={"rate": float("nan")}) as writer,
    ):
        writer.append("train", make_batch(schema, 3))
    assert not list(tmp_path.iterdir())


def test_a_shard_that_shows_another_file_is_refused_by_all_who_read_it(dataset: Dataset) -> None:
    """Its labels are the beginning of a system file, in no listed file and under no checksum."""
    with h5py.File(dataset.path / "train/shard-00000.h5", "r+") as file:
        del file["labels"]
        file.create_dataset("labels", (10,), "f4", external=[("/etc/passwd", 0, 40)])
    reason = "train/shard-00000.h5: /labels has its values in another file or data set, which is never read"
    with pytest.raises(DatasetError, match=reason):
        open_dataset(dataset.path)
    faults = {name: str(fault) for name, fault in verify_files(dataset.path) if fault}
    assert list(faults) == ["train/shard-00000.h5"]
    assert reason in faults["train/shard-00000.h5"]
