"""A map from 64-bit ids to rows that remembers how often and when each id was used. For compiled loops.

A map is an array of cells of 32 bytes, one per row:

    ID          the id, int64
    COUNT       how often it was used, saturating
    LAST        the iteration of its last use
    OLDER       the row that was used before it, in the order of last uses
    NEWER       the row that was used after it
    CHAIN       the next row of its bucket; of a free row: the row that was freed before it
    HEAD        the first row of the bucket that has the number of this row

Links hold the row + 1, and 0 for none, so an array of zeros is an empty map.

**Linear hashing** (Litwin 1980). There are as many buckets as rows were ever in use at once. A row that is used for the
first time brings a bucket with it, and takes over the ids of one other bucket that belong there. So the map grows id by
id, without ever standing still, in memory that is touched only as far as it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from bagpipe_hpc.cache_hint import DISTANCE, hint
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lazy_memory import lazy_zeros
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
from bagpipe_hpc.splitmix import mix

ID = 0  # of `ids`, which is another view of the same memory
COUNT, LAST, OLDER, NEWER, CHAIN, HEAD = range(2, 8)
KIND, ROW = 5, 6  # of a change, see Log
NUM_ROWS, NUM_LIVE, FREED, OLDEST, NEWEST, MASK = range(6)
MAX_COUNT = 2**31 - 1
MAX_ROWS = 2**31 - 2
NONE = -1
BLOCK = 64  # ids whose memory is asked for together
INSERTED, REMOVED, USED = range(3)


class Log(NamedTuple):
    """Room for changes of a map, with which they can be taken back.

    Args:
        changes: int32, shape (capacity, 8): what the row was before, in the places of a cell: the id, COUNT, LAST and
            OLDER; then KIND, which is INSERTED, REMOVED or USED, and ROW. Of an inserted row: whether it was freed
            before, in the place of COUNT.
        length: int64, shape (1,): how many there are.
    """

    changes: Int32Array
    length: Int64Array

    @classmethod
    def empty(cls, capacity: int) -> Log:
        """Return a log without changes."""
        return cls(np.empty((capacity, 8), np.int32), np.zeros(1, np.int64))

    def emptied(self, capacity: int) -> Log:
        """Return a log without changes, in the same memory if there is room for so many changes."""
        self.length[0] = 0
        return self if capacity <= len(self.changes) else Log.empty(capacity)

    def cut(self) -> Int32Array:
        """Return a copy of the changes."""
        return self.changes[: self.length[0]].copy()


class IdMap(NamedTuple):
    """Ids and their rows.

    Args:
        cells: int32, shape (capacity, 8); see the module.
        ids: int64, shape (capacity, 4): the same memory.
        state: int64, shape (6,): NUM_ROWS rows were in use at some time, NUM_LIVE are now; FREED is the link to the row
            that was freed last, OLDEST and NEWEST those to the ends of the order of last uses; MASK + 1 is the lowest
            power of two that is not below NUM_ROWS.
    """

    cells: Int32Array
    ids: Int64Array
    state: Int64Array

    @classmethod
    def empty(cls, capacity: int) -> IdMap:
        """Return a map without ids. It takes memory only for rows that come into use."""
        cells = lazy_zeros((capacity, 8), np.int32, max_huge_bytes=32 * capacity)  # rows come into use one by one
        return cls(cells, cells.view(np.int64), np.zeros(6, np.int64))

    @property
    def num_live(self) -> int:
        """The number of ids."""
        return int(self.state[NUM_LIVE])

    def rows(self) -> Int32Array:
        """Return the rows of all ids, in the order of their last uses, int32, shape (num_live,)."""
        rows = np.empty(self.num_live, np.int32)
        _walk(self, rows)
        return rows

    def free_rows(self) -> Int32Array:
        """Return the rows that were freed, the one that is used again first at the end, int32, shape (n,)."""
        rows = np.empty(int(self.state[NUM_ROWS] - self.state[NUM_LIVE]), np.int32)
        _walk_freed(self, rows)
        return rows


@compiled
def _note(log: Log, kind: int, row: int | np.int64, older: int, count: int, last: int) -> None:
    place = log.length[0]
    log.changes[place, COUNT] = count
    log.changes[place, LAST] = last
    log.changes[place, OLDER] = older
    log.changes[place, KIND] = kind
    log.changes[place, ROW] = row
    log.length[0] = place + 1


@compiled
def bucket_of(of: IdMap, key: np.int64) -> np.int64:
    """Return the bucket of an id; 0 if the map has no buckets yet."""
    mask = of.state[MASK]
    bucket = np.int64(mix(np.uint64(key)) & np.uint64(mask))
    return bucket if bucket < of.state[NUM_ROWS] else bucket & (mask >> 1)


@compiled
def find(of: IdMap, key: np.int64) -> np.int64:
    """Return the row of an id, or NONE."""
    if of.state[NUM_ROWS] == 0:
        return np.int64(NONE)
    link = of.cells[bucket_of(of, key), HEAD]
    while link and of.ids[link - 1, ID] != key:
        link = of.cells[link - 1, CHAIN]
    return np.int64(link) - 1


@compiled
def find_block(of: IdMap, ids: Int64Array, rows: Int64Array) -> None:
    """Write the rows of ids, NONE for those that are not in the map.

    Memory answers slowly, and an id is behind a bucket and a chain of rows. So all ids together take one step after the
    other, and each step asks for the memory that the next one reads.

    Args:
        of: The map.
        ids: At most BLOCK ids, int64, shape (n,).
        rows: int64, shape (n,).
    """
    cells, waiting = of.cells, np.empty(BLOCK, np.int64)
    if of.state[NUM_ROWS] == 0:
        rows[:] = NONE
        return
    for j in range(len(ids)):
        rows[j] = bucket_of(of, ids[j])
        hint(cells, rows[j])
    num_waiting = len(ids)
    for j in range(num_waiting):
        waiting[j] = j
        rows[j] = np.int64(cells[rows[j], HEAD]) - 1
        hint(cells, max(rows[j], 0))
    while num_waiting:
        num_left = 0
        for k in range(num_waiting):
            j = waiting[k]
            if rows[j] == NONE or of.ids[rows[j], ID] == ids[j]:
                continue
            rows[j] = np.int64(cells[rows[j], CHAIN]) - 1
            hint(cells, max(rows[j], 0))
            waiting[num_left] = j
            num_left += 1
        num_waiting = num_left


@compiled
def ask_for_neighbours(of: IdMap, rows: Int64Array) -> None:
    """Ask for the memory of the rows that `use` and `remove` change beside these rows; NONE stands for no row."""
    cells = of.cells
    for row in rows:
        if row != NONE:
            hint(cells, max(cells[row, OLDER], 1) - 1)
            hint(cells, max(cells[row, NEWER], 1) - 1)


@compiled
def insert(of: IdMap, key: np.int64, log: Log) -> np.int64:
    """Give an id that is not in the map a row, as the newest of all; return NONE if no row is left."""
    cells, state = of.cells, of.state
    is_reused = state[FREED] != 0
    if is_reused:
        row = state[FREED] - 1
        state[FREED] = cells[row, CHAIN]
    elif state[NUM_ROWS] < len(cells):
        row = state[NUM_ROWS]
        _add_bucket(of)
    else:
        return np.int64(NONE)
    of.ids[row, ID] = key
    cells[row, COUNT] = 0
    cells[row, LAST] = 0
    bucket = bucket_of(of, key)
    cells[row, CHAIN] = cells[bucket, HEAD]
    cells[bucket, HEAD] = row + 1
    _append(of, row)
    state[NUM_LIVE] += 1
    _note(log, INSERTED, row, 0, is_reused, 0)
    return np.int64(row)


@compiled
def remove(of: IdMap, row: np.int64, log: Log) -> None:
    """Free the row of an id."""
    cells, state = of.cells, of.state
    log.changes[log.length[0], :COUNT] = cells[row, :COUNT]  # the id
    _note(log, REMOVED, row, cells[row, OLDER], cells[row, COUNT], cells[row, LAST])
    bucket = bucket_of(of, of.ids[row, ID])
    if cells[bucket, HEAD] == row + 1:
        cells[bucket, HEAD] = cells[row, CHAIN]
    else:
        before = cells[bucket, HEAD] - 1
        while cells[before, CHAIN] != row + 1:
            before = cells[before, CHAIN] - 1
        cells[before, CHAIN] = cells[row, CHAIN]
    _unlink(of, row)
    cells[row, CHAIN] = state[FREED]
    state[FREED] = row + 1
    state[NUM_LIVE] -= 1


@compiled
def use(of: IdMap, row: np.int64, iteration: int, log: Log) -> None:
    """Count a use. The first one in an iteration moves the row to the new end of the order of last uses."""
    cells = of.cells
    if cells[row, LAST] == iteration:
        cells[row, COUNT] = min(cells[row, COUNT], MAX_COUNT - 1) + 1
        return
    _note(log, USED, row, cells[row, OLDER], cells[row, COUNT], cells[row, LAST])
    cells[row, COUNT] = min(cells[row, COUNT], MAX_COUNT - 1) + 1
    cells[row, LAST] = iteration
    if of.state[NEWEST] != row + 1:
        _unlink(of, row)
        _append(of, row)


@compiled
def _append(of: IdMap, row: np.int64) -> None:
    cells, state = of.cells, of.state
    cells[row, OLDER] = state[NEWEST]
    cells[row, NEWER] = 0
    if state[NEWEST]:
        cells[state[NEWEST] - 1, NEWER] = row + 1
    else:
        state[OLDEST] = row + 1
    state[NEWEST] = row + 1


@compiled
def _unlink(of: IdMap, row: np.int64) -> None:
    cells, state = of.cells, of.state
    older, newer = cells[row, OLDER], cells[row, NEWER]
    if older:
        cells[older - 1, NEWER] = newer
    else:
        state[OLDEST] = newer
    if newer:
        cells[newer - 1, OLDER] = older
    else:
        state[NEWEST] = older


@compiled
def _add_bucket(of: IdMap) -> None:
    """Add a bucket, and move the ids to it that belong there. They all are in one bucket so far."""
    cells, state = of.cells, of.state
    new = state[NUM_ROWS]
    state[NUM_ROWS] += 1
    cells[new, HEAD] = 0
    if new == 0:
        return
    if new > state[MASK]:
        state[MASK] = 2 * state[MASK] + 1
    half = (state[MASK] + 1) >> 1
    hint(cells, max(cells[min(new - half + DISTANCE, new), HEAD], 1) - 1)
    link = cells[new - half, HEAD]
    kept = moved = 0  # links to the last row of each of the two chains
    cells[new - half, HEAD] = 0
    while link:
        row = link - 1
        following = cells[row, CHAIN]
        cells[row, CHAIN] = 0
        if np.int64(mix(np.uint64(of.ids[row, ID])) & np.uint64(state[MASK])) == new:
            if moved:
                cells[moved - 1, CHAIN] = link
            else:
                cells[new, HEAD] = link
            moved = link
        else:
            if kept:
                cells[kept - 1, CHAIN] = link
            else:
                cells[new - half, HEAD] = link
            kept = link
        link = following


@compiled
def _walk(of: IdMap, rows: Int32Array) -> None:
    link = of.state[OLDEST]
    for j in range(len(rows)):
        rows[j] = link - 1
        link = of.cells[link - 1, NEWER]


@compiled
def _walk_freed(of: IdMap, rows: Int32Array) -> None:
    link = of.state[FREED]
    for j in range(len(rows) - 1, -1, -1):
        rows[j] = link - 1
        link = of.cells[link - 1, CHAIN]


class IdState(NamedTuple):
    """The ids of a map, in the order of their last uses.

    Args:
        ids: int64, shape (n,).
        rows, uses, last: The row of each id, how often it was used, and in which iteration last, int32, shape (n,).
        freed: The rows that were freed, the one that is used again first at the end, int32, shape (k,). Rows of ids and
            freed rows together are 0 .. n + k - 1.
    """

    ids: Int64Array
    rows: Int32Array
    uses: Int32Array
    last: Int32Array
    freed: Int32Array

    @classmethod
    def empty(cls) -> IdState:
        """Return a state without ids."""
        return cls(np.empty(0, np.int64), *np.empty((4, 0), np.int32))

    @property
    def num_rows(self) -> int:
        """How many rows were in use at some time."""
        return len(self.rows) + len(self.freed)


def state_later(of: IdMap, changes: Sequence[Int32Array]) -> Callable[[], IdState]:
    """Copy a map. Return a function that works out what the map was before some changes.

    Copying takes 0.1 to 0.3 seconds for ten million ids. The function takes several times as long, because it follows
    the ids in the order of their last uses. It may run in another thread while the map goes on to change. Call it once.

    Args:
        of: The map.
        changes: What was changed in it last, in order, int32, shape (n, 8) each; see `Log`.
    """
    num_rows = int(of.state[NUM_ROWS])
    cells = lazy_zeros((num_rows, 8), np.int32, max_huge_bytes=32 * num_rows)  # huge pages: with small ones, it takes
    cells[:] = of.cells[:num_rows]  # several times as long to get the memory
    copied = IdMap(cells, cells.view(np.int64), of.state.copy())
    return partial(_state_before, copied, changes)


def _state_before(copied: IdMap, changes: Sequence[Int32Array]) -> IdState:
    for log in reversed(changes):
        _undo(copied, log)
    cells, rows = copied.cells, copied.rows()
    return IdState(copied.ids[rows, ID].copy(), rows, cells[rows, COUNT], cells[rows, LAST], copied.free_rows())


def restored(capacity: int, state: IdState) -> IdMap:
    """Return a map with these ids. `capacity` is at least the number of rows that were in use at some time."""
    of = IdMap.empty(capacity)
    _restore(of, *state)
    return of


@compiled
def _restore(
    of: IdMap, ids: Int64Array, rows: Int32Array, uses: Int32Array, last: Int32Array, freed: Int32Array
) -> None:
    cells, state = of.cells, of.state
    for _ in range(len(rows) + len(freed)):
        _add_bucket(of)
    for j in range(len(rows)):
        row = np.int64(rows[j])
        of.ids[row, ID] = ids[j]
        cells[row, COUNT] = uses[j]
        cells[row, LAST] = last[j]
        bucket = bucket_of(of, ids[j])
        cells[row, CHAIN] = cells[bucket, HEAD]
        cells[bucket, HEAD] = row + 1
        _append(of, row)
    for j in range(len(freed)):
        cells[freed[j], CHAIN] = state[FREED]
        state[FREED] = freed[j] + 1
    state[NUM_LIVE] = len(rows)


@compiled
def _undo(of: IdMap, log: Int32Array) -> None:
    """Take back changes, the last one first. Buckets and their chains are left as they are."""
    cells, state = of.cells, of.state
    for j in range(len(log) - 1, -1, -1):
        kind, row, older = log[j, KIND], np.int64(log[j, ROW]), log[j, OLDER]
        if kind != REMOVED:
            _unlink(of, row)
        if kind == INSERTED:
            state[NUM_LIVE] -= 1
            if log[j, COUNT]:
                cells[row, CHAIN] = state[FREED]
                state[FREED] = row + 1
            else:
                state[NUM_ROWS] -= 1
            continue
        if kind == REMOVED:
            state[FREED] = cells[row, CHAIN]
            state[NUM_LIVE] += 1
            cells[row, :COUNT] = log[j, :COUNT]  # the id
        cells[row, COUNT] = log[j, COUNT]
        cells[row, LAST] = log[j, LAST]
        _link_behind(of, row, older)


@compiled
def _link_behind(of: IdMap, row: np.int64, older: np.int64) -> None:
    """Put a row into the order of last uses, behind the row of a link; 0: as the oldest."""
    cells, state = of.cells, of.state
    newer = cells[older - 1, NEWER] if older else state[OLDEST]
    cells[row, OLDER] = older
    cells[row, NEWER] = newer
    if older:
        cells[older - 1, NEWER] = row + 1
    else:
        state[OLDEST] = row + 1
    if newer:
        cells[newer - 1, OLDER] = row + 1
    else:
        state[NEWEST] = row + 1
