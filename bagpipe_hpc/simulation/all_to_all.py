"""Tables sharded over the trainers, and no cache, as in Neo (Mudigere et al., ISCA 2022) and TorchRec.

Key k is on trainer k mod T (row-wise sharding). Trainers send ids to the owners, which may happen early; owners send
one vector for each id, and trainers send one gradient for each vector. With `unique`, trainers send each id once per
batch and get one vector for it, as in TorchRec with deduplication. Ids of bags are not pooled at their owners: each id
counts.
"""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
from bagpipe_hpc.simulation.accesses import Accesses
from bagpipe_hpc.simulation.stream import KeyStream
from bagpipe_hpc.simulation.traffic import ID_BYTES, Flow, Traffic


def play_all_to_all(stream: KeyStream, accesses: Accesses, row_bytes: int, *, unique: bool) -> Traffic:
    """Return what the design moves.

    Args:
        stream: The stream.
        accesses: Its accesses.
        row_bytes: Bytes of a vector.
        unique: Whether a trainer asks for each row once per batch, and not once per id.
    """
    own, served = _own_and_served(accesses.pairs, accesses.pair_ends, accesses.num_trainers)
    counts, num_local = accesses.pair_counts, int(own.sum())
    if not unique:
        id_ends = stream.sample_ends[accesses.share_ends]
        own, served = _own_and_served(stream.keys, id_ends, accesses.num_trainers)
        counts = np.diff(id_ends).reshape(own.shape)
    asked = (counts - own).astype(float)
    given = (served - own).astype(float)
    vectors = row_bytes * (asked + given)  # a trainer gets vectors and gives gradients, and the other way round
    return Traffic(
        design="all-to-all-unique" if unique else "all-to-all",
        num_pairs=len(accesses.pairs),
        num_local=num_local,
        rows_fetched=0,
        rows_written=0,
        rows_exchanged=2 * int(asked.sum()),
        critical=Flow(vectors, vectors),
        late=Flow(ID_BYTES * given, ID_BYTES * asked),
        server_bytes=np.zeros(accesses.num_iterations),
        servers_are_critical=False,
        rounds=2 if accesses.num_trainers > 1 else 0,
    )


def _own_and_served(keys: Int32Array, part_ends: Int64Array, num_trainers: int) -> tuple[Int64Array, Int64Array]:
    """Return how many keys each trainer has itself, and for how many it is asked, itself included.

    Returns:
        Both int64, shape (num_iterations, T).
    """
    shape = (len(part_ends) - 1) // num_trainers, num_trainers
    own, served = np.zeros((2, *shape), dtype=np.int64)
    _count(keys, part_ends, own, served)
    return own, served


@compiled
def _count(keys: Int32Array, part_ends: Int64Array, own: Int64Array, served: Int64Array) -> None:
    num_iterations, num_trainers = own.shape
    for i in range(num_iterations):
        for t in range(num_trainers):
            part = i * num_trainers + t
            for place in range(part_ends[part], part_ends[part + 1]):
                owner = keys[place] % num_trainers
                served[i, owner] += 1
                own[i, t] += owner == t
