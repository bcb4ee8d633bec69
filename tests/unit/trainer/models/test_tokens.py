"""The tokens of attention against loops over samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagpipe_hpc.trainer.models.tokens import TokenGroup, Tokens
from tests.unit.trainer.models.histories import sequence

MANY = [*range(40), 100, 3, 0, 127, 101, 1000, 1023]


@pytest.mark.parametrize("own_first", [True, False])
@pytest.mark.parametrize("lengths", [[2, 0, 5, 1], [0, 0], [3], [], MANY])
def test_tokens_are_elements_and_one_of_their_own(lengths: list[int], own_first: bool) -> None:
    tokens = Tokens(sequence(lengths, 0), own_first=own_first)
    elements, own = torch.arange(sum(lengths)), -1 - torch.arange(len(lengths))
    found = tokens.arranged(own, elements).split((np.sort(lengths, kind="stable") + 1).tolist())
    ends = np.cumsum(lengths).tolist()
    for place, sample in enumerate(np.argsort(lengths, kind="stable").tolist()):
        history = elements[ends[sample] - lengths[sample] : ends[sample]].tolist()
        expected = [-1 - sample, *history] if own_first else [*history, -1 - sample]
        assert found[place].tolist() == expected
    in_order = tokens.arranged(own, elements)
    assert tokens.of_batch(in_order[tokens.first if own_first else tokens.last]).tolist() == own.tolist()
    assert (tokens.last - tokens.first + 1).equal(tokens.lengths)


def test_groups_have_samples_of_similar_length() -> None:
    tokens = Tokens(sequence(MANY, 0), own_first=True)
    values = torch.arange(int(tokens.lengths.sum()))
    assert torch.cat([values[group.tokens] for group in tokens.groups]).equal(values)
    for group in tokens.groups:
        padded = group.padded(values[group.tokens])
        assert padded.shape == (len(group.lengths), group.max_length)
        assert int(group.lengths.max()) == group.max_length
        assert group.max_length <= 16 or 4 * (group.max_length - int(group.lengths.min())) < group.max_length
        assert group.unpadded(padded).equal(values[group.tokens])
        for row, length, first in zip(
            padded, group.lengths.tolist(), tokens.first[group.samples].tolist(), strict=True
        ):
            assert row.tolist() == [*range(first, first + length), *[0] * (group.max_length - length)]
        assert (group.mask is None) == bool((group.lengths == group.max_length).all())
    assert len(tokens.groups) < 18


@pytest.mark.parametrize("is_single", [True, False])
def test_attention_stays_within_samples(is_single: bool) -> None:
    tokens = Tokens(sequence([2, 0, 5, 1, 30, 31], 0), own_first=True)
    num_tokens, num_heads, width = int(tokens.lengths.sum()), 2, 3
    query = torch.randn(6 if is_single else num_tokens, num_heads * width)
    key_value = torch.randn(num_tokens, 2 * num_heads * width)

    def mean(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: TokenGroup) -> torch.Tensor:
        assert key.shape == value.shape == (len(group.lengths), num_heads, group.max_length, width)
        return query * key.sum(2, keepdim=True) + value.sum(2, keepdim=True)

    found = tokens.attend(query, key_value, num_heads, mean, is_single=is_single)
    for sample, (first, length) in enumerate(zip(tokens.first.tolist(), tokens.lengths.tolist(), strict=True)):
        keys, values = key_value[first : first + length].sum(0).split(num_heads * width)
        own = slice(sample, sample + 1) if is_single else slice(first, first + length)
        torch.testing.assert_close(found[own], query[own] * keys + values)
