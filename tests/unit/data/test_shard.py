from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.schema import ElementSchema, LabelSchema, Schema, TableSchema
from bagpipe_hpc.data.shard import Compression, ShardReader, ShardWriter
from bagpipe_hpc.errors import ConfigError, DatasetError
from tests.unit.conftest import AssertEqual, MakeBatch

NUM_SAMPLES = 100


def write_shard(path: Path, schema: Schema, batch: Batch, compression: Compression | None = None) -> Path:
    with ShardWriter(path, schema, compression) as writer:
        writer.append(batch)
    return path


def read_all(path: Path, schema: Schema | None = None) -> Batch:
    with ShardReader(path, schema) as reader:
        return reader.read(0, reader.num_samples)


@pytest.fixture
def shard(tmp_path: Path, schema: Schema, make_batch: MakeBatch) -> Path:
    return write_shard(tmp_path / "shard.h5", schema, make_batch(schema, NUM_SAMPLES))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    compression=st.sampled_from([None, "gzip", "lzf"]),
    spot=st.tuples(st.integers(0, 120), st.integers(0, 120)),
)
def test_round_trip(
    schema: Schema,
    make_batch: MakeBatch,
    assert_equal: AssertEqual,
    sizes: list[int],
    compression: Compression | None,
    spot: tuple[int, int],
) -> None:
    pieces = [make_batch(schema, size, seed) for seed, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.h5"
        with ShardWriter(path, schema, compression) as writer:
            for piece in pieces:
                writer.append(piece)
        start, stop = sorted(min(position, sum(sizes)) for position in spot)
        with ShardReader(path, schema) as reader:
            assert reader.num_samples == sum(sizes)
            assert reader.compression == compression
            assert_equal(reader.read(start, stop), Batch.concatenate(pieces).slice(start, stop))


def test_layout_is_the_documented_one(shard: Path, schema: Schema) -> None:
    with h5py.File(shard) as file:
        assert dict(file.attrs) == {
            "format": "bagpipe_hpc.shard",
            "format_version": 1,
            "schema": schema.model_dump_json(),
            "num_samples": NUM_SAMPLES,
        }
        found = {}
        file.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        assert {name: (item.dtype.name, item.ndim, item.chunks[0]) for name, item in found.items()} == {
            "labels": ("float32", 1, 8192),
            "dense": ("float32", 2, 8192),
            "one_hot": ("int32", 2, 8192),
            "ragged/genres/offsets": ("int64", 1, 8192),
            "ragged/genres/ids": ("int32", 1, 65536),
            "ragged/seen/offsets": ("int64", 1, 8192),
            "ragged/seen/ids": ("int32", 1, 65536),
            "ragged/seen/weights": ("float32", 1, 65536),
        }
        assert found["dense"].shape == (NUM_SAMPLES, 2)
        assert found["one_hot"].shape == (NUM_SAMPLES, 2)
        assert found["ragged/genres/offsets"].shape == (NUM_SAMPLES + 1,)
        assert all(item.fletcher32 for item in found.values())


def test_a_table_of_two_billion_rows_makes_ids_int64(tmp_path: Path, assert_equal: AssertEqual) -> None:
    schema = Schema(tables=(TableSchema(name="user", num_embeddings=2**31),))
    batch = Batch(np.zeros(1, np.float32), np.zeros((1, 0), np.float32), np.array([[2**31 - 1]]))
    path = write_shard(tmp_path / "shard.h5", schema, batch)
    assert_equal(read_all(path), batch)
    with h5py.File(path) as file:
        assert file["one_hot"].dtype == np.int64
        assert "dense" not in file


def test_only_ragged_tables(tmp_path: Path, assert_equal: AssertEqual) -> None:
    schema = Schema(tables=(TableSchema(name="tags", num_embeddings=3, ragged=True),))
    ragged = Bags(np.array([0, 0, 2]), np.array([2, 0]))
    batch = Batch(np.zeros(2, np.float32), np.zeros((2, 0), np.float32), np.zeros((2, 0), np.int64), {"tags": ragged})
    assert_equal(read_all(write_shard(tmp_path / "shard.h5", schema, batch)), batch)


def test_very_wide_samples_get_small_chunks(tmp_path: Path) -> None:
    tables = tuple(TableSchema(name=f"table{i}", num_embeddings=5) for i in range(4096))
    batch = Batch(np.zeros(2, np.float32), np.zeros((2, 0), np.float32), np.zeros((2, 4096), np.int64))
    path = write_shard(tmp_path / "shard.h5", Schema(tables=tables), batch)
    with h5py.File(path) as file:
        assert file["one_hot"].chunks == (256, 4096)
    assert read_all(path).ids.shape == (2, 4096)


class TestFilesThatAreNoShards:
    def check(self, path: Path, message: str, schema: Schema | None = None) -> None:
        with pytest.raises(DatasetError, match=f"^{re.escape(str(path))}: .*{message}.*; (copy|free)"):
            ShardReader(path, schema)

    def test_missing(self, tmp_path: Path) -> None:
        self.check(tmp_path / "none.h5", "is missing")

    def test_directory(self, tmp_path: Path) -> None:
        self.check(tmp_path, "is a directory")

    @pytest.mark.parametrize("content", [b"", b"hello, world\n" * 1000])
    def test_not_hdf5(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "text.h5").write_bytes(content)
        self.check(tmp_path / "text.h5", rf"is not an HDF5 file, or has lost its beginning \({len(content)} bytes")

    @pytest.mark.parametrize("kept", [0.001, 0.1, 0.5, 0.9, 0.999, 1.0])
    def test_truncated(self, shard: Path, kept: float) -> None:
        content = shard.read_bytes()
        shard.write_bytes(content[: min(int(len(content) * kept), len(content) - 1)])
        self.check(shard, "is truncated")

    def test_truncated_within_the_first_bytes(self, shard: Path) -> None:
        shard.write_bytes(shard.read_bytes()[:5])
        self.check(shard, "lost its beginning")

    def test_foreign(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "foreign.h5", "w") as file:
            file["labels"] = [1.0]
        self.check(tmp_path / "foreign.h5", "is an HDF5 file, but not a shard")

    @pytest.mark.parametrize(
        ("attribute", "value", "message"),
        [
            ("format", "other", "its attribute format is 'other'"),
            ("format_version", 2, "has format version 2, but this release reads version 1"),
            ("schema", "{}", "has no valid schema .tables: Field required"),
            ("schema", 7, "has no valid schema"),
            ("schema", '{"tables": [{"name": "a", "num_embeddings": %s}]}' % ("9" * 30), "more than 64 bits"),
            ("schema", "[" * 1000, "nested more than 64 deep"),
            ("schema", '{"tables": [{"name": "a", "num_embeddings": "9"}]}', "valid integer"),
            ("format", ["bagpipe_hpc.shard"] * 2, "its attribute format is"),
            ("format_version", [1, 1], r"has format version \[1 1\]"),
            ("num_samples", [100], "is incomplete"),
            ("num_samples", "many", "is incomplete"),
            ("num_samples", 99, r"/labels has shape \(100,\), but schema and num_samples need \(99,\)"),
        ],
    )
    def test_wrong_attribute(self, shard: Path, attribute: str, value: object, message: str) -> None:
        with h5py.File(shard, "r+") as file:
            file.attrs[attribute] = value
        self.check(shard, message)

    def test_never_finished(self, tmp_path: Path, schema: Schema, make_batch: MakeBatch) -> None:
        writer = ShardWriter(tmp_path / "shard.h5", schema)
        writer.append(make_batch(schema, 3))
        writer.__exit__(ZeroDivisionError, None, None)
        self.check(tmp_path / "shard.h5", "is incomplete: it has no attribute num_samples")

    def test_another_schema(self, shard: Path, schema: Schema) -> None:
        other = schema.model_copy(update={"dense": ("age",)})
        self.check(shard, "has another schema than its data set: dense features", other)

    @pytest.mark.parametrize("name", ["labels", "one_hot", "ragged/genres/ids", "ragged"])
    def test_lost_dataset(self, shard: Path, name: str) -> None:
        with h5py.File(shard, "r+") as file:
            del file[name]
        self.check(shard, f"has no dataset /{name}")

    @pytest.mark.parametrize(("name", "values"), [("labels", np.zeros(NUM_SAMPLES)), ("one_hot", np.zeros(3, "i4"))])
    def test_dataset_of_another_type(self, shard: Path, name: str, values: NDArray[np.generic]) -> None:
        with h5py.File(shard, "r+") as file:
            del file[name]
            file[name] = values
        self.check(shard, f"/{name} is {values.dtype} of shape ")


def soft_link(file: h5py.File, name: str) -> None:
    file[f"{name}-moved"] = file[name]
    del file[name]
    file[name] = h5py.SoftLink(f"/{name}-moved")


def external_link(file: h5py.File, name: str) -> None:
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", name)


def external_storage(file: h5py.File, name: str) -> None:
    like = file[name]
    del file[name]
    file.create_dataset(name, like.shape, like.dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file: h5py.File, name: str) -> None:
    like = file[name]
    del file[name]
    layout = h5py.VirtualLayout(like.shape, like.dtype)
    layout[...] = h5py.VirtualSource("other.h5", name, like.shape)
    file.create_virtual_dataset(name, layout)


class TestContentOfOtherFiles:
    """What HDF5 would fetch from elsewhere, past every checksum, is never read."""

    @pytest.mark.parametrize("name", ["labels", "dense", "one_hot", "ragged/genres/offsets", "ragged/seen/weights"])
    @pytest.mark.parametrize("reach", [soft_link, external_link, external_storage, virtual_dataset])
    def test_is_refused(self, shard: Path, name: str, reach: Callable[[h5py.File, str], None]) -> None:
        shutil.copy(shard, shard.with_name("other.h5"))
        with h5py.File(shard, "r+") as file:
            reach(file, name)
        why = "is a link to something elsewhere" if "link" in reach.__name__ else "has its values in another file"
        with pytest.raises(DatasetError, match=f"{re.escape(str(shard))}: /{name} {why}.*; copy it again"):
            ShardReader(shard)

    def test_is_refused_in_a_group_that_is_a_link(self, shard: Path) -> None:
        shutil.copy(shard, shard.with_name("other.h5"))
        with h5py.File(shard, "r+") as file:
            external_link(file, "ragged")
        with pytest.raises(DatasetError, match="/ragged/genres/offsets is a link"):
            ShardReader(shard)

    @pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
    def test_a_shard_that_is_no_regular_file(self, tmp_path: Path, target: str) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "shard.h5").symlink_to(target)
        with pytest.raises(DatasetError, match="a device, pipe or socket, not a regular file"):
            ShardReader(tmp_path / "shard.h5")


class TestBadSamples:
    """A sample that was sound when written and is not when read."""

    @pytest.mark.parametrize(
        ("name", "position", "value", "message"),
        [
            ("one_hot", (17, 1), 9, r"sample 17: table 'item': row id 9 is outside \[0, 9\)"),
            ("one_hot", (17, 0), -1, r"sample 17: table 'user': row id -1 is outside \[0, 50\)"),
            ("dense", (42, 1), np.nan, "sample 42: dense feature 'price' is nan, but must be finite"),
            ("dense", (42, 0), -np.inf, "sample 42: dense feature 'age' is -inf, but must be finite"),
            ("labels", 3, np.inf, "sample 3: label is inf, but must be 0 or 1"),
            ("ragged/genres/offsets", 8, -1, r"sample 7: table 'genres': offsets \d+, -1 must rise within \[0, \d+\]"),
            ("ragged/genres/offsets", 8, 10**9, "sample 7: table 'genres': offsets .* must rise within .*"),
        ],
    )
    def test_is_named(
        self, shard: Path, name: str, position: int | tuple[int, int], value: float, message: str
    ) -> None:
        with h5py.File(shard, "r+") as file:
            file[name][position] = value
        with ShardReader(shard) as reader:
            reader.read(0, 3)
            with pytest.raises(DatasetError, match=rf"^{re.escape(str(shard))}: {message}; .*(copy|import)"):
                reader.read(3, NUM_SAMPLES)

    def test_weight_is_named_with_its_sample(self, shard: Path) -> None:
        with h5py.File(shard, "r+") as file:
            sample = int(np.flatnonzero(np.diff(file["ragged/seen/offsets"][:]))[5])
            file["ragged/seen/weights"][file["ragged/seen/offsets"][sample]] = np.inf
        with (
            ShardReader(shard) as reader,
            pytest.raises(DatasetError, match=f"sample {sample}: table 'seen': a weight is inf, but must be finite"),
        ):
            reader.read(2, NUM_SAMPLES)

    def test_a_weight_for_every_row_id(self, shard: Path) -> None:
        with h5py.File(shard, "r+") as file:
            file["ragged/seen/weights"].resize(3, axis=0)
        with pytest.raises(DatasetError, match=r"/ragged/seen/weights has shape \(3,\), but schema"):
            ShardReader(shard)

    def test_ragged_id_is_named_with_its_sample(self, shard: Path) -> None:
        with h5py.File(shard, "r+") as file:
            sample = int(np.flatnonzero(np.diff(file["ragged/genres/offsets"][:]))[5])
            file["ragged/genres/ids"][file["ragged/genres/offsets"][sample]] = 7
        with (
            ShardReader(shard) as reader,
            pytest.raises(DatasetError, match=rf"sample {sample}: table 'genres': row id 7 is outside \[0, 7\)"),
        ):
            reader.read(2, NUM_SAMPLES)

    def test_damage_is_never_read_as_samples(self, shard: Path, assert_equal: AssertEqual) -> None:
        content, expected = shard.read_bytes(), read_all(shard)
        rng = random.Random(0)
        refused = 0
        for _ in range(60):
            position = rng.choice([rng.randrange(8192), rng.randrange(len(content) - 64)])
            shard.write_bytes(content[:position] + rng.randbytes(64) + content[position + 64 :])
            try:
                assert_equal(read_all(shard, None), expected)
            except DatasetError:
                refused += 1
        assert refused > 30


class TestWriter:
    def test_refuses_unknown_compression(self, tmp_path: Path, schema: Schema) -> None:
        with pytest.raises(ConfigError, match=r"compression is 'zip', but must be one of \('gzip', 'lzf'\)"):
            ShardWriter(tmp_path / "shard.h5", schema, cast(Any, "zip"))

    def test_refuses_an_existing_file(self, shard: Path, schema: Schema) -> None:
        with pytest.raises(DatasetError, match=r"cannot be written .*; free space, fix permissions or choose"):
            ShardWriter(shard, schema)

    @pytest.mark.parametrize(
        ("column", "position", "value", "message"),
        [
            ("ids", (4, 1), 9, r"sample 14: table 'item': row id 9 is outside \[0, 9\)"),
            ("ids", (4, 1), 2**32, r"row id 4294967296 is outside"),
            ("dense", (4, 0), np.nan, "sample 14: dense feature 'age' is nan"),
            ("labels", 4, np.nan, "sample 14: label is nan"),
        ],
    )
    def test_refuses_bad_samples(
        self,
        tmp_path: Path,
        schema: Schema,
        make_batch: MakeBatch,
        column: str,
        position: int | tuple[int, int],
        value: float,
        message: str,
    ) -> None:
        batch = make_batch(schema, 10)
        with ShardWriter(tmp_path / "shard.h5", schema) as writer:
            writer.append(batch)
            getattr(batch, column)[position] = value
            with pytest.raises(DatasetError, match=message):
                writer.append(batch)
            assert writer.num_samples == 10

    def test_refuses_other_shapes(self, tmp_path: Path, schema: Schema, make_batch: MakeBatch) -> None:
        batch = make_batch(schema, 4)
        with ShardWriter(tmp_path / "shard.h5", schema) as writer:
            with pytest.raises(
                DatasetError, match=r"dense of a batch has shape \(4, 1\), but the schema needs \(4, 2\)"
            ):
                writer.append(Batch(batch.labels, batch.dense[:, :1], batch.ids, batch.bags))
            with pytest.raises(DatasetError, match="no row ids of ragged table 'genres', or not 5 offsets"):
                writer.append(Batch(batch.labels, batch.dense, batch.ids))
            bare = {name: replace(bags, weights=None) for name, bags in batch.bags.items()}
            with pytest.raises(DatasetError, match="no weight for each row id of ragged table 'seen', contrary"):
                writer.append(replace(batch, bags=bare))
            genres = replace(bare["genres"], weights=np.ones(len(bare["genres"].ids), np.float32))
            with pytest.raises(DatasetError, match="weights of ragged table 'genres', contrary"):
                writer.append(replace(batch, bags={**batch.bags, "genres": genres}))


def test_a_shard_that_another_program_writes_is_called_locked(shard: Path) -> None:
    program = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", program, str(shard)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(DatasetError, match="is locked: another program has opened it for writing"):
            ShardReader(shard)
        writer.stdin.close()
        writer.stdout.close()


LABELS = (LabelSchema(name="click"), LabelSchema(name="stars", kind="real", optional=True))
LABELLED = Schema(tables=(TableSchema(name="user", num_embeddings=9),), labels=LABELS, weighted=True, group="user")


def labelled_batch(**changes: Any) -> Batch:
    """Return four samples with two labels, weights and groups, and perhaps with something else in a column."""
    nan = float("nan")
    batch = Batch(
        np.array([[0, 1.5], [1, nan], [1, -7], [0, nan]], np.float32),
        np.zeros((4, 0), np.float32),
        np.zeros((4, 1), np.int64),
        sample_weights=np.array([1, 0, 0.5, 3], np.float32),
        groups=np.array([-(2**63), 2**63 - 1, 0, 0]),
    )
    return replace(batch, **changes)


def test_labels_weights_and_groups(tmp_path: Path) -> None:
    batch = labelled_batch()
    found = read_all(write_shard(tmp_path / "shard.h5", LABELLED, batch), LABELLED)
    assert np.array_equal(found.labels, batch.labels, equal_nan=True)
    assert np.array_equal(found.sample_weights, batch.sample_weights)  # type: ignore[arg-type]
    assert np.array_equal(found.groups, batch.groups)  # type: ignore[arg-type]
    with h5py.File(tmp_path / "shard.h5") as file:
        shapes = {name: (file[name].shape, file[name].dtype) for name in ("labels", "sample_weights", "groups")}
    assert shapes == {"labels": ((4, 2), "<f4"), "sample_weights": ((4,), "<f4"), "groups": ((4,), "<i8")}


TIMED = Schema(tables=(TableSchema(name="user", num_embeddings=9),), time="hour")


def timed_batch(times: Any) -> Batch:
    times = None if times is None else np.array(times)
    labels, ids = np.zeros(3, np.float32), np.zeros((3, 1), np.int64)
    return Batch(labels, np.zeros((3, 0), np.float32), ids, times=times)


def test_times_are_read_apart(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "shard.h5", TIMED) as writer:
        writer.append(timed_batch([1, 1, 5]))
        writer.append(timed_batch([1, 2, 3]).slice(0, 0))
        with pytest.raises(DatasetError, match="sample 3: hour is 4 after 5, but samples must be in time order"):
            writer.append(timed_batch([4, 5, 6]))
        writer.append(timed_batch([5, 5, 10**18 - 1]))
    with ShardReader(tmp_path / "shard.h5", TIMED) as reader:
        assert reader.read(0, 6).times is None
        assert reader.times(1, 6).tolist() == [1, 5, 5, 5, 10**18 - 1]
        assert reader.times(1, 1, before=7).tolist() == []
        with pytest.raises(DatasetError, match="sample 1: hour is 1 after 2, but samples must be in time order"):
            reader.times(1, 3, before=2)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([0, 3, 2], "sample 2: hour is 2 after 3, but samples must be in time order"),
        ([0, 1, 10**18], "sample 2: hour is 1000000000000000000, but must have at most 18 digits"),
        ([-(2**63), 1, 2], "sample 0: hour is -9223372036854775808, but must have at most 18 digits"),
        ([0.0, 1.0, 2.0], "times of a batch are float64, but must be integers"),
        ([[0], [1], [2]], r"times of a batch has shape \(3, 1\), but the schema needs \(3,\)"),
        (None, "the batch has no times, contrary to the schema"),
    ],
)
def test_times_that_cannot_be(tmp_path: Path, times: Any, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        write_shard(tmp_path / "shard.h5", TIMED, timed_batch(times))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [[0, 1], [2, 1], [0, 0], [0, 0]]}, "sample 1: label 'click' is 2.0, but must be 0 or 1"),
        ({"labels": [[0, 1], [1, 1], [np.nan, 0], [0, 0]]}, "sample 2: label 'click' is nan, but must be 0 or 1"),
        (
            {"labels": [[0, 1], [1, 1], [0, 0], [0, np.inf]]},
            r"sample 3: label 'stars' is inf, but must be finite or missing \(nan\)",
        ),
        ({"sample_weights": [1, -0.5, 1, 1]}, "sample 1: weight is -0.5, but must be 0 or between 1e-12 and 1e[+]12"),
        ({"sample_weights": [1, 1, np.nan, 1]}, "sample 2: weight is nan, but must be 0 or between 1e-12 and 1e[+]12"),
        ({"labels": [0, 1, 1, 0]}, r"labels of a batch has shape \(4,\), but the schema needs \(4, 2\)"),
        ({"sample_weights": None}, "the batch has no sample_weights, contrary to the schema"),
        ({"groups": None}, "the batch has no groups, contrary to the schema"),
    ],
)
def test_labels_and_weights_that_cannot_be(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    arrays = {name: None if value is None else np.array(value, np.float32) for name, value in changes.items()}
    with pytest.raises(DatasetError, match=said):
        write_shard(tmp_path / "written.h5", LABELLED, labelled_batch(**arrays))
    path = write_shard(tmp_path / "read.h5", LABELLED, labelled_batch())
    if any(value is None or len(np.shape(value)) != np.ndim(getattr(labelled_batch(), name))
           for name, value in changes.items()):  # fmt: skip
        return
    with h5py.File(path, "a") as file:
        for name, value in changes.items():
            file[name][...] = value
    with pytest.raises(DatasetError, match=said):
        read_all(path)


def test_a_plain_label_is_0_or_1(tmp_path: Path) -> None:
    schema = Schema(tables=LABELLED.tables)
    batch = Batch(np.array([0, -0.0, 1, 0.5], np.float32), np.zeros((4, 0), np.float32), np.zeros((4, 1), np.int64))
    write_shard(tmp_path / "sound.h5", schema, batch.slice(0, 3))
    with pytest.raises(DatasetError, match=r"sample 3: label is 0\.5, but must be 0 or 1"):
        write_shard(tmp_path / "shard.h5", schema, batch)


SEQUENCES = Schema(
    tables=(
        TableSchema(name="item", num_embeddings=9),
        TableSchema(
            name="clicked",
            num_embeddings=9,
            ragged=True,
            shares="item",
            sequence=True,
            elements=(ElementSchema(name="time", kind="integer"), ElementSchema(name="stars")),
        ),
        TableSchema(name="action", num_embeddings=3, ragged=True, sequence=True, along="clicked"),
    )
)


def batch_of_sequences(lengths: tuple[int, ...] = (2, 0, 3), **changes: Any) -> Batch:
    """Return three samples with a sequence of five clicks, and perhaps with something else in it."""
    offsets = np.array([0, 2, 2, 5])
    elements: dict[str, Any] = {"time": np.arange(5) + 2**60, "stars": np.arange(5, dtype=np.float32) / 2}
    clicked = replace(Bags(offsets, np.array([1, 8, 1, 0, 2]), elements=elements), **changes)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    bags = {"clicked": clicked, "action": Bags(ends, np.arange(ends[-1]) % 3)}
    return Batch(np.zeros(3, np.float32), np.zeros((3, 0), np.float32), np.zeros((3, 1), np.int64), bags)


def test_sequences_and_their_elements(tmp_path: Path) -> None:
    path, batch = tmp_path / "shard.h5", batch_of_sequences()
    with ShardWriter(path, SEQUENCES) as writer:
        writer.append(batch.slice(0, 1))
        writer.append(batch.slice(1, 3))
    with ShardReader(path, SEQUENCES) as reader:
        clicked = reader.read(1, 3).bags["clicked"]
    assert clicked.offsets.tolist() == [0, 0, 3]
    assert clicked.ids.tolist() == [1, 0, 2]
    assert {name: values.tolist() for name, values in clicked.elements.items()} == {
        "time": [2**60 + 2, 2**60 + 3, 2**60 + 4],
        "stars": [1, 1.5, 2],
    }
    with h5py.File(path) as file:
        group = file["ragged/clicked/elements"]
        assert {name: group[name].dtype for name in group} == {"stars": np.float32, "time": np.int64}


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (
            batch_of_sequences((2, 1, 3)),
            "sample 1: sequence 'action' has 1 elements, but 0 are needed, because it goes along 'clicked'",
        ),
        (
            batch_of_sequences(elements={"time": np.arange(5)}),
            r"sequence 'clicked' of the batch needs these values for each of its 5 ids: time \(int64\), stars",
        ),
        (
            batch_of_sequences(elements={"time": np.arange(4), "stars": np.zeros(5, np.float32)}),
            "sequence 'clicked' of the batch needs these values",
        ),
        (
            batch_of_sequences(elements={"time": np.arange(5), "stars": np.array([0, 1, 2, np.nan, 0], np.float32)}),
            "sample 2: sequence 'clicked': stars is nan, but must be finite",
        ),
    ],
)
def test_sequences_that_cannot_be(tmp_path: Path, batch: Batch, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        write_shard(tmp_path / "shard.h5", SEQUENCES, batch)


def test_ids_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    batch = batch_of_sequences()
    floats = replace(batch, ids=batch.ids.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="row ids of a batch are float32, but must be integers"):
        write_shard(tmp_path / "one_hot.h5", SEQUENCES, floats)
    clicked = batch.bags["clicked"]
    for ids in (clicked.ids.astype(np.float64), clicked.ids[:, None]):
        bags = {**batch.bags, "clicked": replace(clicked, ids=ids)}  # type: ignore[arg-type]
        with pytest.raises(
            DatasetError, match=r"the row ids of ragged table 'clicked' are .*, but must be integers of"
        ):
            write_shard(tmp_path / f"{ids.ndim}{ids.dtype}.h5", SEQUENCES, replace(batch, bags=bags))


def test_a_dataset_without_a_shape_is_refused(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard.h5", SEQUENCES, batch_of_sequences())
    with h5py.File(path, "a") as file:
        del file["ragged/clicked/elements/stars"]
        file["ragged/clicked/elements/stars"] = h5py.Empty("f4")
    with pytest.raises(DatasetError, match="/ragged/clicked/elements/stars is float32 of shape None"):
        read_all(path)


def test_damaged_sequences_are_found(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "shard.h5", SEQUENCES, batch_of_sequences())
    with h5py.File(path, "a") as file:
        file["ragged/action/offsets"][...] = [0, 1, 2, 5]
    with pytest.raises(DatasetError, match="sample 0: sequence 'action' has 1 elements, but 2 are needed"):
        read_all(path)
    with h5py.File(path, "a") as file:
        del file["ragged/clicked/elements/stars"]
    with pytest.raises(DatasetError, match="has no dataset /ragged/clicked/elements/stars"):
        read_all(path)
