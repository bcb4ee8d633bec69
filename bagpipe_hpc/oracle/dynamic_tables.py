"""The dynamic tables of a job: ids of batches become rows, before anything is planned (docs/data.md).

One step of the oracle's pipeline maps batch after batch, L and more batches ahead of the plans. It keeps what each of
these batches has changed. So a boundary between two plans has the ids as they were after the batches before it, and the
row of an id does not depend on where a job was stopped.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bagpipe_hpc.batch import Batch, Births, IdArray
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import TableFullError
from bagpipe_hpc.lookahead.dynamic_rows import DynamicRows, DynamicState, MappedIds, NoRowLeftError
from bagpipe_hpc.protocol.plan import Int64Array

MAX_ITERATION = 2**31 - 1  # that the last use of an id may have


@dataclass(frozen=True)
class TableFigures:
    """What has happened to the ids of one dynamic table in the whole job.

    Args:
        live: How many ids have rows.
        admitted: How many ids have got a row.
        expired: How many ids with rows have expired.
        replaced: How many ids have lost their row to a new one.
        uses: How many uses of ids there were in training.
        default_uses: How many of them read a default row.
    """

    live: int = 0
    admitted: int = 0
    expired: int = 0
    replaced: int = 0
    uses: int = 0
    default_uses: int = 0

    @property
    def default_share(self) -> float:
        """The fraction of the uses that read a default row."""
        return self.default_uses / max(1, self.uses)

    def to_json(self) -> dict[str, int | float]:
        """Return the figures by name, as in metrics.jsonl and summary.json."""
        return {**vars(self), "default_share": self.default_share}

    def after(self, mapped: MappedIds) -> TableFigures:
        """Return the figures after one more training batch."""
        born = len(mapped.born_rows)
        return TableFigures(
            self.live + born - mapped.num_expired - mapped.num_replaced,
            self.admitted + born,
            self.expired + mapped.num_expired,
            self.replaced + mapped.num_replaced,
            self.uses + len(mapped.rows),
            self.default_uses + mapped.num_defaults,
        )


def figures_by_table(tables: Mapping[str, TableFigures]) -> dict[str, dict[str, int | float]]:
    """Return the figures of tables as JSON values."""
    return {name: figures.to_json() for name, figures in tables.items()}


@dataclass(frozen=True)
class DynamicTablesState:
    """The dynamic tables at a boundary.

    Args:
        ids: The ids of each table, by its name.
        figures: Of each table.
        times: The times of the latest batches that expiry may still need, int64, shape (n, 2): training iteration,
            counted from 1, and time of its last sample.
    """

    ids: Mapping[str, DynamicState]
    figures: Mapping[str, TableFigures]
    times: Int64Array


class DynamicTables:
    """Maps the ids of batches. Two threads use it: one maps, the other one makes plans and boundaries.

    Args:
        schema: The schema of the samples, with the rules of the job. It has dynamic tables.
        num_trained: Training iterations of the whole job before the first batch.
        before: The tables at the boundary before the first batch; None: they are empty.
        frequent: The ids with enough uses, of each table that admits by future uses; see data/frequent_ids.py.
    """

    def __init__(
        self,
        schema: Schema,
        num_trained: int,
        before: DynamicTablesState | None = None,
        frequent: Mapping[str, Int64Array] | None = None,
    ) -> None:
        self._rules: dict[str, DynamicSchema] = schema.dynamic_tables
        places = {table.name: place for place, table in enumerate(schema.own_tables)}
        self._places = [places[name] for name in self._rules]
        self._columns = {table.name: column for column, table in enumerate(schema.one_hot_tables)}
        self._features = {
            name: [table.name for table in schema.dynamic_features if table.table_name == name] for name in self._rules
        }
        self._is_narrow = all(each.num_embeddings < 2**31 for each in schema.one_hot_tables)
        ids = before.ids if before else {}
        often = frequent or {}
        self._rows = {name: DynamicRows(rules, ids.get(name), often.get(name)) for name, rules in self._rules.items()}
        figures = before.figures if before else {}
        self._figures = {name: figures.get(name, TableFigures()) for name in self._rules}
        self._times: deque[tuple[int, int]] = deque((i, time) for i, time in (before.times.tolist() if before else ()))
        self._num_mapped = self._num_planned = num_trained
        self._pending: deque[dict[str, MappedIds]] = deque()  # of training batches that have no plan (yet)
        self._lock = threading.Lock()

    def mapped(self, batch: Batch) -> Batch:
        """Return the next batch of the stream with rows in place of ids.

        Raises:
            TableFullError: an id must get a row, and none is left. No batch may follow. `state` is right once all
                batches before have plans.
        """
        ids = {name: self._ids_of(batch, features) for name, features in self._features.items()}
        with self._lock:
            if batch.read_only:
                found = {name: self._rows[name].look_up(each) for name, each in ids.items()}
            else:
                found = self._use(batch, ids)
        return self._with_rows(batch, found)

    def planned(self) -> None:
        """Note that the oldest training batch without a plan has one now."""
        with self._lock:
            for name, mapped in self._pending.popleft().items():
                self._figures[name] = self._figures[name].after(mapped)
            self._num_planned += 1

    def figures(self) -> dict[str, TableFigures]:
        """Return the figures of each table after the plan that was made last."""
        with self._lock:
            return dict(self._figures)

    def state_later(self) -> Callable[[], DynamicTablesState]:
        """Copy the tables. Return a function that works out what they were after the plan that was made last.

        Nobody can map a batch while this copies. Call the function once, in any thread; see `id_map.state_later`.
        """
        with self._lock:
            later = {}
            for name, rows in self._rows.items():
                changes = [each[name].changes for each in self._pending if name in each]
                later[name] = rows.state_later([each for each in changes if each is not None])
            figures = dict(self._figures)
            times = [each for each in self._times if each[0] <= self._num_planned]

        def state() -> DynamicTablesState:
            ids = {name: ids_of_table() for name, ids_of_table in later.items()}
            return DynamicTablesState(ids, figures, np.array(times, np.int64).reshape(-1, 2))

        return state

    def state(self) -> DynamicTablesState:
        """Return the tables as they were after the plan that was made last."""
        return self.state_later()()

    def _use(self, batch: Batch, ids: Mapping[str, Int64Array]) -> dict[str, MappedIds]:
        iteration = self._num_mapped = self._num_mapped + 1
        if iteration > MAX_ITERATION:
            raise TableFullError(
                f"jobs with dynamic tables train at most {MAX_ITERATION:,} iterations; start another one"
            )
        if batch.times is not None and batch.num_samples:
            self._times.append((iteration, int(batch.times[-1])))
        found: dict[str, MappedIds] = {}
        self._pending.append(found)
        for name, each in ids.items():
            try:
                found[name] = self._rows[name].use(each, iteration, self._oldest(self._rules[name], iteration))
            except NoRowLeftError as error:
                found[name] = MappedIds(np.empty(0, np.int64), changes=error.changes)
                raise self._full(name, iteration) from None
        self._forget_times()
        return found

    def _oldest(self, rules: DynamicSchema, iteration: int) -> int:
        """Return the first iteration whose uses keep an id alive; 0: all do."""
        if rules.lifetime is not None:
            return max(0, iteration - rules.lifetime)
        if rules.lifetime_in_time is None or not self._times:
            return 0
        earliest = self._times[-1][1] - rules.lifetime_in_time
        place = bisect_left(self._times, earliest, key=lambda each: each[1])
        # At place 0, nothing is known of the iterations before, or there are none.
        return self._times[place][0] if place else 0

    def _forget_times(self) -> None:
        """Forget the times that no batch behind the plan made last needs: those before the lifetime of its ids."""
        longest = max((rules.lifetime_in_time or 0 for rules in self._rules.values()), default=0)
        now = next((time for iteration, time in self._times if iteration >= self._num_planned), None)
        while now is not None and len(self._times) > 1 and self._times[1][1] < now - longest:
            self._times.popleft()

    def _ids_of(self, batch: Batch, features: list[str]) -> Int64Array:
        pieces = [
            batch.ids[:, self._columns[name]] if name in self._columns else batch.bags[name].ids for name in features
        ]
        return np.concatenate(pieces).astype(np.int64, copy=False)

    def _with_rows(self, batch: Batch, found: Mapping[str, MappedIds]) -> Batch:
        ids = batch.ids.copy()
        bags = dict(batch.bags)
        for name, mapped in found.items():
            start = 0
            for feature in self._features[name]:
                if feature in self._columns:
                    stop = start + batch.num_samples
                    ids[:, self._columns[feature]] = mapped.rows[start:stop]
                else:
                    stop = start + len(bags[feature].ids)
                    bags[feature] = replace(bags[feature], ids=mapped.rows[start:stop])
                start = stop
        narrow: IdArray = ids.astype(np.int32) if self._is_narrow else ids
        return replace(batch, ids=narrow, bags=bags, births=self._births(found))

    def _births(self, found: Mapping[str, MappedIds]) -> Births | None:
        born = list(zip(self._places, found.values(), strict=True))
        if not any(len(mapped.born_rows) for _, mapped in born):
            return None
        return Births(
            np.concatenate([np.full(len(mapped.born_rows), place, np.int64) for place, mapped in born]),
            np.concatenate([mapped.born_rows for _, mapped in born]),
            np.concatenate([mapped.born_ids for _, mapped in born]),
        )

    def _full(self, name: str, iteration: int) -> TableFullError:
        rules = self._rules[name]
        if rules.at_capacity == "oldest":
            return TableFullError(
                f"table {name} has rows for {rules.capacity:,} ids, and iteration {iteration:,} uses more ids than "
                f"that; raise tables.{name}.capacity, or lower training.batch_size"
            )
        return TableFullError(
            f"table {name} has rows for {rules.capacity:,} ids, and a new id of iteration {iteration:,} finds none "
            f"left; raise tables.{name}.capacity, set tables.{name}.at_capacity to oldest, or let ids expire "
            f"(tables.{name}.expire_after)"
        )
