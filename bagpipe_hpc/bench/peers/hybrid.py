"""The hybrid of the DLRM reference code: tables dealt to processes, vectors exchanged, the dense model in DDP.

Every process looks up the rows of its tables for the whole batch, whose ids it has read. An all-to-all turns the
vectors of all samples in some tables into the vectors of some samples in all tables; another one takes the gradients
back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bagpipe_hpc.bench.peers.peer import dense_model, mean_loss, sgd
from bagpipe_hpc.bench.peers.samples import Samples, Share
from bagpipe_hpc.bench.peers.tables import Tables, dealt_tables
from bagpipe_hpc.config import Config


class HybridPeer:
    """Each process trains the dense model on its share, and its tables on the whole batch."""

    def __init__(self, config: Config, samples: Samples) -> None:
        dealt = dealt_tables(samples.num_embeddings, dist.get_world_size())
        self._chosen = dealt[dist.get_rank()]
        self._counts = [len(tables) for tables in dealt]
        arrival = [table for tables in dealt for table in tables]
        self._order = torch.tensor(arrival).argsort()  # the place at which each table's vectors arrive
        self._tables = Tables(config, samples.num_embeddings, self._chosen)
        self._dense = DistributedDataParallel(dense_model(config, samples), gradient_as_bucket_view=True)
        self._optimizers = [sgd(config, module) for module in (self._tables, self._dense)]

    def train(self, shares: Iterable[Share]) -> Iterator[torch.Tensor]:
        """See `Peer`."""
        for share in shares:
            for optimizer in self._optimizers:
                optimizer.zero_grad()
            vectors = self._tables(share.ids_of_all[:, self._chosen])
            arrived = _ToShares.apply(vectors, len(share.labels), self._counts)  # type: ignore[no-untyped-call]
            loss = mean_loss(self._dense(share.dense, arrived.index_select(1, self._order)), share)
            loss.backward()
            for optimizer in self._optimizers:
                optimizer.step()
            yield loss.detach()


class _ToShares(torch.autograd.Function):
    """Vectors of all samples in this process's tables -> vectors of this process's samples in all tables."""

    @staticmethod
    def forward(ctx: Any, vectors: torch.Tensor, num_samples: int, counts: list[int]) -> torch.Tensor:
        """Return float32 (num_samples, sum(counts), dim), tables in the order of the processes.

        Args:
            ctx: Keeps what `backward` needs.
            vectors: float32, shape (num_samples * num_processes, number of own tables, dim).
            num_samples: The number of samples of each process.
            counts: The number of tables of each process.
        """
        dim, own = vectors.shape[2], vectors.shape[1]
        ctx.num_samples, ctx.counts, ctx.own = num_samples, counts, own
        arrived = vectors.new_empty(num_samples * sum(counts) * dim)
        sizes_in = [num_samples * count * dim for count in counts]
        dist.all_to_all_single(arrived, vectors.reshape(-1), sizes_in, [num_samples * own * dim] * len(counts))
        blocks = arrived.split(sizes_in)
        return torch.cat([block.view(num_samples, -1, dim) for block in blocks], dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradients of the mean loss over all samples with regard to the vectors that were sent."""
        (gradient,) = gradients
        num_samples, counts, own, dim = ctx.num_samples, ctx.counts, ctx.own, gradient.shape[2]
        leaving = torch.cat([part.reshape(-1) for part in gradient.split(counts, dim=1)])
        arrived = gradient.new_empty(num_samples * len(counts) * own * dim)
        sizes_out = [num_samples * count * dim for count in counts]
        dist.all_to_all_single(arrived, leaving, [num_samples * own * dim] * len(counts), sizes_out)
        arrived /= len(counts)  # each process has the mean over its own samples only
        return arrived.view(num_samples * len(counts), own, dim), None, None
