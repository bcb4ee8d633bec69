"""Unique rows of batches and shares, compared with sets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.simulation.accesses import NEVER, accesses_of

from .streams import Samples, samples_of_few_keys, shares, stream_from


@given(samples_of_few_keys, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_entries_pairs_and_their_uses(samples: Samples, batch_size: int, num_trainers: int, num_owners: int) -> None:
    accesses = accesses_of(stream_from(samples), batch_size, num_trainers)
    expected = shares(samples, batch_size, num_trainers)
    assert accesses.num_iterations == len(expected)
    assert accesses.num_samples.sum() == len(samples)
    assert len(accesses.share_ends) == len(accesses.pair_ends)
    entries, num_users, last_users = [], [], []
    for i, parts in enumerate(expected):
        own = accesses.entries[accesses.entry_ends[i] : accesses.entry_ends[i + 1]].tolist()
        assert sorted(own) == sorted(set().union(*parts))
        entries += own
        num_users += [sum(key in part for part in parts) for key in own]
        last_users += [max(t for t, part in enumerate(parts) if key in part) for key in own]
        for t, part in enumerate(parts):
            share = i * num_trainers + t
            pairs = accesses.pairs[accesses.pair_ends[share] : accesses.pair_ends[share + 1]].tolist()
            assert sorted(pairs) == sorted(part)
            assert accesses.pair_counts[i, t] == len(part)
        keys = [key for part in parts for key in part]
        owners = [sum(key % num_owners == owner for key in keys) for owner in range(num_owners)]
        assert accesses.busiest_owner(num_owners)[i] == max(owners)
        without_key_0 = np.arange(accesses.num_keys) > 0
        owners[0] -= keys.count(0)
        assert accesses.busiest_owner(num_owners, without_key_0)[i] == max(owners)
    assert [each.tolist() for each in accesses.users()] == [num_users, last_users]
    following = [
        next((n for n in range(e + 1, len(entries)) if entries[n] == key), NEVER) for e, key in enumerate(entries)
    ]
    assert accesses.next_entries().tolist() == following
