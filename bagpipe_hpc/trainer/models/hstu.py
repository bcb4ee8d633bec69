"""Hierarchical Sequential Transduction Units, HSTU (Zhai et al. 2024, arXiv 2402.17152)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models.histories import with_companions
from bagpipe_hpc.trainer.models.layers import initialised, mlp
from bagpipe_hpc.trainer.models.pieces import causal, in_pieces
from bagpipe_hpc.trainer.models.relative_bias import TIME_BUCKETS, along_diagonals, time_bias
from bagpipe_hpc.trainer.models.tokens import TokenGroup, Tokens


class HSTULayer(nn.Module):
    """One layer: pointwise attention with relative bias, gated.

    [U, V, Q, K] = silu(W_1 norm(x)), A_ij = silu(<Q_i, K_j> + p_(i - j) + t_b(i, j)) / positions for j <= i,
    y = x + W_2 (norm(A V) * U), for each head. p is the bias of a difference of positions, the last of which stands for
    all larger ones, and t that of a time difference d with b = floor(log2(d + 1)). A is not normalised by its sum.

    Parameters: 4 dim (dim + 1) + dim (dim + 1) + 4 dim + positions + TIME_BUCKETS if there are times.

    Args:
        config: The sizes of the model.
        has_times: Whether elements have times.
        generator: Source of the initial parameters.
    """

    def __init__(self, config: ModelConfig, has_times: bool, generator: torch.Generator) -> None:
        super().__init__()
        dim = config.embedding_dim
        self._num_heads, self._num_positions = config.attention_heads, config.positions
        self.first_norm, self.second_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.inputs = initialised(nn.Linear(dim, 4 * dim), generator)
        self.output = initialised(nn.Linear(dim, dim), generator)
        self.position_bias = nn.Parameter(torch.randn(config.positions, generator=generator) / 50)
        self.time_bias = nn.Parameter(torch.randn(TIME_BUCKETS, generator=generator) / 50) if has_times else None

    def forward(
        self, x: torch.Tensor, tokens: Tokens, times: torch.Tensor | None, *, is_last: bool = False
    ) -> torch.Tensor:
        """Return y of all tokens or, if is_last, of the last token of each sample, float32, shape (m, dim).

        Args:
            x: float32, shape (number of tokens, dim).
            tokens: Which token belongs to which sample.
            times: Of each token, int64, shape (number of tokens,), never falling within a sample; None: elements have
                no times.
            is_last: Whether only the last token of each sample attends.
        """
        x_norm, (weight, bias) = self.first_norm(x), (self.inputs.weight, self.inputs.bias)
        # Rows of the weights: gate, value, query, key.
        gate_weight, value_weight, query_weight, key_weight = weight.chunk(4)
        gate_bias, value_bias, query_bias, key_bias = bias.chunk(4)
        key_value = functional.linear(x_norm, torch.cat([key_weight, value_weight]), torch.cat([key_bias, value_bias]))
        if is_last:
            x, x_norm = x.index_select(0, tokens.last), x_norm.index_select(0, tokens.last)
        gate_query = functional.linear(
            x_norm, torch.cat([gate_weight, query_weight]), torch.cat([gate_bias, query_bias])
        )
        gate, query = functional.silu(gate_query).chunk(2, 1)
        attention = self._last_attention if is_last else self._attention
        mixed = tokens.attend(
            query, functional.silu(key_value), self._num_heads, partial(attention, times=times), is_single=is_last
        )
        y: torch.Tensor = x + self.output(self.second_norm(mixed) * gate)
        return y

    def _attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: TokenGroup, times: torch.Tensor | None
    ) -> torch.Tensor:
        """Return A V of all tokens of a group; see tokens.Attention."""
        padded = None if self.time_bias is None or times is None else _ordered_times(group, times)

        def piece(
            first: int, part: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *biases: torch.Tensor
        ) -> torch.Tensor:
            num_keys = first + part.shape[2]
            distances = torch.arange(num_keys - 1, -part.shape[2], -1, device=part.device)
            bias = along_diagonals(self._bias_of(distances, biases[0]), part.shape[2], num_keys)
            if padded is not None:
                bias = bias + time_bias(biases[1], padded[:, first:num_keys], padded[:, :num_keys]).unsqueeze(1)
            weights = functional.silu(part @ key[:, :, :num_keys].transpose(2, 3) + bias)
            # Padding comes last, so a token does not attend to it.
            weights = weights * causal(part.shape[2], num_keys, part.device)
            return weights @ value[:, :, :num_keys] / self._num_positions

        biases = [self.position_bias] if self.time_bias is None else [self.position_bias, self.time_bias]
        return in_pieces(piece, key.shape[2], query, key, value, *biases)

    def _last_attention(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: TokenGroup, times: torch.Tensor | None
    ) -> torch.Tensor:
        """Return A V of the last token of each sample of a group; see tokens.Attention."""
        places = torch.arange(group.max_length, device=query.device)
        bias = self._bias_of(group.lengths[:, None] - 1 - places, self.position_bias).unsqueeze(1)  # (k, 1, n)
        if self.time_bias is not None and times is not None:
            padded = _ordered_times(group, times)
            bias = bias + time_bias(self.time_bias, padded[:, -1:], padded)
        weights = functional.silu(query @ key.transpose(2, 3) + bias.unsqueeze(1))
        if group.mask is not None:
            weights = weights * group.mask[:, None, None, :]
        return weights @ value / self._num_positions

    def _bias_of(self, distances: torch.Tensor, position_bias: torch.Tensor) -> torch.Tensor:
        """Return p of some differences of positions. Negative ones are taken for 0."""
        return functional.embedding(distances.clamp(0, self._num_positions - 1), position_bias[:, None])[..., 0]


def _ordered_times(group: TokenGroup, times: torch.Tensor) -> torch.Tensor:
    """Return the times of the tokens of a group, padded with that of the last token, int64, shape (k, n)."""
    return group.padded(times[group.tokens]).cummax(1).values


class HSTU(nn.Module):
    """Layers of HSTU over a history and the candidate, and an MLP over their output and all other features.

    logit = top([dense, embeddings, h_1, h_2, ...]) with one h for each history: the output of attention_blocks layers
    over [e_1, ..., e_n, t] at t, the candidate: the first one-hot feature that uses the table of the history. e_i is
    the sum of the rows of the element and of its companions. If elements have a time (model.time_element), the
    candidate has that of the newest element.

    Only attention has padding (tokens.py). The last layer computes the candidate only, so with one layer, work grows in
    proportion to the length of a history, and with more layers as the square of it. Memory never grows as the square.

    Parameters: for each history attention_blocks layers (HSTULayer), and mlp(num_dense + (num_tables + number of
    histories) dim, *top_mlp, num_labels).

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
        self._sequences = tuple(sequences)
        self._times = {each.name: each.time_element(config.time_element) for each in sequences}
        self.histories = nn.ModuleList(
            nn.ModuleList(
                HSTULayer(config, self._times[each.name] is not None, generator) for _ in range(config.attention_blocks)
            )
            for each in sequences
        )
        num_inputs = num_dense + (num_tables + len(sequences)) * config.embedding_dim
        self.top = mlp([num_inputs, *config.top_mlp, num_labels], generator)

    def forward(
        self, dense: torch.Tensor, embedded: torch.Tensor, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, embedding_dim).
            sequences: The sequences by name.
        """
        outputs = [
            self._history(layers, embedded, each, sequences)
            for layers, each in zip(self.histories, self._sequences, strict=True)
        ]
        logits: torch.Tensor = self.top(torch.cat([dense, embedded.flatten(1), *outputs], dim=1)).squeeze(1)
        return logits

    def _history(
        self, layers: nn.Module, embedded: torch.Tensor, each: SequenceInput, sequences: Mapping[str, JaggedSequence]
    ) -> torch.Tensor:
        """Return h, float32, shape (b, embedding_dim)."""
        assert each.target is not None
        history, tokens = sequences[each.name], Tokens(sequences[each.name], own_first=False)
        x = tokens.arranged(embedded[:, each.target], with_companions(each, sequences))
        name = self._times[each.name]
        times = None if name is None else history.elements[name]
        if times is not None:
            # The candidate has the time of the newest element; the zero in front is for empty histories.
            newest = history.offsets[1:].masked_fill(history.lengths == 0, 0)
            times = tokens.arranged(functional.pad(times, (1, 0)).index_select(0, newest), times)
        *earlier, last = cast(nn.ModuleList, layers)
        for layer in earlier:
            x = layer(x, tokens, times)
        return tokens.of_batch(last(x, tokens, times, is_last=True))
