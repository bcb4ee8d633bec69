"""Behavior Sequence Transformer (Chen et al. 2019, arXiv 1905.06874)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models.histories import Elements
from bagpipe_hpc.trainer.models.layers import mlp
from bagpipe_hpc.trainer.models.tokens import Tokens
from bagpipe_hpc.trainer.models.transformer import SelfAttention, encode


class BST(nn.Module):
    """A transformer over the candidate and its history, and an MLP over its output and all other features.

    logit = top([dense, embeddings, h_1, h_2, ...]) with one h for each history: the output of attention_blocks
    transformer blocks over [t, e_1, ..., e_n] at t, the candidate: the first one-hot feature that uses the table of the
    history. All places attend to all. (The paper feeds the outputs of all places into the MLP, for histories of one
    length.) There is no dropout.

    Parameters: for each history positions * dim + attention_blocks blocks (transformer.py), and
    mlp(num_dense + (num_tables + number of histories) dim, *top_mlp, num_labels).

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of features with one vector per sample.
        generator: Source of the initial parameters.
        sequences: The histories; each has a target.
        num_labels: The number of logits per sample.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_dense: int,
        num_tables: int,
        generator: torch.Generator,
        sequences: Sequence[SequenceInput],
        num_labels: int = 1,
    ) -> None:
        super().__init__()
        dim = config.embedding_dim
        self._sequences = tuple(sequences)
        self.elements = nn.ModuleList(Elements(config.positions, dim, generator) for _ in sequences)
        self.blocks = nn.ModuleList(
            nn.ModuleList(SelfAttention(dim, config.attention_heads, generator) for _ in range(config.attention_blocks))
            for _ in sequences
        )
        self.top = mlp([num_dense + (num_tables + len(sequences)) * dim, *config.top_mlp, num_labels], generator)

    def forward(
        self, dense: torch.Tensor, embedded: torch.Tensor, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
            sequences: The sequences by name.
        """
        outputs = []
        for elements, blocks, each in zip(self.elements, self.blocks, self._sequences, strict=True):
            assert each.target is not None
            tokens = Tokens(sequences[each.name], own_first=True)
            x = tokens.arranged(embedded[:, each.target], elements(each, sequences))
            outputs.append(encode(blocks, x, tokens, is_causal=False))  # type: ignore[arg-type]
        logits: torch.Tensor = self.top(torch.cat([dense, embedded.flatten(1), *outputs], dim=1)).squeeze(1)
        return logits
