from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.data.vocabulary import HashedVocabulary, Vocabulary
from bagpipe_hpc.data.vocabulary_file import FILE, TableVocabulary, read_vocabulary, vocabulary_digest, write_vocabulary
from bagpipe_hpc.errors import DatasetError

TABLES = {
    "user": TableVocabulary("text", Vocabulary(np.array([2**62, 0, 7], np.int64))),
    "code": TableVocabulary("hexadecimal", Vocabulary(np.array([0xFFFFFFFF, 0], np.uint32))),
    "none": TableVocabulary("text", Vocabulary(np.empty(0, np.int64))),
    "item": TableVocabulary("text", HashedVocabulary(50)),
}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_vocabulary(tmp_path / FILE, TABLES)
    return tmp_path


@given(values=st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=200), others=st.lists(st.integers(0, 50)))
def test_what_is_written_encodes_the_same(values: list[int], others: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(Path(folder) / FILE, {"t": TableVocabulary("text", Vocabulary(np.array(values, np.int64)))})
        encoder = read_vocabulary(Path(folder))["t"].encoder
    assert encoder.encode(np.array(values, np.int64)).tolist() == list(range(1, len(values) + 1))
    rows = {value: row for row, value in enumerate(values, start=1)}
    assert encoder.encode(np.array(others, np.int64)).tolist() == [rows.get(value, 0) for value in others]


def test_all_kinds_of_tables(written: Path) -> None:
    found = read_vocabulary(written)
    assert {name: (t.type, t.encoder.num_embeddings) for name, t in found.items()} == {
        name: (t.type, t.encoder.num_embeddings) for name, t in TABLES.items()
    }
    values = np.array([2**62, 7, 0xFFFFFFFF, -1])
    for name, table in found.items():
        assert table.encoder.encode(values).tolist() == TABLES[name].encoder.encode(values).tolist()


def test_it_takes_no_more_than_h5py(written: Path) -> None:
    """The example of docs/data.md."""
    with h5py.File(written / FILE) as file:
        assert file["user/values"][:].tolist() == [2**62, 0, 7]
        assert file["item"].attrs["hash_rows"] == 50


def test_the_digest_is_that_of_what_rows_stand_for(written: Path) -> None:
    assert vocabulary_digest(read_vocabulary(written)) == vocabulary_digest(TABLES)
    assert vocabulary_digest(dict(reversed(TABLES.items()))) == vocabulary_digest(TABLES)


@pytest.mark.parametrize(
    "change",
    [
        {"user": TableVocabulary("text", Vocabulary(np.array([2**62, 7, 0], np.int64)))},
        {"user": TableVocabulary("hexadecimal", Vocabulary(np.array([5, 0, 7], np.int64)))},
        {"none": TableVocabulary("text", HashedVocabulary(2))},
        {"item": TableVocabulary("text", HashedVocabulary(51))},
        {"more": TableVocabulary("text", HashedVocabulary(50))},
    ],
)
def test_other_rows_have_another_digest(change: dict[str, TableVocabulary]) -> None:
    assert vocabulary_digest({**TABLES, **change}) != vocabulary_digest(TABLES)


def test_the_same_bytes_every_time(written: Path, tmp_path: Path) -> None:
    write_vocabulary(tmp_path / "again", TABLES)
    assert (tmp_path / "again").read_bytes() == (written / FILE).read_bytes()


def test_none(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"has no vocabulary\.h5; give the output directory of `bagpipe import`"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.attrs.modify("format", "other"),
        lambda file: file.attrs.modify("format_version", 2),
        lambda file: file["user"].attrs.modify("type", "number"),
        lambda file: file["user"].attrs.modify("type", "hexadecimal"),
        lambda file: file["user"].pop("values"),
        lambda file: file["user/values"].write_direct(np.array([1, 1, 2])),
        lambda file: file["user/values"].write_direct(np.array([1, -1, 2])),
        lambda file: file["item"].attrs.modify("hash_rows", 1),
        lambda file: file.create_dataset("other", data=1),
    ],
)
def test_foreign_files(written: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(written / FILE, "a") as file:
        change(file)
    with pytest.raises(DatasetError, match=r"vocabulary\.h5: is damaged, or no vocabulary of this release"):
        read_vocabulary(written)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_damage(tmp_path: Path, place: float) -> None:
    values = np.random.default_rng(0).permutation(100_000)
    write_vocabulary(tmp_path / FILE, {"t": TableVocabulary("text", Vocabulary(values))})
    content = bytearray((tmp_path / FILE).read_bytes())
    content[int(place * len(content))] ^= 1
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DatasetError, match="is damaged"):
        read_vocabulary(tmp_path)


def with_external_storage(file: h5py.File) -> None:
    del file["user/values"]
    file.create_dataset("user/values", (3,), "i8", external=[("/etc/passwd", 0, 24)])


def with_a_virtual_dataset(file: h5py.File) -> None:
    del file["user/values"]
    layout = h5py.VirtualLayout((3,), "i8")
    layout[...] = h5py.VirtualSource("other.h5", "values", (3,))
    file.create_virtual_dataset("user/values", layout)


def with_a_link(file: h5py.File) -> None:
    del file["user"]
    file["user"] = h5py.ExternalLink("other.h5", "user")


def with_a_type_of_its_own(file: h5py.File) -> None:
    file["user"].attrs["type"] = ["text"] * 2


@pytest.mark.parametrize("change", [with_external_storage, with_a_virtual_dataset, with_a_link, with_a_type_of_its_own])
def test_what_is_stored_elsewhere_is_never_read(written: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(written / FILE, "r+") as file:
        change(file)
    with pytest.raises(DatasetError, match=r"vocabulary\.h5: is damaged, or no vocabulary of this release"):
        read_vocabulary(written)
