"""Which row of a dynamic table an id has: admission, expiry and reuse of rows, batch by batch in stream order. Pure.

The map is a function of the stream of training batches, and of nothing else. With the training batch of iteration i:

1. ids that were not used since `oldest` expire, and their rows are free
2. the uses of all ids are counted, those of the batch included
3. an id without a row gets one if it was used at least `admit_after` times: a free one, or a new one. At capacity it
   takes the row of the id whose last use is the oldest, or there is an error. No id of this batch loses its row.
4. ids that have no row yet read one of the default rows

If the rules admit by future uses, an id that is used often enough in all training samples gets a row with its first
use, and no other id gets one. Otherwise, ids that wait for admission are *candidates*. They expire as ids with rows do.
An id that has expired or has lost its row is forgotten: it begins again with no uses.

The first rows of a table are its default rows, behind them are those of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.dynamic_rules import MISSING, DynamicSchema
from bagpipe_hpc.lookahead.id_map import (
    BLOCK,
    COUNT,
    LAST,
    NONE,
    OLDEST,
    IdMap,
    IdState,
    Log,
    ask_for_neighbours,
    find,
    find_block,
    insert,
    remove,
    restored,
    state_later,
    use,
)
from bagpipe_hpc.protocol.plan import Int32Array, Int64Array
from bagpipe_hpc.splitmix import mix

MAX_CANDIDATES = 2**30


@dataclass(frozen=True)
class Changes:
    """What a batch has changed in the maps, int32, shape (n, 8) each; see `Log`."""

    live: Int32Array
    candidates: Int32Array


class NoRowLeftError(Exception):
    """An id must get a row, and none is left.

    Args:
        changes: What the batch has changed so far. Nothing but `state_before` may follow.
    """

    def __init__(self, changes: Changes) -> None:
        super().__init__()
        self.changes = changes


@dataclass(frozen=True)
class MappedIds:
    """The rows of a batch's ids.

    Args:
        rows: Row within the table of each id, int64, shape (num_ids,).
        born_rows: The rows that begin anew with this batch, int64, shape (n,).
        born_ids: The ids that they begin with, int64, shape (n,).
        num_expired: How many ids with rows expired.
        num_replaced: How many ids lost their row to a new one.
        num_defaults: How many of the uses read a default row.
        changes: What has changed; None: nothing.
    """

    rows: Int64Array
    born_rows: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    born_ids: Int64Array = field(default_factory=lambda: np.empty(0, np.int64))
    num_expired: int = 0
    num_replaced: int = 0
    num_defaults: int = 0
    changes: Changes | None = None


@dataclass(frozen=True)
class DynamicState:
    """The ids of one dynamic table: those with rows, and candidates."""

    live: IdState
    candidates: IdState


class DynamicRows:
    """The ids of one dynamic table.

    Args:
        rules: The rules of the table.
        before: Its ids before the first batch; None: there are none.
        frequent: If the rules admit by future uses: the ids that have enough of them, ascending, int64, shape (n,).
    """

    def __init__(
        self, rules: DynamicSchema, before: DynamicState | None = None, frequent: Int64Array | None = None
    ) -> None:
        self._rules, self._frequent = rules, frequent
        self.live = IdMap.empty(rules.capacity) if before is None else restored(rules.capacity, before.live)
        self.candidates: IdMap | None = None  # None: no id waits for admission
        if rules.admit_after > 1 and rules.admit_by == "past_uses":
            self.candidates = restored(MAX_CANDIDATES, IdState.empty() if before is None else before.candidates)
        self._log, self._log_of_candidates = Log.empty(0), Log.empty(0)

    def state_later(self, changes: Sequence[Changes]) -> Callable[[], DynamicState]:
        """Copy the ids. Return a function that works out what they were before the changes of the last batches.

        Call the function once. It may run in another thread; see `id_map.state_later`.
        """
        live = state_later(self.live, [each.live for each in changes])
        if self.candidates is None:
            return lambda: DynamicState(live(), IdState.empty())
        candidates = state_later(self.candidates, [each.candidates for each in changes])
        return lambda: DynamicState(live(), candidates())

    def state_before(self, changes: Sequence[Changes]) -> DynamicState:
        """Return the ids as they were before the changes of the last batches."""
        return self.state_later(changes)()

    def use(self, ids: Int64Array, iteration: int, oldest: int = 0) -> MappedIds:
        """Map the ids of a training batch.

        Args:
            ids: All uses, in stream order, int64, shape (num_ids,).
            iteration: The number of this training iteration, counted from 1.
            oldest: Ids expire if their last use is in an earlier iteration.
        Raises:
            NoRowLeftError: an id must get a row, and none is left.
        """
        rules, num_ids = self._rules, len(ids)
        log = self._log = self._log.emptied(_most_changes(self.live, num_ids, oldest))
        num_expired = _expire(self.live, oldest, log)
        rows, unknown = np.empty(num_ids, np.int64), np.empty(num_ids, np.int64)
        num_unknown, num_missing = _look_up_and_count(self.live, ids, iteration, rules.default_rows, rows, unknown, log)
        unknown = unknown[:num_unknown]
        places, uses, log_of_candidates = self._to_admit(ids, unknown, iteration, oldest)
        born = np.empty((2, len(places)), np.int64)
        num_born, num_replaced = _admit(
            self.live, ids, places, uses, iteration, rules.at_capacity == "oldest", born, log
        )
        changes = Changes(log.cut(), log_of_candidates.cut())
        if num_born < 0:
            raise NoRowLeftError(changes)
        num_defaults = num_missing + _fill_in(self.live, ids, unknown, rules.default_rows, rows)
        born_rows, born_ids = born[0, :num_born] + rules.default_rows, born[1, :num_born].copy()
        return MappedIds(rows, born_rows, born_ids, num_expired, num_replaced, num_defaults, changes)

    def _to_admit(
        self, ids: Int64Array, unknown: Int64Array, iteration: int, oldest: int
    ) -> tuple[Int64Array, Int64Array, Log]:
        """Return the places of ids that must get rows, and the uses that each place stands for, as for `_admit`.

        The third result is the log of the candidates.
        """
        uses = np.ones(len(unknown), np.int64)
        if self._frequent is not None:
            return unknown[_are_in(ids[unknown], self._frequent)], uses, Log.empty(0)
        if self.candidates is None:
            return unknown, uses, Log.empty(0)
        log = self._log_of_candidates.emptied(_most_changes(self.candidates, len(ids), oldest))
        self._log_of_candidates = log
        _expire(self.candidates, oldest, log)
        places, admit_after = np.empty_like(unknown), self._rules.admit_after
        num_ready = _count_candidates(self.candidates, ids, unknown, iteration, admit_after, places, uses, log)
        return places[:num_ready], uses, log

    def look_up(self, ids: Int64Array) -> MappedIds:
        """Map the ids of an evaluation: nothing changes, and ids without a row read default rows."""
        rows = np.empty(len(ids), np.int64)
        num_defaults = _look_up(self.live, ids, self._rules.default_rows, rows)
        return MappedIds(rows, num_defaults=num_defaults)


def _most_changes(of: IdMap, num_ids: int, oldest: int) -> int:
    """Return how many changes a batch makes at most: each use changes one row, admission three. Any id may expire."""
    return 4 * num_ids + (of.num_live if oldest else 0)


def _are_in(ids: Int64Array, ascending: Int64Array) -> NDArray[np.bool_]:
    """Return which ids are among others, bool, shape (n,)."""
    if not len(ascending):
        return np.zeros(len(ids), np.bool_)
    found: NDArray[np.bool_] = ascending[np.searchsorted(ascending[:-1], ids)] == ids
    return found


def warm_up_mapping() -> None:
    """Compile the functions that mapping uses, or load what an earlier run compiled."""
    rules = DynamicSchema(capacity=1, at_capacity="oldest")
    rows = DynamicRows(rules)
    changes = rows.use(np.zeros(1, np.int64), 1).changes
    DynamicRows(rules, rows.state_before([] if changes is None else [changes])).look_up(np.zeros(1, np.int64))


@compiled
def _ask_for(of: IdMap, ids: Int64Array, places: Int64Array) -> None:
    """Ask for the memory in which the ids at these places stand, or would stand. There are at most BLOCK of them."""
    keys, rows = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
    for k in range(len(places)):
        keys[k] = ids[places[k]]
    find_block(of, keys, rows)


@compiled
def _expire(of: IdMap, oldest: int, log: Log) -> int:
    """Forget the ids whose last use is before `oldest`; return how many there were."""
    count = 0
    while of.state[OLDEST] and of.cells[of.state[OLDEST] - 1, LAST] < oldest:
        remove(of, of.state[OLDEST] - 1, log)
        count += 1
    return count


@compiled
def _look_up_and_count(
    live: IdMap, ids: Int64Array, iteration: int, default_rows: int, rows: Int64Array, unknown: Int64Array, log: Log
) -> tuple[int, int]:
    """Write the rows of ids that have one and of missing ids, and the places of the others.

    Returns:
        The numbers of the others and of missing ids.
    """
    num_unknown = num_missing = 0
    for start in range(0, len(ids), BLOCK):
        stop = min(start + BLOCK, len(ids))
        find_block(live, ids[start:stop], rows[start:stop])
        ask_for_neighbours(live, rows[start:stop])
        for j in range(start, stop):
            if rows[j] != NONE:
                use(live, rows[j], iteration, log)
                rows[j] += default_rows
            elif ids[j] == MISSING:
                rows[j] = _default_row(ids[j], default_rows)
                num_missing += 1
            else:
                unknown[num_unknown] = j
                num_unknown += 1
    return num_unknown, num_missing


@compiled
def _count_candidates(
    candidates: IdMap,
    ids: Int64Array,
    unknown: Int64Array,
    iteration: int,
    admit_after: int,
    places: Int64Array,
    uses: Int64Array,
    log: Log,
) -> int:
    """Count the uses of ids without a row. Those that have enough are no candidates any more.

    Args:
        unknown: Places of ids without a row, in order.
        places: Of the same shape; the first place of each id that has enough uses is written to it, in order.
        uses: Of the same shape; how many uses this id has.
    Returns:
        The number of ids that have enough uses.
    """
    for k in range(len(unknown)):
        if k % BLOCK == 0:
            _ask_for(candidates, ids, unknown[k : k + BLOCK])
        row = find(candidates, ids[unknown[k]])
        if row == NONE:
            row = insert(candidates, ids[unknown[k]], log)
            assert row != NONE, "there are more than MAX_CANDIDATES"
        use(candidates, row, iteration, log)
    num_ready = 0
    for k in range(len(unknown)):
        if k % BLOCK == 0:
            _ask_for(candidates, ids, unknown[k : k + BLOCK])
        row = find(candidates, ids[unknown[k]])
        if row != NONE and candidates.cells[row, COUNT] >= admit_after:
            places[num_ready] = unknown[k]
            uses[num_ready] = candidates.cells[row, COUNT]
            remove(candidates, row, log)
            num_ready += 1
    return num_ready


@compiled
def _admit(
    live: IdMap,
    ids: Int64Array,
    places: Int64Array,
    uses: Int64Array,
    iteration: int,
    replaces_oldest: bool,
    born: Int64Array,
    log: Log,
) -> tuple[int, int]:
    """Give rows to ids.

    Args:
        places: Places of ids without a row, in order. An id may be at several.
        uses: How many uses of the id each place stands for, of the same shape or longer.
        born: int64, shape (2, n): new rows and their ids are written to it.
    Returns:
        The number of new rows, or -1 if there are too few, and how many ids lost theirs.
    """
    num_born = num_replaced = 0
    for k in range(len(places)):
        if k % BLOCK == 0:
            _ask_for(live, ids, places[k : k + BLOCK])
        key = ids[places[k]]
        row = find(live, key)
        if row != NONE:
            use(live, row, iteration, log)
            continue
        row = insert(live, key, log)
        if row == NONE and replaces_oldest and live.cells[live.state[OLDEST] - 1, LAST] < iteration:
            remove(live, live.state[OLDEST] - 1, log)
            num_replaced += 1
            row = insert(live, key, log)
        if row == NONE:
            return -1, 0
        live.cells[row, COUNT] = uses[k]
        live.cells[row, LAST] = iteration
        born[0, num_born] = row
        born[1, num_born] = key
        num_born += 1
    return num_born, num_replaced


@compiled
def _fill_in(live: IdMap, ids: Int64Array, unknown: Int64Array, default_rows: int, rows: Int64Array) -> int:
    """Write the rows of ids that had none before this batch; return how many of them are default rows."""
    num_defaults = 0
    for k in range(len(unknown)):
        if k % BLOCK == 0:
            _ask_for(live, ids, unknown[k : k + BLOCK])
        key = ids[unknown[k]]
        row = find(live, key)
        num_defaults += row == NONE
        rows[unknown[k]] = row + default_rows if row != NONE else _default_row(key, default_rows)
    return num_defaults


@compiled
def _look_up(live: IdMap, ids: Int64Array, default_rows: int, rows: Int64Array) -> int:
    """Write the rows of all ids; return how many of them are default rows."""
    num_defaults = 0
    for start in range(0, len(ids), BLOCK):
        stop = min(start + BLOCK, len(ids))
        find_block(live, ids[start:stop], rows[start:stop])
        for j in range(start, stop):
            is_default = rows[j] == NONE
            num_defaults += is_default
            rows[j] = _default_row(ids[j], default_rows) if is_default else rows[j] + default_rows
    return num_defaults


@compiled
def _default_row(key: np.int64, default_rows: int) -> np.int64:
    return np.int64(mix(np.uint64(key)) % np.uint64(default_rows))
