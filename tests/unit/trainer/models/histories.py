"""Histories for tests of sequence models."""

from __future__ import annotations

import numpy as np
import torch

from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence

DIM, NUM_DENSE, NUM_TABLES = 4, 2, 4
SEQUENCES = (SequenceInput("clicked", 1, ("action", "place")), SequenceInput("bought", 3, ()))


def sequence(lengths: list[int], seed: int) -> JaggedSequence:
    """Return random rows of histories of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *np.cumsum(lengths).tolist()])
    rows = torch.randn(int(offsets[-1]), DIM, generator=generator)
    return JaggedSequence(rows, offsets, np.array(lengths, np.int64))


def inputs(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, dict[str, JaggedSequence]]:
    """Return random inputs of a model that reads SEQUENCES."""
    generator, num_samples = torch.Generator().manual_seed(1), len(lengths)
    dense = torch.randn(num_samples, NUM_DENSE, generator=generator)
    embedded = torch.randn(num_samples, NUM_TABLES, DIM, generator=generator)
    found = {name: sequence(lengths, seed) for seed, name in enumerate(("clicked", "action", "place"))}
    return dense, embedded, found | {"bought": sequence(lengths[::-1], 7)}


def elements_of(sample: int, name: str, along: tuple[str, ...], sequences: dict[str, JaggedSequence]) -> torch.Tensor:
    """Return the rows of the elements of a sample with those of their companions added, (n, DIM)."""
    start, stop = sequences[name].offsets[sample : sample + 2].tolist()
    return sum((sequences[each].embedded[start:stop] for each in (name, *along)), torch.zeros(stop - start, DIM))
