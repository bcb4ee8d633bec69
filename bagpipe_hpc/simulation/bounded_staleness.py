"""A client cache with bounded staleness per row, after HET (Miao et al., VLDB 2022).

Each trainer has a cache of its own. A row has a clock at its server: the number of updates that have reached it there.
A cached row knows the server's clock at its fetch, and the own updates that it holds back. When a trainer reads a row,
it asks the server for its clock, and takes the cached row if

    its own updates since the fetch                       <= s    (staleness of writes)
    the updates of others that the server has since then  <= s    (staleness of reads)

Otherwise it sends its updates, as one gradient, and fetches the row. A trainer that holds back more than s updates
sends them at once, and fetches the row when it reads it again. A row that is evicted sends its updates, too. With s =
0, every read fetches and every update is sent, as without a cache, and no row is stale.

Trainers read a batch one after the other, then all of them update: the dense allreduce keeps them in step. If the cache
is so small that a row is evicted within its own batch, its update is sent at once.

HET's text has the second condition as c_g <= c_c + s, where the cached clock c_c counts own updates. Here own updates
do not excuse updates of others, so the bound holds as it reads. HET's published code adds the updates that a push holds
to the clock of the server, as here; it keeps a row that it has pushed, without fetching it again.

Source: the paper, section 3; github.com/Hsword/Hetu, `hetu_cache`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
from bagpipe_hpc.simulation.accesses import NEVER, Accesses
from bagpipe_hpc.simulation.traffic import ID_BYTES, Flow, Staleness, Traffic

LIGHT_LFU_LISTS = 64  # rows that are used more often are not told apart
ABSENT = -1  # the list of a row that is not in its cache
EXPIRED = -(2**30)  # the clock of a cached row that the next read must fetch
_MISSING, _LARGEST_MISSING, _PENDING, _LARGEST_PENDING, _PUSHES, _LARGEST_LAG, _LOCAL, _FULLEST = range(8)


class _Caches(NamedTuple):
    """The caches of all trainers. A cell is a trainer and a key that it uses at some time.

    Args:
        clocks: The server's clock at the fetch of each cell, int32, shape (num_cells,).
        pending: Own updates of each cell that the server has not, int32, shape (num_cells,).
        lists: The list that each cell is in: how often it was used, at most num_lists - 1; ABSENT. int32.
        older, newer: Neighbours of each cell in its list, int32, shape (num_cells,).
        newest, oldest: Ends of each list, int32, shape (T, num_lists).
        num_rows: int64, shape (T,).
    """

    clocks: Int32Array
    pending: Int32Array
    lists: Int32Array
    older: Int32Array
    newer: Int32Array
    newest: Int32Array
    oldest: Int32Array
    num_rows: Int64Array

    @classmethod
    def empty(cls, num_trainers: int, num_cells: int, num_lists: int) -> _Caches:
        """Return caches that hold nothing."""
        clocks, pending = np.zeros((2, num_cells), dtype=np.int32)
        lists, older, newer = np.full((3, num_cells), ABSENT, dtype=np.int32)
        newest, oldest = np.full((2, num_trainers, num_lists), NEVER, dtype=np.int32)
        return cls(clocks, pending, lists, older, newer, newest, oldest, np.zeros(num_trainers, np.int64))


class _Servers(NamedTuple):
    """Of each key, int32, shape (num_keys,): updates that have reached the server, and updates that were made."""

    clocks: Int32Array
    made: Int32Array


class _Counts(NamedTuple):
    """Rows that trainers fetch and push, int64, shape (num_iterations, T); those of servers, shape (num_iterations, S).

    `sums`, int64, has the sums and largest values that the constants above name.
    """

    fetched: Int64Array
    pushed: Int64Array
    server_fetched: Int64Array
    server_pushed: Int64Array
    sums: Int64Array

    @classmethod
    def zero(cls, num_iterations: int, num_trainers: int, num_servers: int) -> _Counts:
        """Return counts of 0."""
        fetched, pushed = np.zeros((2, num_iterations, num_trainers), dtype=np.int64)
        server_fetched, server_pushed = np.zeros((2, num_iterations, num_servers), dtype=np.int64)
        return cls(fetched, pushed, server_fetched, server_pushed, np.zeros(8, np.int64))


def play_bounded_staleness(
    accesses: Accesses, *, staleness: int, cache_rows: int, num_servers: int, row_bytes: int, lru: bool = False
) -> Traffic:
    """Return what the design moves. What is still held back after the last batch is sent with that batch.

    Args:
        accesses: The stream.
        staleness: s.
        cache_rows: Rows that the cache of each trainer holds.
        num_servers: S; key k is on server k mod S.
        row_bytes: Bytes of a row.
        lru: Evict the least recently used row, and not the least frequently used one.
    """
    num_trainers = accesses.num_trainers
    cells, num_cells = _cells(accesses)
    caches = _Caches.empty(num_trainers, num_cells, 1 if lru else LIGHT_LFU_LISTS)
    servers = _Servers(*np.zeros((2, accesses.num_keys), dtype=np.int32))
    counts = _Counts.zero(accesses.num_iterations, num_trainers, num_servers)
    keys_of_cells = np.empty(num_cells, dtype=np.int32)
    keys_of_cells[cells] = accesses.pairs
    _play(accesses.pairs, accesses.pair_ends, cells, keys_of_cells, staleness, cache_rows, caches, servers, counts)
    return _traffic(accesses, counts, staleness, row_bytes)


def _traffic(accesses: Accesses, counts: _Counts, staleness: int, row_bytes: int) -> Traffic:
    sums, num_pairs = counts.sums, len(accesses.pairs)
    sent = (row_bytes + ID_BYTES) * counts.pushed + 2 * ID_BYTES * accesses.pair_counts  # key and clock of each read
    received = (row_bytes + 2 * ID_BYTES) * counts.fetched
    out, into = (row_bytes + 2 * ID_BYTES) * counts.server_fetched, (row_bytes + ID_BYTES) * counts.server_pushed
    return Traffic(
        design=f"staleness-{staleness}",
        num_pairs=num_pairs,
        num_local=int(sums[_LOCAL]),
        rows_fetched=int(counts.fetched.sum()),
        rows_written=int(counts.pushed.sum()),
        rows_exchanged=0,
        critical=Flow(received.astype(float), sent.astype(float)),
        late=Flow.none(*counts.fetched.shape),
        server_bytes=np.maximum(out, into).max(axis=1).astype(float),
        servers_are_critical=True,
        rounds=2,
        staleness=Staleness(
            mean=float(sums[_MISSING] / num_pairs),
            largest=int(sums[_LARGEST_MISSING]),
            mean_pending=float(sums[_PENDING] / max(1, sums[_PUSHES])),
            largest_pending=int(sums[_LARGEST_PENDING]),
            largest_lag=int(sums[_LARGEST_LAG]),
        ),
        cache_rows=int(sums[_FULLEST]),
    )


def _cells(accesses: Accesses) -> tuple[Int32Array, int]:
    """Return the cell of each pair, int32, shape (num_pairs,), and the number of cells."""
    cells = np.empty(len(accesses.pairs), dtype=np.int32)
    seen_by, cell_of = np.full((2, accesses.num_keys), NEVER, dtype=np.int32)
    num_cells = _number_cells(accesses.pairs, accesses.pair_ends, accesses.num_trainers, seen_by, cell_of, cells)
    return cells, num_cells


@compiled
def _number_cells(
    pairs: Int32Array,
    pair_ends: Int64Array,
    num_trainers: int,
    seen_by: Int32Array,
    cell_of: Int32Array,
    cells: Int32Array,
) -> int:
    num_cells = 0
    for t in range(num_trainers):
        for share in range(t, len(pair_ends) - 1, num_trainers):
            for pair in range(pair_ends[share], pair_ends[share + 1]):
                key = pairs[pair]
                if seen_by[key] != t:
                    seen_by[key] = t
                    cell_of[key] = num_cells
                    num_cells += 1
                cells[pair] = cell_of[key]
    return num_cells


@compiled
def _play(
    pairs: Int32Array,
    pair_ends: Int64Array,
    cells: Int32Array,
    keys_of_cells: Int32Array,
    staleness: int,
    cache_rows: int,
    caches: _Caches,
    servers: _Servers,
    counts: _Counts,
) -> None:
    num_iterations, num_trainers = counts.fetched.shape
    for i in range(num_iterations):
        for t in range(num_trainers):
            share = i * num_trainers + t
            for pair in range(pair_ends[share], pair_ends[share + 1]):
                key, cell = pairs[pair], cells[pair]
                _read(i, t, key, cell, staleness, caches, servers, counts)
                missing = servers.made[key] - caches.clocks[cell] - caches.pending[cell]
                counts.sums[_MISSING] += missing
                counts.sums[_LARGEST_MISSING] = max(counts.sums[_LARGEST_MISSING], missing)
                if caches.num_rows[t] > cache_rows:
                    victim = _evict(t, caches)
                    _push(i, t, keys_of_cells[victim], victim, caches, servers, counts)
            counts.sums[_FULLEST] = max(counts.sums[_FULLEST], caches.num_rows[t])
        for t in range(num_trainers):
            share = i * num_trainers + t
            for pair in range(pair_ends[share], pair_ends[share + 1]):
                key, cell = pairs[pair], cells[pair]
                servers.made[key] += 1
                caches.pending[cell] += 1
                if caches.lists[cell] == ABSENT or caches.pending[cell] > staleness:
                    _push(i, t, key, cell, caches, servers, counts)
                    caches.clocks[cell] = EXPIRED
    # The caches hand over what they hold back.
    i = num_iterations - 1
    for t in range(num_trainers):
        for share in range(t, len(pair_ends) - 1, num_trainers):
            for pair in range(pair_ends[share], pair_ends[share + 1]):
                _push(i, t, pairs[pair], cells[pair], caches, servers, counts)


@compiled
def _read(
    i: int, t: int, key: int, cell: int, staleness: int, caches: _Caches, servers: _Servers, counts: _Counts
) -> None:
    """Read a row: from the cache, if it is fresh enough, else from its server."""
    was_used = caches.lists[cell]
    lag = servers.clocks[key] - caches.clocks[cell]
    if was_used != ABSENT and lag <= staleness:
        counts.sums[_LOCAL] += 1
        counts.sums[_LARGEST_LAG] = max(counts.sums[_LARGEST_LAG], lag)
    else:
        _push(i, t, key, cell, caches, servers, counts)
        counts.fetched[i, t] += 1
        counts.server_fetched[i, key % counts.server_fetched.shape[1]] += 1
        caches.clocks[cell] = servers.clocks[key]
    if was_used == ABSENT:
        caches.num_rows[t] += 1
    else:
        _unlink(t, cell, caches)
    _link(t, cell, min(was_used + 1, caches.newest.shape[1] - 1), caches)


@compiled
def _push(i: int, t: int, key: int, cell: int, caches: _Caches, servers: _Servers, counts: _Counts) -> None:
    """Send the updates that a trainer holds back of a row, if there are any."""
    pending = caches.pending[cell]
    if pending == 0:
        return
    counts.pushed[i, t] += 1
    counts.server_pushed[i, key % counts.server_pushed.shape[1]] += 1
    counts.sums[_PUSHES] += 1
    counts.sums[_PENDING] += pending
    counts.sums[_LARGEST_PENDING] = max(counts.sums[_LARGEST_PENDING], pending)
    servers.clocks[key] += pending
    caches.clocks[cell] += pending  # the row has its own updates
    caches.pending[cell] = 0


@compiled
def _evict(t: int, caches: _Caches) -> int:
    """Take the oldest row of the least used ones out of a cache; return its cell."""
    used = 0
    while caches.oldest[t, used] == NEVER:
        used += 1
    victim = int(caches.oldest[t, used])
    _unlink(t, victim, caches)
    caches.lists[victim] = ABSENT
    caches.num_rows[t] -= 1
    return victim


@compiled
def _link(t: int, cell: int, used: int, caches: _Caches) -> None:
    before = caches.newest[t, used]
    caches.older[cell] = before
    caches.newer[cell] = NEVER
    caches.lists[cell] = used
    caches.newest[t, used] = cell
    if before == NEVER:
        caches.oldest[t, used] = cell
    else:
        caches.newer[before] = cell


@compiled
def _unlink(t: int, cell: int, caches: _Caches) -> None:
    used, older, newer = caches.lists[cell], caches.older[cell], caches.newer[cell]
    if older == NEVER:
        caches.oldest[t, used] = newer
    else:
        caches.newer[older] = newer
    if newer == NEVER:
        caches.newest[t, used] = older
    else:
        caches.older[newer] = older
