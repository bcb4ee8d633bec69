"""Where a key is stored: table and row id, embedding server and local row. Pure arithmetic.

A *key* is `table offset + row id`, one int64 space over all tables. The server of a key is `key % S`. So neighbouring
keys, which are often equally hot, are on different servers; all servers hold the same number of rows, up to one; and
nobody needs a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]


@dataclass(frozen=True)
class KeySpace:
    """One int64 space over all tables.

    Args:
        num_embeddings: Number of rows of each table, in table order.
    """

    num_embeddings: tuple[int, ...]

    @cached_property
    def table_offsets(self) -> Int64Array:
        """The first key of each table and, last, the number of keys; int64, shape (num_tables + 1,)."""
        return np.concatenate([[0], np.cumsum(np.asarray(self.num_embeddings, dtype=np.int64))]).astype(np.int64)

    @property
    def num_keys(self) -> int:
        """Number of rows of all tables together."""
        return int(self.table_offsets[-1])

    def locate(self, key: int) -> tuple[int, int]:
        """Return the table and the row id of one key."""
        table = int(np.searchsorted(self.table_offsets, key, side="right")) - 1
        return table, key - int(self.table_offsets[table])


@dataclass(frozen=True)
class Sharding:
    """Mapping of keys to (server, local row) for S servers."""

    num_keys: int
    num_servers: int

    def server_of(self, keys: Int64Array) -> Int64Array:
        """Return the server index of each key, int64, shape as keys."""
        return keys % self.num_servers

    def local_row_of(self, keys: Int64Array) -> Int64Array:
        """Return the row of each key within its server's shard, int64, shape as keys."""
        return keys // self.num_servers

    def keys_of(self, server: int, local_rows: Int64Array) -> Int64Array:
        """Return the keys of local rows of one server, int64, shape as local_rows."""
        return local_rows * self.num_servers + server

    def num_local_rows(self, server: int) -> int:
        """Return the number of rows in one server's shard."""
        return len(range(server, self.num_keys, self.num_servers))


def share_boundaries(num_samples: int, num_trainers: int, num_blocks: int | None = None) -> Sequence[int]:
    """Split one global batch over the trainers into contiguous parts.

    The batch is cut into blocks whose sizes differ by at most one sample. Every trainer gets equally many of them.

    Args:
        num_samples: The number of samples of the batch.
        num_trainers: T.
        num_blocks: K, a multiple of T; None: T.
    Returns:
        T + 1 sample positions b; trainer t gets the samples [b[t], b[t + 1]).
    """
    num_blocks = num_blocks or num_trainers
    base, extra = divmod(num_samples, num_blocks)
    return [b * base + min(b, extra) for b in range(0, num_blocks + 1, num_blocks // num_trainers)]
