"""The next-use pass (paper section 3.2): one look at every id of a batch as it enters the lookahead window.

A *pair* is a trainer and a unique key of its share; an *entry* is a unique key of the whole batch. Both are numbered
table by table in order of first occurrence, from the table's first id on: tables share nothing, so threads may enter
them at the same time, and the numbers do not depend on how many do.

State per key is two int32, 8 bytes:

    column STAMP      (iteration + 1, trainer) of the latest use that entered the window; 0: never used
    column LATEST     number of the key's entry in that iteration; while its table is being entered, of its latest pair

Most ids repeat a key of their own share: for them the stamp is the current one, and the state is all that is touched.
A first use in its iteration tells the key's previous use, if that is inside the window, that it is the next one. No
sorting, no sets: O(ids).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.lookahead.pipeline import Cores
from bagpipe_hpc.lookahead.plan import Int32Array, Int64Array, KeyArray, NarrowArray, narrowest
from bagpipe_hpc.lookahead.prefetch import DISTANCE, prefetch_row

STAMP, LATEST = 0, 1
NONE = -1
MAX_STAMP = 2**31 - 1
MAX_HUGE_BYTES = 1 << 29  # state of 64 million keys
MIN_IDS_TO_SPLIT = 50_000  # fewer are done before another thread has begun

# Columns of EntryRing.rows.
SLOT = 0  # slot in the owner's cache; NONE: to be fetched
OWNER = 1  # owner << 2 | LATE | DIRTY; once the iteration is planned:
CODE = 1  # owner << 2 | Gray class of its replicas, see plan.py
CHAIN = 2  # link of the (owner, next use) lists, see residency.py; once the iteration is planned:
UPDATE = 2  # position among the owner's updates
LAST_PAIR = 3  # the entry's pair of its highest trainer
LATE, DIRTY = 2, 1  # updated in the iteration before; differs from the server's row


@dataclass(frozen=True)
class EntryRing:
    """What is known of the iterations in the window: arrays with one row per iteration, row = iteration % ring_size.

    Args:
        ring_size: Rows.
        capacity: Ids of the largest batch so far: at most so many pairs and entries.
    """

    ring_size: int
    capacity: int
    keys: KeyArray  # (ring_size, capacity) of each entry
    rows: Int32Array  # (ring_size, capacity, 4) of each entry: SLOT, OWNER, CHAIN, LAST_PAIR
    next_uses: Int32Array  # (ring_size, capacity, 2) of each entry: iteration (NONE: not in the window), entry there
    pair_entries: Int32Array  # (ring_size, capacity)
    pair_links: Int32Array  # (ring_size, capacity) the same entry's pair of the next lower trainer; NONE: none

    @classmethod
    def empty(cls, ring_size: int, capacity: int, key_dtype: type[np.int32] | type[np.int64]) -> EntryRing:
        """A ring without iterations. Pages that are never touched cost no memory."""
        shape = (ring_size, capacity)
        keys, rows = np.empty(shape, dtype=key_dtype), np.empty((*shape, 4), dtype=np.int32)
        next_uses, pairs = np.empty((*shape, 2), dtype=np.int32), np.empty((2, *shape), dtype=np.int32)
        return cls(ring_size, capacity, keys, rows, next_uses, *pairs)

    def grown(self, capacity: int) -> EntryRing:
        """The same content with room for larger batches."""
        ring = EntryRing.empty(self.ring_size, capacity, self.keys.dtype.type)
        for name in ("keys", "rows", "next_uses", "pair_entries", "pair_links"):
            getattr(ring, name)[:, : self.capacity] = getattr(self, name)
        return ring

    def row_of(self, iteration: int) -> int:
        """The row of an iteration."""
        return iteration % self.ring_size


class KeyState(Protocol):
    """Where the state of each key stands."""

    states: Int32Array  # (n, 2) STAMP, LATEST

    def places(self, keys: KeyArray, oldest_stamp: int) -> KeyArray:
        """Row of `states` of each key; keys with a latest use before `oldest_stamp` may be forgotten."""

    @property
    def num_bytes(self) -> int:
        """Memory, touched or not."""


class DenseKeyState:
    """State of every key there is: 8 bytes per key that was ever used, in pages of 4 KiB.

    Up to MAX_HUGE_BYTES the pages are of 2 MiB, which makes planning about an eighth faster.

    Args:
        num_keys: Keys 0 .. num_keys - 1.
    """

    def __init__(self, num_keys: int) -> None:
        self.states = lazy_zeros((num_keys, 2), np.int32, max_huge_bytes=MAX_HUGE_BYTES)

    def places(self, keys: KeyArray, oldest_stamp: int) -> KeyArray:
        """The keys themselves."""
        return keys

    @property
    def num_bytes(self) -> int:
        """Bytes of the states."""
        return self.states.nbytes


class CompactKeyState:
    """State of the keys in the window only, by hashing: 16 bytes per place, at least a quarter of the places in use.

    A key that left the window is as good as one never used. When places run out, those keys are dropped, and the rest
    moves to a table with room.
    """

    def __init__(self, num_places: int = 1 << 16) -> None:
        self._keys: Int64Array
        self.states: Int32Array
        self._allocate(num_places)

    def places(self, keys: KeyArray, oldest_stamp: int) -> KeyArray:
        """Place of each key; inserts keys that have none."""
        if 2 * (self._num_used + len(keys)) > len(self._keys):
            self._make_room(len(keys), oldest_stamp)
        found = np.empty(len(keys), dtype=np.int64)
        self._num_used += _locate(keys, self._keys, self.states, found)
        return found

    @property
    def num_bytes(self) -> int:
        """Bytes of the table."""
        return self._keys.nbytes + self.states.nbytes

    def _make_room(self, num_new: int, oldest_stamp: int) -> None:
        keys, states = self._keys, self.states
        live = (keys[:, 0] != NONE) & (states[:, STAMP] >= oldest_stamp)
        keys, states = keys[live, 0], states[live]
        # Twice what is needed now, so that room lasts for as many insertions as moving cost.
        self._allocate(1 << (4 * (len(keys) + num_new)).bit_length())
        found = np.empty(len(keys), dtype=np.int64)
        self._num_used = _locate(keys, self._keys, self.states, found)
        self.states[found] = states

    def _allocate(self, num_places: int) -> None:
        self._num_used = 0
        self._keys = np.full((num_places, 1), NONE, dtype=np.int64)  # 2-D for prefetch_row
        self.states = np.empty((num_places, 2), dtype=np.int32)


@compiled
def _locate(keys, table_keys, states, found):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Linear probing. Returns the number of keys inserted."""
    mask = len(table_keys) - 1
    num_inserted = 0
    for j in range(len(keys)):
        ahead = _hash(keys[min(j + DISTANCE, len(keys) - 1)], mask)
        prefetch_row(table_keys, ahead)
        prefetch_row(states, ahead)
        key = keys[j]
        place = _hash(key, mask)
        while table_keys[place, 0] != key:
            if table_keys[place, 0] == NONE:
                table_keys[place, 0] = key
                states[place, STAMP] = 0
                num_inserted += 1
                break
            place = (place + 1) & mask
        found[j] = place
    return num_inserted


@compiled
def _hash(key, mask):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))


@dataclass(frozen=True)
class EnteredBatch:
    """What the pass found in one batch, per table f and trainer t.

    Entries of table f are numbered `id_ends[f, 0]` to `entry_ends[f]`; pairs of (f, t) `pair_ends[f, t]` to
    `pair_ends[f, t + 1]`.
    """

    entry_ends: Int64Array  # (num_tables,)
    pair_ends: Int64Array  # (num_tables, T + 1)
    num_ids: Int64Array  # (T, num_tables) ids of each share in each table
    inverse: NarrowArray  # (num_ids.sum(),) share by share: which unique key of its share in its table

    def num_entries(self, entry_begins: Int64Array) -> int:
        """Unique keys of the batch."""
        return int((self.entry_ends - entry_begins).sum())

    @property
    def num_uniques(self) -> Int64Array:
        """Unique keys of each trainer and table; int64, shape (T, num_tables)."""
        return np.diff(self.pair_ends, axis=1).T


class NextUsePass:
    """Lets batches enter the window.

    Args:
        key_state: State of the keys.
        window: L.
        num_trainers: T.
        cores: Tables are dealt to as many threads as there are cores free; None: one.
    """

    def __init__(self, key_state: KeyState, window: int, num_trainers: int, cores: Cores | None = None) -> None:
        self._cores = cores
        self.key_state = key_state
        self._window = window
        self._trainer_bits = (num_trainers - 1).bit_length()

    @property
    def max_iterations(self) -> int:
        """How many iterations the stamps can tell apart."""
        return (MAX_STAMP >> self._trainer_bits) - 1

    def enter(self, iteration: int, keys: KeyArray, id_ends: Int64Array, ring: EntryRing) -> EnteredBatch:
        """Let the batch of one iteration enter; batches enter in order.

        Args:
            iteration: n.
            keys: int32 or int64, shape (num_ids,), table by table, within a table share by share; not checked.
            id_ends: int64, shape (num_tables, T + 1): ids of table f in trainer t's share are
                keys[id_ends[f, t]:id_ends[f, t + 1]].
        """
        oldest = max(1, iteration + 1 - self._window) << self._trainer_bits
        places = self.key_state.places(keys, oldest)
        num_tables = len(id_ends)
        num_ids = np.diff(id_ends, axis=1).T
        share_begins = (np.cumsum(num_ids) - num_ids.ravel()).reshape(num_ids.shape)
        inverse = np.empty(len(keys), dtype=narrowest(int(num_ids.max(initial=0))))
        entry_ends, pair_ends = np.empty(num_tables, dtype=np.int64), np.empty_like(id_ends)
        row = ring.row_of(iteration)

        def enter_tables(first: int, end: int) -> None:
            _enter(
                first, end, iteration, oldest, self._trainer_bits, row, keys, places, id_ends, self.key_state.states,
                ring.keys[row], ring.rows[row], ring.pair_entries[row], ring.pair_links[row], ring.next_uses,
                entry_ends, pair_ends, share_begins, inverse,
            )  # fmt: skip

        if self._cores is None or len(keys) < MIN_IDS_TO_SPLIT:
            enter_tables(0, num_tables)
        else:
            self._cores.split(enter_tables, lambda num_pieces: _cuts(id_ends[:, -1], num_pieces))
        return EnteredBatch(entry_ends, pair_ends, num_ids, inverse)


def _cuts(id_ends: Int64Array, num_pieces: int) -> list[int]:
    """Ends of groups of tables with about the same number of ids each, from 0 on."""
    shares = np.arange(1, num_pieces) * id_ends[-1] // num_pieces
    return [0, *np.searchsorted(id_ends, shares).tolist(), len(id_ends)]


@compiled
def _enter(  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    first_table, end_table, n, oldest, trainer_bits, row, keys, places, id_ends, states,
    ring_keys, ring_rows, pair_entries, pair_links, next_uses, entry_ends, pair_ends, share_begins, inverse,
):  # fmt: skip
    ring_size = next_uses.shape[0]
    num_ids = len(keys)
    num_trainers = id_ends.shape[1] - 1
    first_stamp = (n + 1) << trainer_bits
    entry_places = np.empty((id_ends[:, -1] - id_ends[:, 0]).max(), dtype=places.dtype)
    for table in range(first_table, end_table):
        first_entry = id_ends[table, 0]
        num_entries = num_pairs = np.int32(first_entry)
        for trainer in range(num_trainers):
            stamp = first_stamp + trainer
            first_pair = num_pairs
            pair_ends[table, trainer] = first_pair
            to_share = share_begins[trainer, table] - id_ends[table, trainer]
            for j in range(id_ends[table, trainer], id_ends[table, trainer + 1]):
                prefetch_row(states, places[min(j + DISTANCE, num_ids - 1)])
                place = places[j]
                last = states[place, STAMP]
                latest = states[place, LATEST]
                if last == stamp:
                    inverse[to_share + j] = latest - first_pair
                    continue
                if last >= first_stamp:  # met in the share of an earlier trainer
                    entry = pair_entries[latest]
                    pair_links[num_pairs] = latest
                else:
                    entry = num_entries
                    num_entries += np.int32(1)
                    entry_places[entry - first_entry] = place
                    ring_keys[entry] = keys[j]
                    pair_links[num_pairs] = NONE
                    if last >= oldest:
                        previous = row - (n + 1 - (last >> trainer_bits))
                        if previous < 0:
                            previous += ring_size
                        next_uses[previous, latest, 0] = n
                        next_uses[previous, latest, 1] = entry
                states[place, STAMP] = stamp
                states[place, LATEST] = num_pairs
                pair_entries[num_pairs] = entry
                inverse[to_share + j] = num_pairs - first_pair
                num_pairs += np.int32(1)
        pair_ends[table, num_trainers] = num_pairs
        entry_ends[table] = num_entries
        for entry in range(first_entry, num_entries):
            place = entry_places[entry - first_entry]
            ring_rows[entry, SLOT] = NONE
            ring_rows[entry, LAST_PAIR] = states[place, LATEST]
            next_uses[row, entry, 0] = NONE
            states[place, LATEST] = entry
