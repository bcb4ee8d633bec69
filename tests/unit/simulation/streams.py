"""Small streams for the tests of simulations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from bagpipe_hpc.protocol.plan import ends
from bagpipe_hpc.sharding import KeySpace, share_boundaries
from bagpipe_hpc.simulation.stream import KeyStream, stream_of

Samples = list[list[int]]  # the keys of each sample


def stream_from(samples: Sequence[Sequence[int]], num_embeddings: tuple[int, ...] = (1000,)) -> KeyStream:
    """The stream of some samples. Keys are numbered anew, so tests that name keys use 0, 1, 2, ... without gaps."""
    keys = np.array([key for sample in samples for key in sample], dtype=np.int64)
    return stream_of(keys, ends(np.array([len(sample) for sample in samples])), KeySpace(num_embeddings))


def shares(samples: Samples, batch_size: int, num_trainers: int) -> list[list[set[int]]]:
    """The unique keys of each batch and trainer."""
    batches = [samples[first : first + batch_size] for first in range(0, len(samples), batch_size)]
    found = []
    for batch in batches:
        bounds = share_boundaries(len(batch), num_trainers)
        parts = [batch[bounds[t] : bounds[t + 1]] for t in range(num_trainers)]
        found.append([{key for sample in part for key in sample} for part in parts])
    return found


def numbered(samples: Samples) -> Samples:
    """The same samples, with keys numbered anew as the stream does."""
    number = {key: place for place, key in enumerate(sorted({key for sample in samples for key in sample}))}
    return [[number[key] for key in sample] for sample in samples]


def zipf(num_references: int, num_keys: int, skew: float, seed: int) -> KeyStream:
    """Independent references: one key per sample."""
    weights = np.arange(1, num_keys + 1) ** -skew
    keys = np.random.default_rng(seed).choice(num_keys, num_references, p=weights / weights.sum())
    return stream_of(keys.astype(np.int64), np.arange(num_references + 1), KeySpace((num_keys,)))


samples_of_few_keys = st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), min_size=2, max_size=12).map(
    numbered
)
