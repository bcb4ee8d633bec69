"""The replicated cache of BagPipe's published code: every trainer keeps every cached row.

A row is cached from its first use until no use follows within the lookahead window. Every trainer fetches it, all
trainers update it, and their gradients are all-reduced. Gradients of rows that the next batch uses are critical, the
others travel while trainers compute. Trainers share the write-backs of rows that leave. A row that one trainer uses
once, with no use before or after it in the window, is fetched and written back by that trainer alone.

The published code removes rows from the cache every L / 4 iterations; here a row leaves after its last use. The cache
is as large as it needs to be: the published code hangs if it is full.

Source: Agarwal et al., SOSP 2023, section 3; github.com/uw-mad-dash/bagpipe.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.protocol.plan import Float64Array, Int32Array, Int64Array
from bagpipe_hpc.simulation.accesses import NEVER, Accesses
from bagpipe_hpc.simulation.traffic import ID_BYTES, Flow, Traffic, allreduce_rounds, everywhere, ring_bytes

Chosen = NDArray[np.bool_]


class _Uses(NamedTuple):
    """What an entry is to the cache; all bool, shape (num_entries,)."""

    enters: Chosen  # no use before it within the window
    leaves: Chosen  # no use after it within the window
    is_next: Chosen  # the next batch uses it
    is_lonely: Chosen  # one trainer uses it once


def play_replicated(accesses: Accesses, window: int, num_servers: int, row_bytes: int) -> Traffic:
    """Return what the design moves.

    Args:
        accesses: The stream.
        window: L.
        num_servers: S; key k is on server k mod S.
        row_bytes: Bytes of a row.
    """
    num_trainers, num_iterations = accesses.num_trainers, accesses.num_iterations
    num_users, last_users = accesses.users()
    uses = _uses(accesses, window, num_users == 1)
    iterations = accesses.iterations

    def per_iteration(chosen: Chosen) -> Int64Array:
        return np.bincount(iterations[chosen], minlength=num_iterations)

    def per_trainer(chosen: Chosen, trainers: Int32Array) -> Float64Array:
        places = iterations[chosen].astype(np.int64) * num_trainers + trainers[chosen]
        counts = np.bincount(places, minlength=num_iterations * num_trainers)
        return counts.reshape(num_iterations, num_trainers).astype(np.float64)

    lonely = per_trainer(uses.is_lonely, last_users)
    shared_in = per_iteration(uses.enters & ~uses.is_lonely)
    fetched = lonely + shared_in[:, None]
    written = lonely + per_trainer(uses.leaves & ~uses.is_lonely, accesses.entries % num_trainers)
    critical_rows = per_iteration(~uses.is_lonely & uses.is_next)
    late_rows = per_iteration(~uses.is_lonely & ~uses.is_next)
    moving = Flow(row_bytes * fetched, ID_BYTES * fetched + (row_bytes + ID_BYTES) * written)
    summed_late = everywhere(ring_bytes(late_rows, row_bytes, num_trainers), num_trainers)
    left = per_iteration(uses.leaves & ~uses.is_lonely)
    held = np.cumsum(shared_in) - np.cumsum(left) + left  # while the rows of the iteration are there
    return Traffic(
        design="replicated",
        num_pairs=len(accesses.pairs),
        num_local=int(num_users[~uses.enters].sum()),
        rows_fetched=int(fetched.sum()),
        rows_written=int(written.sum()),
        rows_exchanged=2 * (num_trainers - 1) * int((critical_rows + late_rows).sum()),
        critical=everywhere(ring_bytes(critical_rows, row_bytes, num_trainers), num_trainers),
        late=moving + summed_late,
        server_bytes=row_bytes * np.maximum(fetched, written).sum(axis=1) / num_servers,
        servers_are_critical=False,
        rounds=allreduce_rounds(num_trainers),
        cache_rows=int((held + lonely.max(axis=1)).max()),
    )


def _uses(accesses: Accesses, window: int, has_one_user: Chosen) -> _Uses:
    following, iterations = accesses.next_entries(), accesses.iterations
    has_next = following != NEVER
    distances = np.where(has_next, iterations[following] - iterations, 0)
    stays = has_next & (distances <= window)
    enters = np.ones(len(following), dtype=np.bool_)
    enters[following[stays]] = False
    return _Uses(enters, ~stays, stays & (distances == 1), enters & ~stays & has_one_user)
