"""PyTorch DistributedDataParallel: every process holds all tables, and the sparse gradients are summed."""

from __future__ import annotations

from functools import partial

from torch.nn.parallel import DistributedDataParallel

from bagpipe_hpc.bench.peers.plain import PlainPeer
from bagpipe_hpc.bench.peers.samples import Samples
from bagpipe_hpc.config import Config


class ReplicatedPeer(PlainPeer):
    """Each process trains on its share. All start with equal parameters, so none are sent at the start."""

    def __init__(self, config: Config, samples: Samples) -> None:
        data_parallel = partial(
            DistributedDataParallel, init_sync=False, broadcast_buffers=False, gradient_as_bucket_view=True
        )
        super().__init__(config, samples, data_parallel)
