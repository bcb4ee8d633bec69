"""PyTorch DistributedDataParallel: every process holds all tables, and the sparse gradients are summed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch.nn.parallel import DistributedDataParallel

from bagpipe_hpc.bench.peers.peer import mean_loss, sgd
from bagpipe_hpc.bench.peers.plain import WholeModel
from bagpipe_hpc.bench.peers.samples import Samples, Share
from bagpipe_hpc.config import Config


class ReplicatedPeer:
    """Each process trains on its share. All start with equal parameters, so none are sent at the start."""

    def __init__(self, config: Config, samples: Samples) -> None:
        self._model = DistributedDataParallel(
            WholeModel(config, samples), init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        self._optimizer = sgd(config, self._model)

    def train(self, shares: Iterable[Share]) -> Iterator[torch.Tensor]:
        """See `Peer`."""
        for share in shares:
            self._optimizer.zero_grad()
            loss = mean_loss(self._model(share.dense, share.ids), share)
            loss.backward()
            self._optimizer.step()
            yield loss.detach()
