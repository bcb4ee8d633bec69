"""Where a key lives: table and row id, embedding server and local row. Pure arithmetic.

A *key* is `table offset + row id`, one int64 space over all tables. Keys are dealt to servers like cards,
`server = key % S`: neighbouring (often equally hot) rows land on different servers, every server holds the same number
of rows up to one, and neither side needs a map.
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
        num_embeddings: Rows of each table, in table order.
    """

    num_embeddings: tuple[int, ...]

    @cached_property
    def table_offsets(self) -> Int64Array:
        """First key of each table and, last, the number of keys; int64, shape (num_tables + 1,)."""
        return np.concatenate([[0], np.cumsum(np.asarray(self.num_embeddings, dtype=np.int64))]).astype(np.int64)

    @property
    def num_keys(self) -> int:
        """Rows of all tables together."""
        return int(self.table_offsets[-1])

    def locate(self, key: int) -> tuple[int, int]:
        """Table and row id of one key."""
        table = int(np.searchsorted(self.table_offsets, key, side="right")) - 1
        return table, key - int(self.table_offsets[table])


@dataclass(frozen=True)
class Sharding:
    """Key -> (server, local row) for S servers."""

    num_keys: int
    num_servers: int

    def server_of(self, keys: Int64Array) -> Int64Array:
        """Server index of each key."""
        return keys % self.num_servers

    def local_row_of(self, keys: Int64Array) -> Int64Array:
        """Row of each key within its server's shard."""
        return keys // self.num_servers

    def keys_of(self, server: int, local_rows: Int64Array) -> Int64Array:
        """Inverse of the two above, for one server."""
        return local_rows * self.num_servers + server

    def num_local_rows(self, server: int) -> int:
        """Rows in one server's shard."""
        return len(range(server, self.num_keys, self.num_servers))


def share_boundaries(num_samples: int, num_trainers: int) -> Sequence[int]:
    """Split one global batch over the trainers: contiguous shares that differ by at most one sample.

    Returns:
        T + 1 sample positions; trainer t's share is [b[t], b[t+1]).
    """
    base, extra = divmod(num_samples, num_trainers)
    return [t * base + min(t, extra) for t in range(num_trainers + 1)]
