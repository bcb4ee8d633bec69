"""The tokens of attention over histories. Only attention itself works on padded samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence

_SHORT = 8, 16  # limits of the groups of short samples; from there on, an octave has four groups

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "TokenGroup"], torch.Tensor]
"""Maps queries (k, heads, c, d), keys and values (k, heads, n, d) of a group to (k, heads, c, d)."""


@dataclass(frozen=True)
class TokenGroup:
    """Neighbouring samples of similar length.

    Args:
        lengths: The number of tokens of each sample, int64, shape (k,).
        max_length: n, the largest of them.
        samples: The samples.
        tokens: Their tokens.
        places: Of each token in k rows of n places, int64, shape (number of tokens,); None: there is no padding.
    """

    lengths: torch.Tensor
    max_length: int
    samples: slice
    tokens: slice
    places: torch.Tensor | None

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of the tokens of the group, filled up with zeros at the end of each sample.

        Args:
            values: Of all tokens of the group, of any dtype, shape (number of tokens, ...).
        Returns:
            Shape (k, n, ...).
        """
        shape = len(self.lengths), self.max_length, *values.shape[1:]
        if self.places is None:
            return values.reshape(shape)
        room = values.new_zeros(shape[0] * shape[1], *shape[2:])
        return room.index_copy(0, self.places, values).view(shape)

    def unpadded(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values of the tokens, shape (number of tokens, ...), from padded ones, shape (k, n, ...)."""
        flat = values.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    @cached_property
    def mask(self) -> torch.Tensor | None:
        """Which places hold tokens, bool, shape (k, n); None: all do."""
        if self.places is None:
            return None
        return torch.arange(self.max_length, device=self.lengths.device) < self.lengths[:, None]


class Tokens:
    """The tokens of a batch: the elements of each history, and one token of its own before or behind them.

    Tokens stand sample by sample, and samples in the order of their lengths. Attention takes groups of samples of
    similar length. In a group of samples with more than 16 tokens, less than a quarter of the longest one is padding.

    Args:
        history: The history.
        own_first: Whether the token of its own is the first one of a sample; otherwise it is the last one.
    """

    def __init__(self, history: JaggedSequence, *, own_first: bool) -> None:
        on_host, device = np.sort(history.lengths_on_host + 1), history.offsets.device
        self._samples = torch.argsort(history.lengths, stable=True)
        self._back = torch.argsort(self._samples)
        self.lengths = history.lengths.index_select(0, self._samples) + 1
        ends = self.lengths.cumsum(0)
        self.first, self.last = ends - self.lengths, ends - 1
        samples = torch.repeat_interleave(
            torch.arange(len(on_host), device=device), self.lengths, output_size=int(on_host.sum())
        )
        self._positions = torch.arange(len(samples), device=device) - self.first.index_select(0, samples)
        # Where each token stands in the tokens of their own, followed by the elements.
        before = len(on_host) + history.offsets[:-1].index_select(0, self._samples) - (1 if own_first else 0)
        self._sources = before.index_select(0, samples) + self._positions
        self._sources[self.first if own_first else self.last] = self._samples
        self.groups = tuple(self._groups_of(on_host))

    def arranged(self, own: torch.Tensor, elements: torch.Tensor) -> torch.Tensor:
        """Return values of all tokens, shape (number of tokens, ...).

        Args:
            own: Of the token of its own of each sample, in the order of the batch, shape (b, ...).
            elements: Of the elements of the history, shape (number of elements, ...).
        """
        return torch.cat([own, elements]).index_select(0, self._sources)

    def of_batch(self, values: torch.Tensor) -> torch.Tensor:
        """Return values of the samples in the order of the batch. They are given in the order of the tokens."""
        return values.index_select(0, self._back)

    def attend(
        self, query: torch.Tensor, key_value: torch.Tensor, num_heads: int, attention: Attention, *, is_single: bool
    ) -> torch.Tensor:
        """Let tokens attend to the tokens of their samples.

        Args:
            query: Of each token or, if is_single, of one token of each sample, shape (m, dim).
            key_value: Keys, then values, of each token, shape (number of tokens, 2 * dim).
            num_heads: The number of heads.
            attention: Of the padded samples of a group. What it returns where there is padding does not count.
            is_single: Whether one token of each sample attends.
        Returns:
            Shape (m, dim).
        """
        outputs = [query[:0]]
        for group in self.groups:
            keys, values = group.padded(key_value[group.tokens]).unflatten(2, (2, num_heads, -1)).unbind(2)
            queries = query[group.samples].unsqueeze(1) if is_single else group.padded(query[group.tokens])
            queries = queries.unflatten(2, (num_heads, -1))
            mixed = attention(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), group)
            mixed = mixed.transpose(1, 2).flatten(2)
            outputs.append(mixed.squeeze(1) if is_single else group.unpadded(mixed))
        return torch.cat(outputs)

    def _groups_of(self, lengths: NDArray[np.int64]) -> list[TokenGroup]:
        """Cut the samples, whose lengths rise, into groups."""
        groups, token = [], 0
        bounds = [*np.flatnonzero(np.diff(_limits(lengths), prepend=0)).tolist(), len(lengths)]
        for begin, end in pairwise(bounds):
            num_tokens, longest = int(lengths[begin:end].sum()), int(lengths[end - 1])
            tokens = slice(token, token + num_tokens)
            places = None
            if num_tokens < (end - begin) * longest:
                rows = torch.arange(end - begin, device=self.lengths.device)
                rows = torch.repeat_interleave(rows, self.lengths[begin:end], output_size=num_tokens)
                places = rows * longest + self._positions[tokens]
            groups.append(TokenGroup(self.lengths[begin:end], longest, slice(begin, end), tokens, places))
            token += num_tokens
        return groups


def _limits(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest length of the group of each sample."""
    shortest, short = _SHORT
    steps = 2 ** np.maximum(np.ceil(np.log2(lengths)) - 3, 0).astype(np.int64)  # an eighth of the next power of two
    limits = -(-lengths // steps) * steps
    return np.where(lengths <= shortest, shortest, np.where(lengths <= short, short, limits))
