"""Multi-gate Mixture-of-Experts (Ma et al. 2018, KDD)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import Concatenation, initialised, mlp


class MMoE(nn.Module):
    """All labels share experts, and each label mixes them by a gate of its own.

    logit_l = tower_l(sum over experts k of g_lk * expert_k(x)) with x = [dense, embeddings] and g_l = softmax(W_l x).

    Parameters: experts * mlp(width, *expert_mlp) + num_labels * (experts * width + mlp(h, *top_mlp, 1)), where width =
    num_dense + num_tables * dim, and h is the last of expert_mlp.

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of sparse features.
        generator: Source of the initial parameters.
        dims: How many columns of each embedding are in use. Empty: all are in use.
        num_labels: The number of logits per sample.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_dense: int,
        num_tables: int,
        generator: torch.Generator,
        dims: Sequence[int] = (),
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        self.concatenation = Concatenation(num_tables, config.embedding_dim, dims)
        width, labels = num_dense + self.concatenation.width, range(num_labels)
        sizes = [width, *config.expert_mlp]
        self.experts = nn.ModuleList(mlp(sizes, generator, last_relu=True) for _ in range(config.experts))
        self.gates = nn.ModuleList(initialised(nn.Linear(width, config.experts, bias=False), generator) for _ in labels)
        self.towers = nn.ModuleList(mlp([sizes[-1], *config.top_mlp, 1], generator) for _ in labels)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
        """
        inputs = torch.cat([dense, self.concatenation(embedded)], dim=1)
        experts = torch.stack([expert(inputs) for expert in self.experts], dim=1)
        logits = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            mixed = (gate(inputs).softmax(1).unsqueeze(2) * experts).sum(1)
            logits.append(tower(mixed))
        return torch.cat(logits, dim=1).squeeze(1)
