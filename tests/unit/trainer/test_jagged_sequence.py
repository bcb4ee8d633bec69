"""Sequences of different lengths as models see them."""

from __future__ import annotations

import numpy as np
import torch

from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence

SEQUENCE = JaggedSequence(
    torch.arange(10.0).view(5, 2),
    torch.tensor([0, 2, 2, 5]),
    np.array([2, 0, 3]),
    {"time": torch.tensor([7, 8, 1, 2, 3])},
)


def test_where_elements_belong() -> None:
    assert SEQUENCE.lengths.tolist() == [2, 0, 3]
    assert SEQUENCE.samples.tolist() == [0, 0, 2, 2, 2]
    assert SEQUENCE.ages.tolist() == [1, 0, 2, 1, 0]


def test_padded() -> None:
    assert SEQUENCE.padded(SEQUENCE.elements["time"]).tolist() == [[7, 8, 0], [0, 0, 0], [1, 2, 3]]
    assert SEQUENCE.padded(SEQUENCE.embedded)[2].tolist() == [[4, 5], [6, 7], [8, 9]]
    assert SEQUENCE.mask.tolist() == [[True, True, False], [False, False, False], [True, True, True]]


def test_gradients_go_back_through_padding() -> None:
    embedded = SEQUENCE.embedded.clone().requires_grad_()
    sequence = JaggedSequence(embedded, SEQUENCE.offsets, SEQUENCE.lengths_on_host)
    (sequence.padded(sequence.embedded) * torch.tensor([1.0, 2.0, 4.0])[:, None]).sum().backward()
    assert embedded.grad is not None
    assert embedded.grad[:, 0].tolist() == [1, 2, 1, 2, 4]


def test_no_elements() -> None:
    empty = JaggedSequence(torch.empty(0, 2), torch.tensor([0, 0]), np.array([0]))
    assert empty.padded(empty.embedded).shape == (1, 0, 2)
    assert empty.mask.shape == (1, 0)
    assert empty.samples.tolist() == empty.ages.tolist() == []
