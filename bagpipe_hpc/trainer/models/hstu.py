"""Hierarchical Sequential Transduction Units, HSTU (Zhai et al. 2024, arXiv 2402.17152)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
from bagpipe_hpc.trainer.models.histories import with_companions
from bagpipe_hpc.trainer.models.layers import initialised, mlp

TIME_BUCKETS = 64  # of the logarithm of a time difference to base 2


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

    def forward(self, x: torch.Tensor, mask: torch.Tensor, times: torch.Tensor | None) -> torch.Tensor:
        """Return y, float32, shape (k, n, dim).

        Args:
            x: float32, shape (k, n, dim).
            mask: Which places have elements, bool, shape (k, n).
            times: int64, shape (k, n), never falling; None: elements have no times.
        """
        gate, value, query, key = functional.silu(self.inputs(self.first_norm(x))).chunk(4, 2)
        value, query, key = (each.unflatten(2, (self._num_heads, -1)).transpose(1, 2) for each in (value, query, key))
        places = torch.arange(x.shape[1], device=x.device)
        distance = places[:, None] - places
        bias = functional.embedding(distance.clamp(0, self._num_positions - 1), self.position_bias[:, None])[..., 0]
        if self.time_bias is not None and times is not None:
            passed = (times[:, :, None] - times[:, None, :]).clamp(min=0).double()
            buckets = (passed + 1).log2().floor().long().clamp(max=TIME_BUCKETS - 1)
            bias = bias + functional.embedding(buckets, self.time_bias[:, None])[..., 0].unsqueeze(1)
        allowed = (distance >= 0) & mask[:, None, None, :]
        weights = functional.silu(query @ key.transpose(2, 3) + bias) * allowed / self._num_positions
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        y: torch.Tensor = x + self.output(self.second_norm(mixed) * gate)
        return y


class HSTU(nn.Module):
    """Layers of HSTU over a history and the candidate, and an MLP over their output and all other features.

    logit = top([dense, embeddings, h_1, h_2, ...]) with one h for each history: the output of attention_blocks layers
    over [e_1, ..., e_n, t] at t, the candidate: the first one-hot feature that uses the table of the history. e_i is
    the sum of the rows of the element and of its companions. If elements have an integer value of the name
    model.time_element, it is their time, and the candidate has that of the newest element.

    Samples are computed in groups of similar length, so padding is less than half of what is computed.

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
        self._sequences, self._time = tuple(sequences), config.time_element
        self.histories = nn.ModuleList(
            nn.ModuleList(
                HSTULayer(config, self._time in each.integers, generator) for _ in range(config.attention_blocks)
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
        history, target = sequences[each.name], embedded[:, each.target]
        elements = with_companions(each, sequences)
        all_times = history.elements.get(self._time)
        output = torch.zeros_like(target)
        for group in history.groups():
            places, samples = group.places, group.samples
            rows = functional.embedding(places, elements) * group.mask.unsqueeze(2)
            x = torch.cat([rows, target.index_select(0, samples).unsqueeze(1)], dim=1)
            mask = functional.pad(group.mask, (0, 1), value=True)
            times = None
            if all_times is not None:
                of_elements = all_times[places]
                newest = of_elements[:, -1:] if places.shape[1] else places.new_zeros(len(places), 1)
                times = torch.cat([of_elements, newest], dim=1)
            for layer in layers:  # type: ignore[attr-defined]
                x = layer(x, mask, times)
            output = output.index_copy(0, samples, x[:, -1])
        return output
