"""Deep Interest Network (Zhou et al. 2018, arXiv 1706.06978)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models.layers import mlp


class DIN(nn.Module):
    """Each element of a history counts by how much it has to do with the candidate item.

    logit = top([dense, embeddings, h_1, h_2, ...]) with one h for each history,
    h = sum over its elements e of a(e) * [e, companions of e], a(e) = attention([e, t, e - t, e * t]),
    where t is the candidate: the first one-hot feature that uses the table of the history, and the companions are the
    rows of the sequences that go along. As in the paper, the weights a(e) are not normalised. ReLU stands in place of
    the paper's Dice, which would make the logit of a sample depend on the other samples of the batch.

    Parameters: mlp(4 dim, *attention_mlp, 1) for each history + mlp(num_dense + (num_tables + num_sequences) dim,
    *top_mlp, num_labels), where num_sequences counts the sequences that go along, too.

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
        self.attention = nn.ModuleList(mlp([4 * dim, *config.attention_mlp, 1], generator) for _ in sequences)
        num_vectors = num_tables + sum(1 + len(each.along) for each in sequences)
        self.top = mlp([num_dense + num_vectors * dim, *config.top_mlp, num_labels], generator)

    def forward(
        self, dense: torch.Tensor, embedded: torch.Tensor, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
            sequences: The sequences by name.
        """
        histories = [
            self._history(attention, embedded, each, sequences)
            for attention, each in zip(self.attention, self._sequences, strict=True)
        ]
        logits: torch.Tensor = self.top(torch.cat([dense, embedded.flatten(1), *histories], dim=1)).squeeze(1)
        return logits

    @staticmethod
    def _history(
        attention: nn.Module, embedded: torch.Tensor, each: SequenceInput, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return h, float32, shape (b, (1 + number of companions) * embedding_dim)."""
        assert each.target is not None
        history = sequences[each.name]
        # Unlike those of an index_select, the gradients of an embedding are added up in a fixed order on a GPU, too.
        rows, target = history.embedded, functional.embedding(history.samples, embedded[:, each.target])
        weights = attention(torch.cat([rows, target, rows - target, rows * target], dim=1))
        elements = torch.cat([rows, *(sequences[name].embedded for name in each.along)], dim=1)
        return torch.segment_reduce(elements * weights, "sum", lengths=history.lengths, axis=0, unsafe=True)
