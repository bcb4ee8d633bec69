"""The interface of a peer: a generator of losses. And what all peers have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.bench.peers.samples import Samples, Share
from bagpipe_hpc.config import Config
from bagpipe_hpc.trainer.models import build_model


class Peer(Protocol):
    """A way to train. Construction sets up the model with its initial parameters."""

    def train(self, shares: Iterable[Share]) -> Iterator[torch.Tensor]:
        """Make a step on each share, and yield its loss: the mean over the samples of this share.

        Communication: collective over the trainers.
        """
        ...


def dense_model(config: Config, samples: Samples) -> nn.Module:
    """Return the dense model with its initial parameters."""
    return build_model(config.model, samples.num_dense, len(samples.num_embeddings), config.training.seed)


def mean_loss(logits: torch.Tensor, share: Share) -> torch.Tensor:
    """Return the mean loss over the samples of a share."""
    return functional.binary_cross_entropy_with_logits(logits, share.labels)


def sgd(config: Config, module: nn.Module) -> torch.optim.SGD:
    """Return plain SGD for all parameters of a module."""
    return torch.optim.SGD(module.parameters(), lr=config.training.learning_rate)
