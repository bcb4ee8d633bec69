"""The next-use pass (paper section 3.2): one look at every row id of a batch that enters the lookahead window.

A *pair* is a trainer and a unique key of its samples; an *entry* is a unique key of the whole batch. Both are numbered
table by table in order of first occurrence, and the numbers of a table begin at the position of its first id. Tables
share nothing, so threads may enter them at the same time, and the numbers do not depend on how many threads do.

The state of a key is two int32, 8 bytes:

    column STAMP      (iteration + 1, trainer) of the latest use that entered the window; 0: the key was never used
    column LATEST     number of the key's entry in that iteration; while the table of the key enters, number of the
                      key's latest pair

Most ids repeat a key of their own trainer's samples. Then the stamp is the current one, and the loop touches nothing
but the state. The first use of a key in an iteration looks up the previous use of the key. If that is inside the
window, the pass writes there that this is its next use. There is no sorting and there are no sets, so the cost is
proportional to the number of ids.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from bagpipe_hpc.cache_hint import DISTANCE, hint
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.hash_table import home_of, place_of
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.pipeline import Cores
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array, KeyArray, NarrowArray, narrowest

STAMP, LATEST = 0, 1
UNUSED = -1  # stamp of a key that has a place in the hash table and no use yet
NONE = -1
MAX_STAMP = 2**31 - 1
MAX_HUGE_BYTES = 1 << 29  # state of 64 million keys
MIN_IDS_TO_SPLIT = 50_000  # one thread is done with fewer ids before another one has started

# Columns of EntryRing.entries.
SLOT = 0  # slot in the owner's cache; NONE: the row is not resident
OWNER = 1  # owner << 2 | LATE | DIRTY
CHAIN = 2  # link of the (owner, next use) lists, see residency.py
LAST_PAIR = 3  # the entry's pair of its highest trainer
LATE = 2  # the row is updated in the iteration before
DIRTY = 1  # the row differs from the server's row

# Columns of EntryRing.planned.
CODE = 0  # owner << 2 | Gray class of the entry's replicas, see protocol/plan.py
UPDATE = 1  # position among the rows that the owner updates


class EntryRing(NamedTuple):
    """The iterations in the lookahead window: arrays with one row per iteration, iteration % ring_size.

    Args:
        ring_size: Number of rows.
        capacity: Number of ids of the largest batch so far. No batch has more pairs or entries than ids.
        keys: int32 or int64, shape (ring_size, capacity): of each entry.
        entries: int32, shape (ring_size, capacity, 4): SLOT, OWNER, CHAIN, LAST_PAIR of each entry.
        next_uses: int32, shape (ring_size, capacity, 2): the iteration of the next use of each entry (NONE: there is
            none in the window) and the entry there.
        pair_entries: int32, shape (ring_size, capacity): the entry of each pair.
        pair_links: int32, shape (ring_size, capacity): for each pair, the pair of the same entry at the next lower
            trainer that uses it; NONE: there is no such trainer.
        planned: int32, shape (capacity, 2): CODE and UPDATE of each entry of the iteration that is being planned.
    """

    ring_size: int
    capacity: int
    keys: KeyArray
    entries: Int32Array
    next_uses: Int32Array
    pair_entries: Int32Array
    pair_links: Int32Array
    planned: Int32Array

    @classmethod
    def empty(cls, ring_size: int, capacity: int, key_dtype: type[np.int32] | type[np.int64]) -> EntryRing:
        """Return a ring without iterations. Memory that is never touched costs nothing."""
        shape = (ring_size, capacity)
        keys, entries = np.empty(shape, dtype=key_dtype), np.empty((*shape, 4), dtype=np.int32)
        next_uses, pairs = np.empty((*shape, 2), dtype=np.int32), np.empty((2, *shape), dtype=np.int32)
        planned = np.empty((capacity, 2), dtype=np.int32)
        return cls(ring_size, capacity, keys, entries, next_uses, pairs[0], pairs[1], planned)

    def grown(self, capacity: int) -> EntryRing:
        """Return a ring with the same content and room for larger batches."""
        ring = EntryRing.empty(self.ring_size, capacity, self.keys.dtype.type)
        for name in ("keys", "entries", "next_uses", "pair_entries", "pair_links"):
            getattr(ring, name)[:, : self.capacity] = getattr(self, name)
        ring.planned[: self.capacity] = self.planned
        return ring

    def row_of(self, iteration: int) -> int:
        """Return the row of an iteration."""
        return iteration % self.ring_size


class KeyState(Protocol):
    """The states of keys."""

    states: Int32Array  # shape (n, 2): columns STAMP and LATEST

    def places(self, keys: KeyArray, oldest_stamp: int) -> KeyArray:
        """Return the row of `states` of each key.

        Args:
            keys: int32 or int64, shape (num_ids,).
            oldest_stamp: Keys whose latest use has a lower stamp may be dropped.
        Returns:
            int32 or int64, shape (num_ids,).
        """

    @property
    def num_bytes(self) -> int:
        """Memory in bytes, whether it has been touched or not."""


class DenseKeyState:
    """An array of the states of all keys, 8 bytes each. Only touched pages of it take memory.

    A page has 4 KiB. Where the array has at most MAX_HUGE_BYTES, a page has 2 MiB, and planning is about an eighth
    faster.

    Args:
        num_keys: The keys are 0 .. num_keys - 1.
    """

    def __init__(self, num_keys: int) -> None:
        self.states = lazy_zeros((num_keys, 2), np.int32, max_huge_bytes=MAX_HUGE_BYTES)

    def places(self, keys: KeyArray, oldest_stamp: int) -> KeyArray:
        """See KeyState; the places are the keys themselves."""
        return keys

    @property
    def num_bytes(self) -> int:
        """Bytes of the array."""
        return self.states.nbytes


class CompactKeyState:
    """A hash table of the states of the keys in the lookahead window.

    A place of the table has 16 bytes. At most half of the places are in use. When more are needed, keys that left the
    window are dropped, and the others move to a new table, which has 4 to 8 places for each of them and for each id of
    the batch that enters. A key that left the window is treated like one that was never used.

    Args:
        num_places: A power of two.
    """

    def __init__(self, num_places: int = 1 << 16) -> None:
        self._keys: Int64Array
        self.states: Int32Array
        self._allocate(num_places)

    def places(self, keys: KeyArray, oldest_stamp: int) -> KeyArray:
        """See KeyState; a key without a place gets one."""
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
        live = states[:, STAMP] >= oldest_stamp
        keys, states = keys[live], states[live]
        # At least twice the places that are needed now. So as many keys can be inserted before the next move as this
        # move has to insert, and the cost of moving is amortised.
        self._allocate(1 << (4 * (len(keys) + num_new)).bit_length())
        found = np.empty(len(keys), dtype=np.int64)
        self._num_used = _locate(keys, self._keys, self.states, found)
        self.states[found] = states

    def _allocate(self, num_places: int) -> None:
        self._num_used = 0
        self._keys = np.empty(num_places, dtype=np.int64)
        self.states = np.zeros((num_places, 2), dtype=np.int32)  # the stamps are the marks of the hash table


@compiled
def _locate(keys: KeyArray, table_keys: Int64Array, states: Int32Array, found: Int64Array) -> int:
    """Find the place of each key, and insert the keys that have none.

    Args:
        keys: int32 or int64, shape (num_ids,).
        table_keys: int64, shape (num_places,).
        states: int32, shape (num_places, 2).
        found: int64, shape (num_ids,): the places are written to it.
    Returns:
        The number of inserted keys.
    """
    num_inserted = 0
    stamps = states[:, STAMP]
    for j in range(len(keys)):
        ahead = home_of(keys[min(j + DISTANCE, len(keys) - 1)], len(table_keys))
        hint(table_keys, ahead)
        hint(states, ahead)
        place = place_of(keys[j], table_keys, stamps)
        if stamps[place] == 0:
            table_keys[place] = keys[j]
            stamps[place] = UNUSED
            num_inserted += 1
        found[j] = place
    return num_inserted


class EnteringBatch(NamedTuple):
    """A batch that enters the window.

    Args:
        keys: int32 or int64, shape (num_ids,), in table order (features.py).
        places: int32 or int64, shape (num_ids,): row of each key in the array of states.
        id_ends: int64, shape (num_tables, T + 1): the keys of table f in trainer t's samples are
            keys[id_ends[f, t]:id_ends[f, t + 1]].
        share_begins: int64, shape (T, num_tables): where trainer t's ids of table f begin in `EnteredBatch.inverse`.
    """

    keys: KeyArray
    places: KeyArray
    id_ends: Int64Array
    share_begins: Int64Array


class EnteredBatch(NamedTuple):
    """The entries and pairs of a batch that entered the window.

    Args:
        entry_begins: int64, shape (num_tables,).
        entry_ends: int64, shape (num_tables,): the entries of table f have the numbers from entry_begins[f] to
            entry_ends[f].
        pair_ends: int64, shape (num_tables, T + 1): the pairs of table f and trainer t have the numbers from
            pair_ends[f, t] to pair_ends[f, t + 1].
        num_ids: int64, shape (T, num_tables): number of ids of each trainer's samples in each table.
        inverse: uint16 or int32, shape (num_ids.sum(),), trainer by trainer, within a trainer table by table: the pair
            of each id, counted from the first pair of its table and trainer.
        born: The entries whose rows begin anew with this batch, ascending, int64, shape (n,).
    """

    entry_begins: Int64Array
    entry_ends: Int64Array
    pair_ends: Int64Array
    num_ids: Int64Array
    inverse: NarrowArray
    born: Int64Array

    @property
    def num_entries(self) -> int:
        """The number of unique keys of the batch."""
        return int((self.entry_ends - self.entry_begins).sum())

    @property
    def num_uniques(self) -> Int64Array:
        """The number of unique keys of each trainer in each table, int64, shape (T, num_tables)."""
        return np.diff(self.pair_ends, axis=1).T


class Stamps(NamedTuple):
    """What makes the stamps of an iteration. A stamp is (iteration + 1) << trainer_bits | trainer.

    Args:
        iteration: The iteration that enters.
        oldest: The lowest stamp inside the window.
        trainer_bits: Number of bits of a stamp that hold the trainer.
    """

    iteration: int
    oldest: int
    trainer_bits: int


class NextUsePass:
    """Lets batches enter the lookahead window.

    Args:
        key_state: The states of the keys.
        window: L.
        num_trainers: T.
        cores: The tables of a batch are split among as many threads as there are free cores; None: one thread.
    """

    def __init__(self, key_state: KeyState, window: int, num_trainers: int, cores: Cores | None = None) -> None:
        self._cores = cores
        self.key_state = key_state
        self._window = window
        self._trainer_bits = (num_trainers - 1).bit_length()

    @property
    def max_iterations(self) -> int:
        """The number of iterations that stamps can tell apart."""
        return (MAX_STAMP >> self._trainer_bits) - 1

    def enter(
        self, iteration: int, keys: KeyArray, id_ends: Int64Array, ring: EntryRing, born: KeyArray | None = None
    ) -> EnteredBatch:
        """Let the batch of one iteration enter. Batches enter in order.

        Args:
            iteration: Its number.
            keys: int32 or int64, shape (num_ids,), as in EnteringBatch. They are not checked.
            id_ends: int64, shape (num_tables, T + 1), as in EnteringBatch.
            ring: Entries and pairs are written to the row of this iteration, next uses to those of earlier ones.
            born: Keys of the batch whose rows begin anew, of the dtype of `keys`, shape (n,); None: none. For the
                caches such a row is another one than before: this use is no next use of an earlier one.
        """
        oldest = max(1, iteration + 1 - self._window) << self._trainer_bits
        stamps = Stamps(iteration, oldest, self._trainer_bits)
        num_tables = len(id_ends)
        num_ids = np.ascontiguousarray(np.diff(id_ends, axis=1).T)  # one layout whatever the shape, so one compilation
        share_begins = (np.cumsum(num_ids) - num_ids.ravel()).reshape(num_ids.shape)
        places = self.key_state.places(keys if born is None else np.concatenate([keys, born]), oldest)
        places, born_places = places[: len(keys)], places[len(keys) :]
        entering = EnteringBatch(keys, places, id_ends, share_begins)
        entered = EnteredBatch(
            entry_begins=id_ends[:, 0].copy(),
            entry_ends=np.empty(num_tables, dtype=np.int64),
            pair_ends=np.empty_like(id_ends),
            num_ids=num_ids,
            inverse=np.empty(len(keys), dtype=narrowest(int(num_ids.max(initial=0)))),
            born=np.empty(0, np.int64),
        )
        states = self.key_state.states
        states[born_places, STAMP] = UNUSED

        def enter_tables(first: int, end: int) -> None:
            _enter(first, end, stamps, entering, states, ring, entered)

        if self._cores is None or len(keys) < MIN_IDS_TO_SPLIT:
            enter_tables(0, num_tables)
        else:
            self._cores.split(enter_tables, lambda num_pieces: _cuts(id_ends[:, -1], num_pieces))
        if not len(born_places):
            return entered
        return entered._replace(born=np.sort(states[born_places, LATEST].astype(np.int64)))


def _cuts(id_ends: Int64Array, num_pieces: int) -> list[int]:
    """Cut the tables into groups with about the same number of ids.

    Args:
        id_ends: int64, shape (num_tables,): number of ids up to and including each table.
    Returns:
        The first table of each group, and the number of tables.
    """
    shares = np.arange(1, num_pieces) * id_ends[-1] // num_pieces
    return [0, *np.searchsorted(id_ends, shares).tolist(), len(id_ends)]


@compiled
def _enter(
    first_table: int,
    end_table: int,
    stamps: Stamps,
    entering: EnteringBatch,
    states: Int32Array,
    ring: EntryRing,
    entered: EnteredBatch,
) -> None:
    """Enter the tables from first_table to end_table."""
    n, oldest, trainer_bits = stamps.iteration, stamps.oldest, stamps.trainer_bits
    ring_size = ring.ring_size
    row = n % ring_size
    keys, places, id_ends, share_begins = entering.keys, entering.places, entering.id_ends, entering.share_begins
    entry_ends, pair_ends, inverse = entered.entry_ends, entered.pair_ends, entered.inverse
    ring_keys, ring_entries, next_uses = ring.keys[row], ring.entries[row], ring.next_uses
    pair_entries, pair_links = ring.pair_entries[row], ring.pair_links[row]
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
                hint(states, places[min(j + DISTANCE, num_ids - 1)])
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
            ring_entries[entry, SLOT] = NONE
            ring_entries[entry, LAST_PAIR] = states[place, LATEST]
            next_uses[row, entry, 0] = NONE
            states[place, LATEST] = entry
