"""The shares of one trainer, read by the package's own reader and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice

import torch

from bagpipe_hpc.bench.peers.case import PeersCase
from bagpipe_hpc.data.dataset import open_dataset
from bagpipe_hpc.sharding import share_boundaries


@dataclass(frozen=True)
class Share:
    """One trainer's part of a global batch, and the ids of the whole batch.

    Args:
        labels: float32, shape (b,).
        dense: float32, shape (b, num_dense).
        ids: Row ids within their table, int64, shape (b, num_tables).
        ids_of_all: The same of all trainers' samples, int64, shape (B, num_tables).
    """

    labels: torch.Tensor
    dense: torch.Tensor
    ids: torch.Tensor
    ids_of_all: torch.Tensor


@dataclass(frozen=True)
class Samples:
    """The shares of one trainer in all batches of a repeat.

    Args:
        shares: One per batch.
        num_embeddings: The number of rows of each table.
        num_dense: The number of dense features.
    """

    shares: tuple[Share, ...]
    num_embeddings: tuple[int, ...]
    num_dense: int


def read_samples(case: PeersCase, rank: int, size: int) -> Samples:
    """Read the shares of trainer `rank` of `size`, in the order in which a job of bagpipe_hpc trains on them.

    Raises:
        DatasetError: The data set or a sample is invalid.
    """
    dataset = open_dataset(case.data)
    bounds = share_boundaries(case.batch_size, size)
    part = slice(bounds[rank], bounds[rank + 1])
    shares = []
    for batch in islice(dataset.train.batches(case.batch_size), case.num_batches):
        ids = torch.from_numpy(batch.ids).long()
        labels, dense = torch.from_numpy(batch.labels), torch.from_numpy(batch.dense)
        shares.append(Share(labels[part].clone(), dense[part].clone(), ids[part].clone(), ids))
    return Samples(tuple(shares), dataset.schema.num_embeddings, dataset.schema.num_dense)
