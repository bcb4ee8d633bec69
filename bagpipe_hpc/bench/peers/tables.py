"""Embedding tables of the PyTorch peers: several tables in one sparse parameter, with the initial rows of a job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from bagpipe_hpc.config import Config
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.sharding import KeySpace

FILL_ROWS = 1 << 18


def fill_initial_rows(
    config: Config, num_embeddings: Sequence[int], table: int, first_row: int, out: torch.Tensor
) -> None:
    """Write the initial rows of one table, from a row on, into float32 (num_rows, embedding_dim)."""
    key_space = KeySpace(tuple(num_embeddings))
    initial_rows = RowInitializer(key_space, config.model.embedding_dim, config.training.seed)
    first_key = int(key_space.table_offsets[table]) + first_row
    for start in range(0, len(out), FILL_ROWS):
        stop = min(start + FILL_ROWS, len(out))
        rows = np.empty((stop - start, out.shape[1]), dtype=np.float32)
        initial_rows.fill(np.arange(first_key + start, first_key + stop), rows)
        out[start:stop] = torch.from_numpy(rows)


class Tables(nn.Module):
    """Some of the tables, one below the other in one parameter with sparse gradients.

    One parameter makes one sparse allreduce and one update, where a parameter per table would make one for each.

    Args:
        config: The configuration of the job.
        num_embeddings: The number of rows of every table of the model.
        chosen: The tables that this module has, ascending.
    """

    def __init__(self, config: Config, num_embeddings: Sequence[int], chosen: Sequence[int]) -> None:
        super().__init__()
        sizes = [num_embeddings[table] for table in chosen]
        starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        weight = torch.empty((int(starts[-1]), config.model.embedding_dim))
        for table, start, size in zip(chosen, starts.tolist(), sizes, strict=False):
            fill_initial_rows(config, num_embeddings, table, 0, weight[start : start + size])
        self.rows = nn.Embedding(weight.shape[0], weight.shape[1], sparse=True, _weight=weight)
        self.starts: torch.Tensor
        self.register_buffer("starts", torch.from_numpy(starts[:-1]), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return vectors, float32 (n, num_chosen, embedding_dim), of ids within the tables, int64 (n, num_chosen)."""
        vectors: torch.Tensor = self.rows(ids + self.starts)
        return vectors


def dealt_tables(num_embeddings: Sequence[int], num_processes: int) -> list[list[int]]:
    """Deal the tables to processes: every process gets about as many tables and about as many rows as the others.

    The largest tables come first, and the order of the processes turns round after each.
    """
    dealt: list[list[int]] = [[] for _ in range(num_processes)]
    by_size = sorted(range(len(num_embeddings)), key=lambda table: -num_embeddings[table])
    for position, table in enumerate(by_size):
        turn, place = divmod(position, num_processes)
        dealt[place if turn % 2 == 0 else num_processes - 1 - place].append(table)
    return [sorted(tables) for tables in dealt]
