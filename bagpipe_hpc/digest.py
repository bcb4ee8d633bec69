"""The model digest: one SHA-256 over all that a job has learnt, whatever its topology. Pure.

It covers, in this order, all little-endian:

* for each dense parameter in name order: UTF-8 name, NUL, its float32 bytes;
* for each updated row in ascending key order (so table by table, row by row): int64 key, its float32 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray


class ModelDigest:
    """Computes the digest. Add the dense parameters first, then the rows in ascending key order, in any pieces."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add_dense(self, parameters: Mapping[str, NDArray[np.float32]]) -> None:
        """Add all dense parameters, float32 of any shape."""
        for name in sorted(parameters):
            self._hash.update(name.encode() + b"\0")
            self._hash.update(np.ascontiguousarray(parameters[name], dtype="<f4").tobytes())

    def add_rows(self, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Add updated rows: keys int64 ascending, shape (n,); rows float32, shape (n, row_width)."""
        records = np.empty((len(keys), 8 + 4 * rows.shape[1]), dtype=np.uint8)
        records[:, :8] = np.ascontiguousarray(keys, dtype="<i8").view(np.uint8).reshape(-1, 8)
        records[:, 8:] = np.ascontiguousarray(rows, dtype="<f4").view(np.uint8).reshape(len(rows), records.shape[1] - 8)
        self._hash.update(records.tobytes())

    def hexdigest(self) -> str:
        """Return the digest so far, 64 hexadecimal digits."""
        return self._hash.hexdigest()


def merge_rows(
    pieces: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return rows of one key range in ascending key order: keys int64 (n,), rows float32 (n, row_width)."""
    keys, rows = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(keys, kind="stable")
    return keys[order], rows[order]
