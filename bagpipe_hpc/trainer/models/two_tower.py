"""Two towers, trained by in-batch softmax with correction of the sampling bias (Yi et al. 2019, RecSys).

The paper is "Sampling-bias-corrected neural modeling for large corpus item recommendations", doi
10.1145/3298689.3346996.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models.layers import mlp
from bagpipe_hpc.trainer.trainer_batch import TrainerBatch

NO_SEQUENCES: Mapping[str, JaggedSequence] = {}


class TwoTower(nn.Module):
    """One tower for the user and one for the item, whose outputs are vectors of length 1.

    logit = <u, v> / temperature, u = norm(user([dense, embeddings of the user, h_1, h_2, ...])),
    v = norm(item([embeddings of the item])), norm(x) = x / |x|, where h is the mean of the elements of a sequence (zero
    without elements). All features but those of the item, and all dense ones, are the user's.

    It is trained to find the item of each sample with label 1 among the items of a *block*: the samples that are
    computed together, which are those of one trainer or, with training.blocks, of one block. For sample i

        loss_i = -log(exp(s_ii) / sum over samples j of the block of exp(s_ij))
        s_ij = <u_i, v_j> / temperature - log q_j

    without those j != i that have the item of i. q_j is the probability that a sample has the item of j. The more often
    an item occurs, the more often it is among the candidates for other samples, and - log q makes up for that. q is the
    fraction of all training samples so far, those of this iteration included, that have the item, which the oracle
    counts. (The paper estimates it. The number of samples is the same for all j, so it cancels.) Samples with label 0
    have no loss, but their items are candidates. The loss of the job is the mean of loss_i over the samples of the
    global batch with label 1, weighted with the sample weights.

    Parameters: mlp(num_dense + (number of user features + number of sequences) dim, *tower_mlp) and mlp(number of item
    features * dim, *tower_mlp).

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of features with one vector per sample.
        generator: Source of the initial parameters.
        sequences: The sequences, which are the user's.
        item: The positions in embedded of the features of the item; not empty.
        dims: How many columns of each embedding are in use. Empty: all are in use.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_dense: int,
        num_tables: int,
        generator: torch.Generator,
        sequences: Sequence[SequenceInput] = (),
        item: Sequence[int] = (),
        dims: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self._temperature = config.temperature
        self._names = [name for each in sequences for name in (each.name, *each.along)]
        dim = config.embedding_dim
        used = dims or [dim] * num_tables
        # Positions in embedded, and how many columns of each are in use.
        self._item = [(place, used[place]) for place in item]
        self._user = [(place, used[place]) for place in range(num_tables) if place not in item]
        user_width = num_dense + sum(columns for _, columns in self._user) + len(self._names) * dim
        self.user = mlp([user_width, *config.tower_mlp], generator)
        self.item = mlp([sum(columns for _, columns in self._item), *config.tower_mlp], generator)

    def vectors(
        self, dense: torch.Tensor, embedded: torch.Tensor, sequences: Mapping[str, JaggedSequence]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return u and v, float32, shape (b, last of tower_mlp) each; the arguments are those of `forward`."""
        users = [embedded[:, place, :columns] for place, columns in self._user]
        means = [_mean(sequences[name]) for name in self._names]
        u = self.user(torch.cat([dense, *users, *means], dim=1))
        v = self.item(torch.cat([embedded[:, place, :columns] for place, columns in self._item], dim=1))
        return functional.normalize(u.float(), dim=1), functional.normalize(v.float(), dim=1)

    def forward(
        self,
        dense: torch.Tensor,
        embedded: torch.Tensor,
        sequences: Mapping[str, JaggedSequence] = NO_SEQUENCES,
    ) -> torch.Tensor:
        """Return logits, float32, shape (b,).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
            sequences: The sequences by name.
        """
        u, v = self.vectors(dense, embedded, sequences)
        return (u * v).sum(1) / self._temperature

    def batch_loss(self, batch: TrainerBatch) -> torch.Tensor:
        """Return the part of a block in the loss of the job, a scalar."""
        with batch.precision():  # not around the scores: 16 bits are too few for what is divided by so little
            u, v = self.vectors(batch.dense, batch.embedded, batch.sequences)
        assert batch.items is not None
        assert batch.item_counts is not None
        return batch.mean_of_positives(softmax_losses(u, v, batch.items, batch.item_counts, self._temperature))


def softmax_losses(
    u: torch.Tensor, v: torch.Tensor, items: torch.Tensor, counts: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return loss_i of every sample, float32, shape (b,).

    Args:
        u: The vectors of the users, float32, shape (b, width).
        v: The vectors of the items, float32, shape (b, width).
        items: Integers, shape (b,), equal for samples with the same item.
        counts: How often the item of each sample has occurred, int64, shape (b,).
        temperature: What products are divided by.
    """
    scores = u @ v.t() / temperature - counts.float().log()
    hits = (items[:, None] == items).fill_diagonal_(False)
    scores = scores.masked_fill(hits, -torch.inf)
    return scores.logsumexp(1) - scores.diagonal()


def _mean(sequence: JaggedSequence) -> torch.Tensor:
    """Return the mean of the elements of each sample, float32, shape (b, embedding_dim)."""
    lengths = sequence.lengths
    sums = torch.segment_reduce(sequence.embedded, "sum", lengths=lengths, axis=0, unsafe=True)
    return sums / lengths.clamp(min=1)[:, None]
