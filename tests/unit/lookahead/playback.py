"""Plays iteration plans against a model of servers, caches and stages, and stops at the first thing that is wrong.

A row's value is its *version*, the number of updates applied to it, so a stale, lost or foreign row cannot hide. What
the rows must be is recomputed from the stream alone; nothing here knows how a plan is made.

Trainers play an iteration after the other, or overlapped: while they compute i, they finish the delayed half of i - 1
and insert the rows of i + 1. Servers run as far ahead as they may, which fills the fetch rings, or as late as they may,
which fills the write-back rings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

import numpy as np

from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.protocol.plan import (
    Float32Array,
    Float64Array,
    Int32Array,
    Int64Array,
    ServerPlan,
    TrainerPlan,
)
from bagpipe_hpc.sharding import share_boundaries
from tests.plans import RankPlans

from .brute_force import Batch

DTYPES = {Int32Array: np.int32, Int64Array: np.int64, Float32Array: np.float32, Float64Array: np.float64}


@dataclass
class Row:
    """A row in a cache or in a stage."""

    key: int
    version: int
    dirty: bool = False


def play(batches: Sequence[Batch], plans: Sequence[RankPlans], **sizes: Any) -> None:
    """Play the plans twice, with the servers as early and as late as they may be.

    Args:
        batches: The whole stream.
        plans: Plans of all its iterations, or of the first few where the cache is too small for the next one.
        sizes: The planner's arguments.
    Raises:
        AssertionError: A plan breaks a promise.
    """
    for eager in (False, True):
        for overlapped in {False, sizes["prefetch_depth"] > 0}:
            Playback(batches, plans, eager=eager, overlapped=overlapped, **sizes).run()


class Playback:
    """One play of a stream's plans."""

    def __init__(
        self,
        batches: Sequence[Batch],
        plans: Sequence[RankPlans],
        *,
        eager: bool,
        overlapped: bool,
        num_embeddings: tuple[int, ...],
        features: FeatureTables,
        num_trainers: int,
        num_servers: int,
        window: int,
        prefetch_depth: int,
        cache_rows: int,
    ) -> None:
        self.batches, self.plans, self.eager, self.overlapped = batches, plans, eager, overlapped
        self.window, self.prefetch_depth, self.cache_rows = window, prefetch_depth, cache_rows
        self.num_servers = num_servers
        self.trainers, self.servers = range(num_trainers), range(num_servers)
        self.order = features.in_table_order
        self.uses = [set(batch.keys) for batch in batches]
        self.versions = [0] * sum(num_embeddings)  # what each row must be now
        self.tables = [0] * sum(num_embeddings)  # what the servers hold
        self.caches: list[dict[int, Row]] = [{} for _ in self.trainers]  # slot -> row
        # (direction, server, rows of a ring slot) -> position -> row: a ring that grows is another window
        self.windows: dict[tuple[str, int, int], dict[int, Row]] = {}
        self.first, self.end = 0, len(plans)  # the part that is being played
        self.served = 0  # steps of the servers so far
        self.finished = 0  # iterations of the trainers
        self.freed = [0 for _ in self.trainers]  # slots that the iteration before let go of: not yet free
        self.owned: dict[int, list[list[Row]]] = {}  # iteration -> per trainer, rows in use that it owns
        self.forced: dict[int, list[list[list[Row]]]] = {}  # iteration -> per trainer and server, rows set aside

    def run(self) -> None:
        """The whole stream."""
        check_rings(self.plans)
        self.run_part(0, len(self.plans))
        assert not any(self.windows.values()), "rows left in a stage"
        if len(self.plans) == len(self.batches):
            assert not any(self.caches), "rows left in a cache"
            assert self.tables == self.versions, "updates lost"

    def run_part(self, first: int, end: int) -> None:
        """Every iteration of a part: `start`, `compute`, `update`, `finish`."""
        self.first, self.end, self.served = first, end, first
        if self.overlapped and first < end:
            self.start(first)
        for i in range(first, end):
            if self.overlapped:
                self.compute(i)
                if i > first:
                    self.finish(i - 1)
                if i + 1 < end:
                    self.start(i + 1)
                self.update(i, critical=True)
            else:
                self.start(i)
                self.compute(i)
                self.update(i, critical=True)
                self.finish(i)
        if self.overlapped and first < end:
            self.finish(end - 1)
        while self.served < end + self.prefetch_depth + 1:
            self.serve()

    # --- what the stream says

    def users(self, i: int, key: int) -> list[int]:
        """Trainers whose share of iteration i contains the key."""
        return [t for t in self.trainers if key in self.share(i, t).keys]

    def share(self, i: int, t: int) -> Batch:
        """Trainer t's samples of iteration i."""
        batch, num_samples = self.batches[i], len(self.batches[i].labels)
        first, last = share_boundaries(num_samples, len(self.trainers))[t : t + 2]
        return batch.slice(first, last)

    def due(self, i: int, key: int) -> int | None:
        """First iteration from i on that uses the key, wherever it is."""
        return next((j for j in range(i, len(self.uses)) if key in self.uses[j]), None)

    def ends(self, i: int, key: int) -> bool:
        """Whether no iteration of the lookahead window after i uses the key."""
        due = self.due(i + 1, key)
        return due is None or due > i + self.window

    def may_be_forced(self, i: int, row: Row) -> bool:
        """Whether the row was not used just before, and is due later than anything already on its way in i."""
        due = self.due(i, row.key)
        return not (i and row.key in self.uses[i - 1]) and (due is None or due > i + self.prefetch_depth)

    # --- servers

    def serve(self) -> None:
        """Their next step."""
        n = self.served
        if n - self.prefetch_depth - 1 >= self.first:
            self.scatter(n - self.prefetch_depth - 1)
        if n < self.end:
            self.gather(n)
        self.served += 1

    def serve_until(self, n: int) -> None:
        """Gather the fetches of n and, if eager, all that may be gathered."""
        while self.served <= n or (
            self.eager and self.served < self.end and self.served - self.prefetch_depth - 1 < self.finished
        ):
            self.serve()

    def gather(self, n: int) -> None:
        """Servers fill the fetch stages of iteration n."""
        for s, plan in enumerate(self.plans[n].servers):
            check_arrays(plan)
            assert plan.stream_position == n, "iteration"
            assert plan.fetch_counts.sum() == len(plan.fetch_rows), "fetch_counts"
            for t, part in enumerate(parts(plan.fetch_counts)):
                assert plan.fetch_offsets[t] == self.plans[n].trainers[t].fetch_offsets[s], "fetch_offsets"
                keys = (plan.fetch_rows[part] * self.num_servers + s).tolist()
                rows = [Row(key, self.tables[key]) for key in keys]
                self.put("fetch", s, plan.fetch_ring_rows, int(plan.fetch_offsets[t]), rows)

    def scatter(self, n: int) -> None:
        """Servers drain the write-back stages of iteration n."""
        for s, plan in enumerate(self.plans[n].servers):
            assert plan.write_back_counts.sum() == len(plan.write_back_rows), "write_back_counts"
            for t, part in enumerate(parts(plan.write_back_counts)):
                assert plan.write_back_offsets[t] == self.plans[n].trainers[t].write_back_offsets[s], (
                    "write_back_offsets"
                )
                keys = (plan.write_back_rows[part] * self.num_servers + s).tolist()
                rows = self.get("write_back", s, plan.write_back_ring_rows, int(plan.write_back_offsets[t]), len(keys))
                for key, row in zip(keys, rows, strict=True):
                    assert row.key == key, "write-back of another row"
                    assert row.version > self.tables[key], "write-back without an update, or out of order"
                    self.tables[key] = row.version

    def put(self, direction: str, s: int, ring_rows: int, offset: int, rows: list[Row]) -> None:
        """Fill a stage: inside the window, and over nothing that is still to be read."""
        window = self.windows.setdefault((direction, s, ring_rows), {})
        for position, row in enumerate(rows, offset):
            assert 0 <= position < (self.prefetch_depth + 1) * ring_rows, "stage outside the window"
            assert position not in window, "stages overlap"
            window[position] = row

    def get(self, direction: str, s: int, ring_rows: int, offset: int, num_rows: int) -> list[Row]:
        """Drain a stage."""
        window = self.windows.setdefault((direction, s, ring_rows), {})
        assert all(position in window for position in range(offset, offset + num_rows)), "stage was not filled"
        return [window.pop(position) for position in range(offset, offset + num_rows)]

    # --- trainers

    def start(self, i: int) -> None:
        """Set forced rows aside, insert the fetched ones; what is pushed early can be pushed now."""
        self.serve_until(i)
        plans = self.plans[i].trainers
        assert self.plans[i].stream_position == i, "iteration"
        for t, plan in enumerate(plans):
            self.check_share(i, t, plan)
        self.forced[i] = [self.move_away(i, t, plan) for t, plan in enumerate(plans)]
        fetched = [self.insert(i, t, plan) for t, plan in enumerate(plans)]
        for t in self.trainers:
            self.check_forced(i, t, [row for part in self.forced[i][t] for row in part] + fetched[t][1])
        self.new_keys = {row.key for rows, _ in fetched for row in rows}
        self.check_owners(i, [rows for rows, _ in fetched])
        self.freed = [0 for _ in self.trainers]
        for t, plan in enumerate(plans):
            for u in self.trainers:
                positions = destination(plan, u)[: plan.push_counts[u][:2].sum()]
                rows = [self.caches[t][plan.update_slots[p]] for p in positions]
                assert all(row.version == self.versions[row.key] for row in rows), "early push of a stale row"

    def compute(self, i: int) -> None:
        """All trainers have the rows they use, fresh, in order; gradients change what the rows must be."""
        plans = self.plans[i].trainers
        self.owned[i] = [self.updated_rows(i, t, plan) for t, plan in enumerate(plans)]
        assert sorted(row.key for rows in self.owned[i] for row in rows) == sorted(self.uses[i]), (
            "not exactly the rows in use"
        )
        for t, plan in enumerate(plans):
            self.check_rows(i, t, plan, self.owned[i], self.new_keys)
        self.check_contributions(i, plans, self.owned[i])
        if not self.batches[i].read_only:
            for key in self.uses[i]:
                self.versions[key] += 1

    def update(self, i: int, *, critical: bool) -> None:
        """Apply the gradients of rows that the next iteration uses, or those of all others."""
        next_uses = self.uses[i + 1] if i + 1 < len(self.uses) and self.window else set()
        for row in (row for rows in self.owned[i] for row in rows):
            if not self.batches[i].read_only and (row.key in next_uses) == critical:
                row.version, row.dirty = row.version + 1, True

    def finish(self, i: int) -> None:
        """The delayed half: the other gradients, evictions, write-backs."""
        self.update(i, critical=False)
        for t, plan in enumerate(self.plans[i].trainers):
            rows_before = len(self.caches[t])
            self.write_back(i, plan, self.forced[i][t], self.drain(i, t, plan))
            self.freed[t] = 0 if self.overlapped else rows_before - len(self.caches[t])
        self.finished = i + 1

    def check_share(self, i: int, t: int, plan: TrainerPlan) -> None:
        """The samples are the trainer's, and every array is of its kind."""
        check_arrays(plan)
        share = self.share(i, t)
        assert (plan.stream_position, plan.read_only) == (i, share.read_only), "read_only"
        num_samples = (len(share.labels), len(self.batches[i].labels))
        assert (plan.num_samples, plan.num_global_samples) == num_samples, "num_samples"
        assert np.array_equal(plan.labels, share.labels), "labels"
        assert np.array_equal(plan.dense, share.dense), "dense"
        assert plan.fetch_counts.sum() == len(plan.fetch_slots), "fetch_counts"
        assert plan.write_back_counts.sum() == len(plan.write_back_slots), "write_back_counts"
        for counts in (plan.fetch_counts, plan.write_back_counts, plan.forced_counts):
            assert counts.shape == (len(self.servers),), "a count per server"
        for counts in (plan.push_counts, plan.replica_counts):
            assert counts.shape == (len(self.trainers), 4), "four counts per trainer"
            assert not counts[t].any(), "a trainer pushes to itself"

    def move_away(self, i: int, t: int, plan: TrainerPlan) -> list[list[Row]]:
        """Dirty rows that are forced out, by server."""
        forced: list[list[Row]] = []
        for part, num_forced in zip(parts(plan.write_back_counts), plan.forced_counts, strict=True):
            slots = plan.write_back_slots[part][:num_forced].tolist()
            assert len(slots) == num_forced, "forced_counts"
            forced.append(self.take(t, slots))
            assert all(row.dirty for row in forced[-1]), "write-back of a clean row"
            assert set(slots) <= set(plan.fetch_slots.tolist()), "forced out for nothing"
        return forced

    def take(self, t: int, slots: list[int]) -> list[Row]:
        """Rows that leave the cache of trainer t."""
        assert len(set(slots)) == len(slots), "a row leaves twice"
        assert all(slot in self.caches[t] for slot in slots), "eviction of an absent row"
        return [self.caches[t].pop(slot) for slot in slots]

    def insert(self, i: int, t: int, plan: TrainerPlan) -> tuple[list[Row], list[Row]]:
        """Rows that arrive from the servers, and the clean rows they overwrite."""
        arrived = [
            row
            for s, part in enumerate(parts(plan.fetch_counts))
            for row in self.get("fetch", s, plan.fetch_ring_rows, int(plan.fetch_offsets[s]), part.stop - part.start)
        ]
        cached = {row.key for cache in self.caches for row in cache.values()}
        overwritten = []
        for slot, row in zip(plan.fetch_slots.tolist(), arrived, strict=True):
            assert 0 <= slot < self.cache_rows, "slot outside the cache"
            assert row.key in self.uses[i], "fetch of an unused row"
            assert row.key not in cached, "fetch of a resident row"
            assert row.version == self.versions[row.key], "fetch of a stale row"
            if slot in self.caches[t]:
                overwritten.append(self.caches[t].pop(slot))
                assert not overwritten[-1].dirty, "a dirty row is overwritten"
            self.caches[t][slot] = row
        return arrived, overwritten

    def check_forced(self, i: int, t: int, victims: list[Row]) -> None:
        """Evictions in mid-residency: from a full cache, nothing that is due soon, the farthest next use first."""
        if victims:
            assert len(self.caches[t]) + self.freed[t] == self.cache_rows, (
                "forced eviction from a cache that is not full"
            )
            assert all(self.may_be_forced(i, row) for row in victims), "forced eviction of a row that is due"
            nearest = min(self.due(i, row.key) or 0 for row in victims)
            others = [row for row in self.caches[t].values() if not (i and row.key in self.uses[i - 1])]
            assert all((self.due(i, row.key) or 0) <= nearest for row in others), "not Belady's victim"

    def check_owners(self, i: int, fetched: list[list[Row]]) -> None:
        """A row's owner is one of its users, unless one of them could not take it."""
        stuck = {
            t
            for t, cache in enumerate(self.caches)
            if len(cache) + self.freed[t] == self.cache_rows
            and not any(self.may_be_forced(i, row) for row in cache.values())
        }
        for owner, rows in enumerate(fetched):
            for row in rows:
                users = set(self.users(i, row.key))
                assert owner in users or users & stuck, "owner is not a user"

    def updated_rows(self, i: int, t: int, plan: TrainerPlan) -> list[Row]:
        """Rows that trainer t owns and anyone uses: all there, all fresh."""
        slots = plan.update_slots.tolist()
        assert len(set(slots)) == len(slots), "a row is updated twice"
        assert all(slot in self.caches[t] for slot in slots), "read of an absent row"
        rows = [self.caches[t][slot] for slot in slots]
        assert all(row.version == self.versions[row.key] for row in rows), "read of a stale row"
        for row in rows[plan.num_own :]:
            assert t not in self.users(i, row.key), "an own row is not among the first"
        return rows

    def check_rows(self, i: int, t: int, plan: TrainerPlan, updated: list[list[Row]], new_keys: set[int]) -> None:
        """Trainer t has exactly the rows it uses, in the order that sample_rows counts on."""
        rows = updated[t][: plan.num_own]
        for owner, owner_plan in enumerate(self.plans[i].trainers):
            replicas = [updated[owner][p] for p in destination(owner_plan, t)]
            assert plan.replica_counts[owner].sum() == len(replicas), "replica_counts"
            assert np.array_equal(plan.replica_counts[owner], owner_plan.push_counts[t]), "replica_counts"
            self.check_classes(i, replicas, plan.replica_counts[owner], new_keys)
            rows = rows + replicas
        keys = self.ids(self.share(i, t))
        assert sorted(row.key for row in rows) == sorted(set(keys)), "not exactly the rows in use"
        assert [rows[p].key for p in plan.sample_rows] == keys, "a sample gets another row"

    def ids(self, share: Batch) -> list[int]:
        """Keys of a share's ids, in table order."""
        return [key for feature in self.order for bag in share.bags[feature] for key in bag]

    def check_classes(self, i: int, replicas: list[Row], counts: Int32Array, new_keys: set[int]) -> None:
        """Late pushes are a suffix, critical gradients one run; both exactly those of the stream."""
        first, middle, last, _ = np.cumsum(counts).tolist()
        updated_before = self.uses[i - 1] if i and not self.batches[i - 1].read_only else set()
        keys = [row.key for row in replicas]
        late = {key for key in keys if key in updated_before and key not in new_keys}
        critical = {key for key in keys if not self.ends(i, key) and self.due(i + 1, key) == i + 1}
        assert set(keys[middle:]) == late, "late pushes"
        assert set(keys[first:last]) == critical, "critical gradients"

    def check_contributions(self, i: int, plans: Sequence[TrainerPlan], updated: list[list[Row]]) -> None:
        """Gradients reach the owner in ascending trainer order, once from each user."""
        for owner, rows in enumerate(updated):
            contributions: list[list[int]] = [[] for _ in rows]
            for t in self.trainers:
                for p in range(plans[owner].num_own) if t == owner else destination(plans[owner], t):
                    contributions[p].append(t)
            for row, contributors in zip(rows, contributions, strict=True):
                assert contributors == self.users(i, row.key), "gradient contributions"

    def drain(self, i: int, t: int, plan: TrainerPlan) -> list[list[Row]]:
        """Residencies that end with iteration i: the dirty ones by server, the clean ones just vanish."""
        natural = []
        for part, num_forced in zip(parts(plan.write_back_counts), plan.forced_counts, strict=True):
            natural.append(self.take(t, plan.write_back_slots[part][num_forced:].tolist()))
        for row in (row for rows in natural for row in rows):
            assert row.dirty, "write-back of a clean row"
            assert row.key in self.uses[i], "eviction of a row that is not in use"
            assert self.ends(i, row.key), "eviction of a row with a next use"
        for slot, row in list(self.caches[t].items()):
            if row.key in self.uses[i] and self.ends(i, row.key):
                assert not row.dirty, "a dirty row is not written back"
                del self.caches[t][slot]
        return natural

    def write_back(self, i: int, plan: TrainerPlan, forced: list[list[Row]], natural: list[list[Row]]) -> None:
        """Fill the write-back stages of one trainer."""
        for s in self.servers:
            rows = forced[s] + natural[s]
            self.put("write_back", s, plan.write_back_ring_rows, int(plan.write_back_offsets[s]), rows)


def parts(counts: Int32Array) -> Iterator[slice]:
    """Consecutive slices of the given lengths."""
    ends = np.cumsum(counts).tolist()
    yield from (slice(end - count, end) for end, count in zip(ends, counts.tolist(), strict=True))


def destination(plan: TrainerPlan, t: int) -> list[int]:
    """Positions in update_slots of the rows pushed to trainer t."""
    assert plan.push_counts.sum() == len(plan.push_index), "push_counts"
    positions: list[int] = plan.push_index[list(parts(plan.push_counts.sum(axis=1)))[t]].tolist()
    return positions


def check_arrays(plan: TrainerPlan | ServerPlan) -> None:
    """Every field is of the type its annotation says."""
    hints = get_type_hints(type(plan))
    for field in fields(plan):
        value, hint = getattr(plan, field.name), hints[field.name]
        assert type(value) is (np.ndarray if hint in DTYPES else hint), field.name
        assert hint not in DTYPES or value.dtype == DTYPES[hint], field.name


def check_rings(plans: Sequence[RankPlans]) -> None:
    """Ring slots are powers of two from 1,024 on, the same for everybody, and never shrink."""
    for name in ("fetch_ring_rows", "write_back_ring_rows"):
        rows = [{getattr(part, name) for part in (*plan.trainers, *plan.servers)} for plan in plans]
        assert all(len(sizes) == 1 for sizes in rows), "ring sizes differ"
        sizes = [size for one in rows for size in one]
        assert all(size >= 1024 and size & (size - 1) == 0 for size in sizes), "ring size"
        assert sizes == sorted(sizes), "a ring shrank"
