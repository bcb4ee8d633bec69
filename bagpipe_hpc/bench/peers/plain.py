"""Plain PyTorch: all tables and the model in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import nn

from bagpipe_hpc.bench.peers.peer import dense_model, mean_loss, sgd
from bagpipe_hpc.bench.peers.samples import Samples, Share
from bagpipe_hpc.bench.peers.tables import Tables
from bagpipe_hpc.config import Config


class WholeModel(nn.Module):
    """All tables, and the dense model over their vectors."""

    def __init__(self, config: Config, samples: Samples) -> None:
        super().__init__()
        self.tables = Tables(config, samples.num_embeddings, range(len(samples.num_embeddings)))
        self.dense = dense_model(config, samples)

    def forward(self, dense: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return logits (b,) from dense features, float32 (b, num_dense), and ids, int64 (b, num_tables)."""
        logits: torch.Tensor = self.dense(dense, self.tables(ids))
        return logits


class PlainPeer:
    """One process trains alone.

    Args:
        config: The configuration of the job.
        samples: The shares.
        wrapped: Returns the model as it is trained.
    """

    def __init__(
        self, config: Config, samples: Samples, wrapped: Callable[[nn.Module], nn.Module] = lambda model: model
    ) -> None:
        self._model = wrapped(WholeModel(config, samples))
        self._optimizer = sgd(config, self._model)

    def train(self, shares: Iterable[Share]) -> Iterator[torch.Tensor]:
        """See `Peer`."""
        for share in shares:
            self._optimizer.zero_grad()
            loss = mean_loss(self._model(share.dense, share.ids), share)
            loss.backward()
            self._optimizer.step()
            yield loss.detach()
