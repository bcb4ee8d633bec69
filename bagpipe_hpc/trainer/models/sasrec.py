"""Self-Attentive Sequential Recommendation (Kang & McAuley 2018, arXiv 1808.09781)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models.histories import Elements
from bagpipe_hpc.trainer.models.tokens import Tokens
from bagpipe_hpc.trainer.models.transformer import SelfAttention, encode


class SASRec(nn.Module):
    """The state after a history, times the candidate item.

    logit = sum over histories of <norm(f), t>, where f is the output of attention_blocks transformer blocks at the
    newest element, and t the candidate: the first one-hot feature that uses the table of the history. The input is
    [s, e_1, ..., e_n] with a start vector s of parameters, so that empty histories have a state, too. Each place
    attends to itself and to earlier places. Other features and dense features have no use. There is no dropout.

    Parameters for each history: positions * dim + 3 dim (start vector, last norm) + attention_blocks blocks
    (transformer.py).

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features.
        num_tables: The number of features with one vector per sample.
        generator: Source of the initial parameters.
        sequences: The histories; each has a target.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_dense: int,
        num_tables: int,
        generator: torch.Generator,
        sequences: Sequence[SequenceInput],
    ) -> None:
        super().__init__()
        self._sequences = tuple(sequences)
        self.encoders = nn.ModuleList(_Encoder(config, generator) for _ in sequences)

    def forward(
        self, dense: torch.Tensor, embedded: torch.Tensor, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return logits, float32, shape (b,).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
            sequences: The sequences by name.
        """
        logits = dense.new_zeros(len(dense))
        for encoder, each in zip(self.encoders, self._sequences, strict=True):
            assert each.target is not None
            logits = logits + (encoder(each, sequences) * embedded[:, each.target]).sum(1)
        return logits


class _Encoder(nn.Module):
    """The state after one history."""

    def __init__(self, config: ModelConfig, generator: torch.Generator) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.elements = Elements(config.positions, dim, generator)
        self.start = nn.Parameter(torch.randn(dim, generator=generator) / dim)
        self.blocks = nn.ModuleList(
            SelfAttention(dim, config.attention_heads, generator) for _ in range(config.attention_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, each: SequenceInput, sequences: Mapping[str, JaggedSequence]) -> torch.Tensor:
        history = sequences[each.name]
        tokens = Tokens(history, own_first=True)
        own = self.start.expand(len(history.lengths_on_host), -1)
        x = tokens.arranged(own, self.elements(each, sequences))
        state: torch.Tensor = self.norm(encode(self.blocks, x, tokens, is_causal=True))
        return state
