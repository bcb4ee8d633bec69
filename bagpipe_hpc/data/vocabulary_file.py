"""The file of a data set that stores which value has which row. docs/data.md specifies the layout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from bagpipe_hpc.data.hdf5 import HDF5_ERRORS, LOCKED, is_locked, member_of, require_regular_file, writing_hdf5
from bagpipe_hpc.data.vocabulary import Encoder, HashedVocabulary, Vocabulary
from bagpipe_hpc.errors import ConfigError, DatasetError

FILE = "vocabulary.h5"
FORMAT = "bagpipe_hpc.vocabulary"
FORMAT_VERSION = 1

_CHUNK_VALUES = 65_536
_DTYPES: dict[str, np.dtype[Any]] = {"hexadecimal": np.dtype(np.uint32), "text": np.dtype(np.int64)}
_MEND = "copy the data set again, or make it again with `bagpipe import`"


@dataclass(frozen=True)
class TableVocabulary:
    """The rows of one table."""

    type: str  # what the encoder's integers represent: "text" or "hexadecimal"
    encoder: Encoder


def write_vocabulary(path: Path, tables: Mapping[str, TableVocabulary]) -> None:
    """Write the file, which must not exist.

    Raises:
        DatasetError: The file cannot be written.
    """
    with writing_hdf5(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        for name, table in tables.items():
            group = file.create_group(name)
            group.attrs["type"] = table.type
            if isinstance(table.encoder, Vocabulary):
                values = table.encoder.values.astype(_DTYPES[table.type], copy=False)
                chunks = (max(1, min(len(values), _CHUNK_VALUES)),)
                group.create_dataset("values", data=values, maxshape=(None,), chunks=chunks, fletcher32=True)
            else:
                group.attrs["hash_rows"] = table.encoder.num_embeddings


def vocabulary_digest(tables: Mapping[str, TableVocabulary]) -> str:
    """Return the SHA-256 of the mapping: two data sets with the same digest give every value the same row.

    For each table in name order it hashes the name, NUL, the type, NUL. Then, if values have rows of their own, their
    number and the values in row order as little-endian integers; if values are hashed, the negative number of rows.
    """
    digest = hashlib.sha256()
    for name in sorted(tables):
        table = tables[name]
        digest.update(f"{name}\0{table.type}\0".encode())
        if isinstance(table.encoder, Vocabulary):
            values = table.encoder.values.astype(_DTYPES[table.type].newbyteorder("<"), copy=False)
            digest.update(len(values).to_bytes(8, "little", signed=True) + values.tobytes())
        else:
            digest.update((-table.encoder.num_embeddings).to_bytes(8, "little", signed=True))
    return digest.hexdigest()


def read_vocabulary(path: Path) -> dict[str, TableVocabulary]:
    """Read the file of a data set.

    Args:
        path: Directory of the data set.
    Raises:
        DatasetError: The data set has no such file, or the file is damaged, foreign or of another version.
    """
    if not os.path.lexists(path / FILE):
        raise DatasetError(f"{path}: has no {FILE}; give the output directory of `bagpipe import`")
    try:
        require_regular_file(path / FILE)
        with h5py.File(path / FILE, "r", locking="best-effort") as file:
            found = file.attrs.get("format"), file.attrs.get("format_version")
            if found != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"format and version are {found}, not {(FORMAT, FORMAT_VERSION)}")
            return {name: _read_table(file, name) for name in file}
    except (*HDF5_ERRORS, ConfigError) as error:
        if isinstance(error, OSError) and is_locked(error):
            raise DatasetError(f"{path / FILE}: {LOCKED}; {_MEND}") from error
        raise DatasetError(f"{path / FILE}: is damaged, or no vocabulary of this release ({error}); {_MEND}") from error


def _read_table(file: h5py.File, name: str) -> TableVocabulary:
    group = member_of(file, name)
    kind = group.attrs["type"]
    if kind not in _DTYPES:
        raise ValueError(f"/{name} is of type {kind!r}, not one of {', '.join(_DTYPES)}")
    if "hash_rows" in group.attrs:
        return TableVocabulary(kind, HashedVocabulary(int(group.attrs["hash_rows"])))
    dataset = member_of(file, f"{name}/values")
    values = dataset[:]
    if (
        dataset.dtype != _DTYPES[kind]
        or dataset.ndim != 1
        or (values < 0).any()
        or len(np.unique(values)) < len(values)
    ):
        raise ValueError(f"{dataset.name} of shape {dataset.shape} and type {dataset.dtype} has no distinct values")
    return TableVocabulary(kind, Vocabulary(values))
