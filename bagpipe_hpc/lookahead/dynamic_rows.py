"""Which row of a dynamic table an id has: admission, expiry and reuse of rows, batch by batch in stream order. Pure.

The map is a function of the stream of training batches, and of nothing else. With the training batch of iteration i:

1. ids that were not used since `oldest` expire, and their rows are free
2. the uses of all ids are counted, those of the batch included
3. an id without a row gets one if it was used at least `admit_after` times: a free one, or a new one. At capacity it
   takes the row of the id whose last use is the oldest, or there is an error. No id of this batch loses its row.
4. ids that have no row yet read one of the default rows

Ids that wait for admission are *candidates*. They expire as ids with rows do. An id that has expired or has lost its
row is forgotten: it begins again with no uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bagpipe_hpc.cache_hint import hint
from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.lookahead.id_map import (
    COUNT,
    HEAD,
    LAST,
    MAX_COUNT,
    MAX_ROWS,
    NEWER,
    NONE,
    NUM_ROWS,
    OLDER,
    OLDEST,
    IdMap,
    bucket_of,
    find,
    insert,
    make_newest,
    remove,
)
from bagpipe_hpc.protocol.plan import Int64Array
from bagpipe_hpc.splitmix import mix

MAX_CANDIDATES = 2**30
_AHEAD = 16  # ids


class TableFullError(Exception):
    """A batch has more new ids than there are rows for."""


@dataclass(frozen=True)
class Admission:
    """The rules of a dynamic table.

    Args:
        capacity: How many ids have rows at the same time, at most.
        admit_after: An id gets a row once it was used so often, at least 1.
        replaces_oldest: Whether a new id takes the row of the id with the oldest last use when no row is left.
        default_rows: The number of rows that ids without a row of their own share, at least 1.
    """

    capacity: int
    admit_after: int = 1
    replaces_oldest: bool = False
    default_rows: int = 1

    @property
    def num_rows(self) -> int:
        """The number of rows of the table: the default rows, then those of ids."""
        return self.default_rows + self.capacity


class Mapped(NamedTuple):
    """The rows of a batch's ids.

    Args:
        rows: Row within the table of each id, int64, shape (num_ids,).
        born_rows: The rows that begin anew with this batch, int64, shape (n,).
        born_ids: The ids that they begin with, int64, shape (n,).
        num_expired: How many ids with rows expired.
        num_replaced: How many ids lost their row to a new one.
        num_defaults: How many of the uses read a default row.
    """

    rows: Int64Array
    born_rows: Int64Array
    born_ids: Int64Array
    num_expired: int = 0
    num_replaced: int = 0
    num_defaults: int = 0


class DynamicRows:
    """The ids of one dynamic table.

    Args:
        admission: The rules.
    """

    def __init__(self, admission: Admission) -> None:
        assert 1 <= admission.capacity <= MAX_ROWS
        self.admission = admission
        self.live = IdMap.empty(admission.capacity)
        waits = admission.admit_after > 1
        self.candidates = IdMap.empty(MAX_CANDIDATES if waits else 1 << 16)

    def use(self, ids: Int64Array, iteration: int, oldest: int = 0) -> Mapped:
        """Map the ids of a training batch.

        Args:
            ids: All uses, in stream order, int64, shape (num_ids,).
            iteration: The number of this training iteration, counted from 1.
            oldest: Ids expire if their last use is in an earlier iteration.
        Raises:
            TableFullError: an id must get a row, and none is left.
        """
        admission = self.admission
        if admission.admit_after == 1 and len(ids) > len(self.candidates.cells):
            self.candidates = IdMap.empty(1 << len(ids).bit_length())  # it is empty between two batches
        num_expired = _expire(self.live, oldest)
        _expire(self.candidates, oldest)
        rows = np.empty(len(ids), np.int64)
        unknown = np.empty(len(ids), np.int64)  # places of ids without a row
        num_unknown = _look_up_and_count(self.live, ids, iteration, admission.default_rows, rows, unknown)
        unknown = unknown[:num_unknown]
        waiting, born = np.empty(num_unknown, np.int64), np.empty((2, num_unknown), np.int64)
        num_born, num_replaced = _admit(
            self.live,
            self.candidates,
            ids,
            unknown,
            iteration,
            admission.admit_after,
            admission.replaces_oldest,
            waiting,
            born,
        )
        if num_born < 0:
            raise TableFullError
        num_defaults = _fill_in(self.live, ids, unknown, admission.default_rows, rows)
        born_rows = born[0, :num_born] + admission.default_rows
        return Mapped(rows, born_rows, born[1, :num_born].copy(), num_expired, num_replaced, num_defaults)

    def look_up(self, ids: Int64Array) -> Mapped:
        """Map the ids of an evaluation: nothing changes, and ids without a row read default rows."""
        rows = np.empty(len(ids), np.int64)
        num_defaults = _look_up(self.live, ids, self.admission.default_rows, rows)
        nothing = np.empty(0, np.int64)
        return Mapped(rows, nothing, nothing, num_defaults=num_defaults)


@compiled
def _ask_for(of: IdMap, ids: Int64Array, j: int) -> None:
    """Ask for the memory that later ids need: the bucket of one, the row of a nearer one, and that row's neighbours."""
    if of.state[NUM_ROWS] == 0:
        return
    cells, last = of.cells, len(ids) - 1
    hint(cells, bucket_of(of, ids[min(j + 3 * _AHEAD, last)]))
    link = cells[bucket_of(of, ids[min(j + 2 * _AHEAD, last)]), HEAD]
    if link:
        hint(cells, link - 1)
    link = cells[bucket_of(of, ids[min(j + _AHEAD, last)]), HEAD]
    if link:
        hint(cells, max(cells[link - 1, OLDER], 1) - 1)
        hint(cells, max(cells[link - 1, NEWER], 1) - 1)


@compiled
def _count_use(of: IdMap, row: np.int64, iteration: int) -> None:
    cells = of.cells
    if cells[row, COUNT] < MAX_COUNT:
        cells[row, COUNT] += 1
    if cells[row, LAST] != iteration:
        cells[row, LAST] = iteration
        make_newest(of, row)


@compiled
def _expire(of: IdMap, oldest: int) -> int:
    """Forget the ids whose last use is before `oldest`; return how many there were."""
    count = 0
    while of.state[OLDEST] and of.cells[of.state[OLDEST] - 1, LAST] < oldest:
        remove(of, of.state[OLDEST] - 1)
        count += 1
    return count


@compiled
def _look_up_and_count(
    live: IdMap, ids: Int64Array, iteration: int, default_rows: int, rows: Int64Array, unknown: Int64Array
) -> int:
    """Write the rows of ids that have one, and the places of the others; return the number of the others."""
    num_unknown = 0
    for j in range(len(ids)):
        _ask_for(live, ids, j)
        row = find(live, ids[j])
        if row == NONE:
            unknown[num_unknown] = j
            num_unknown += 1
        else:
            _count_use(live, row, iteration)
            rows[j] = row + default_rows
    return num_unknown


@compiled
def _admit(
    live: IdMap,
    candidates: IdMap,
    ids: Int64Array,
    unknown: Int64Array,
    iteration: int,
    admit_after: int,
    replaces_oldest: bool,
    waiting: Int64Array,
    born: Int64Array,
) -> tuple[int, int]:
    """Count the uses of ids without a row, and give rows to those that have enough.

    Args:
        unknown: Places of ids without a row, in order.
        waiting: Of the same shape; the candidates of these ids are written to it.
        born: int64, shape (2, n): new rows and their ids are written to it.
    Returns:
        The number of new rows, or -1 if there are too few, and how many ids lost theirs.
    """
    for k in range(len(unknown)):
        row = find(candidates, ids[unknown[k]])
        if row == NONE:
            row = insert(candidates, ids[unknown[k]])
            if row == NONE:
                return -1, 0
        _count_use(candidates, row, iteration)
        waiting[k] = row
    num_born = num_replaced = 0
    for k in range(len(unknown)):
        candidate = waiting[k]
        count = candidates.cells[candidate, COUNT]
        if count < admit_after:
            continue
        key = ids[unknown[k]]
        row = insert(live, key)
        if row == NONE and replaces_oldest and live.cells[live.state[OLDEST] - 1, LAST] < iteration:
            remove(live, live.state[OLDEST] - 1)
            num_replaced += 1
            row = insert(live, key)
        if row == NONE:
            return -1, 0
        live.cells[row, COUNT] = count
        live.cells[row, LAST] = iteration
        remove(candidates, candidate)
        candidates.cells[candidate, COUNT] = 0  # so that later uses in this batch do not admit the id again
        born[0, num_born] = row
        born[1, num_born] = key
        num_born += 1
    return num_born, num_replaced


@compiled
def _fill_in(live: IdMap, ids: Int64Array, unknown: Int64Array, default_rows: int, rows: Int64Array) -> int:
    """Write the rows of ids that had none before this batch; return how many of them are default rows."""
    num_defaults = 0
    for k in range(len(unknown)):
        key = ids[unknown[k]]
        row = find(live, key)
        num_defaults += row == NONE
        rows[unknown[k]] = row + default_rows if row != NONE else _default_row(key, default_rows)
    return num_defaults


@compiled
def _look_up(live: IdMap, ids: Int64Array, default_rows: int, rows: Int64Array) -> int:
    """Write the rows of all ids; return how many of them are default rows."""
    num_defaults = 0
    for j in range(len(ids)):
        _ask_for(live, ids, j)
        row = find(live, ids[j])
        num_defaults += row == NONE
        rows[j] = row + default_rows if row != NONE else _default_row(ids[j], default_rows)
    return num_defaults


@compiled
def _default_row(key: np.int64, default_rows: int) -> np.int64:
    return np.int64(mix(np.uint64(key)) % np.uint64(default_rows))
