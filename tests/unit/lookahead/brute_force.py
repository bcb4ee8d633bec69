"""The oracle's oracle: a planner that keeps the whole stream in lists and looks everything up again each time.

It follows the rules of lookahead planning word by word, as slowly as they are said. The planner proper must yield equal
plans, field by field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np

from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.feature_tables import FeatureTables
from bagpipe_hpc.protocol.plan import (
    Float32Array,
    Int32Array,
    Int64Array,
    ServerPlan,
    TrainerPlan,
)
from bagpipe_hpc.sharding import share_boundaries
from tests.plans import RankPlans

# (late push, critical gradient) in Gray order: neighbours differ in one bit
GRAY_CLASS = {(False, False): 0, (False, True): 1, (True, True): 2, (True, False): 3}


@dataclass(frozen=True)
class Batch:
    """The planner's Batch, but with keys instead of row ids, and with a bag of one id for each one-hot feature."""

    bags: list[list[list[int]]]  # [feature][sample] -> keys
    labels: Float32Array  # (num_samples,)
    dense: Float32Array  # (num_samples, num_dense)
    read_only: bool = False
    weighted: tuple[int, ...] = ()  # ragged features

    @property
    def keys(self) -> list[int]:
        """All of them."""
        return [key for samples in self.bags for bag in samples for key in bag]

    def slice(self, first: int, last: int) -> Batch:
        """Samples [first, last)."""
        bags = [samples[first:last] for samples in self.bags]
        return Batch(bags, self.labels[first:last], self.dense[first:last], self.read_only, self.weighted)

    def weights(self, feature: int) -> list[float]:
        """Of a weighted feature's ids: something that tells them apart."""
        return [
            label + key / 16 for label, bag in zip(self.labels.tolist(), self.bags[feature], strict=True) for key in bag
        ]


@dataclass
class CacheModel:
    """A key's row in its owner's cache, from its fetch to its eviction."""

    key: int
    owner: int
    slot: int
    next_use: int
    retained: int = 0  # serial number of its latest retention
    dirty: bool = False


@dataclass
class Stages:
    """Rows that travel between trainers and servers in one direction in one iteration."""

    rows: list[list[list[CacheModel]]]  # [trainer][server] -> rows in order
    ring_rows: int  # rows of one ring slot
    start: int  # of this iteration's ring slot

    def count(self, t: int, s: int) -> int:
        """Rows in the stage of trainer t at server s."""
        return len(self.rows[t][s])

    def offset(self, t: int, s: int) -> int:
        """First row of that stage: the stages of all trainers stand side by side."""
        return self.start + sum(self.count(u, s) for u in range(t))


class BruteForcePlanner:
    """The twin of `bagpipe_hpc.lookahead.planner.Planner`: same arguments, same plans."""

    def __init__(
        self,
        *,
        num_embeddings: tuple[int, ...],
        features: FeatureTables,
        num_trainers: int,
        num_servers: int,
        window: int,
        prefetch_depth: int,
        cache_rows: int,
    ) -> None:
        self.num_trainers, self.num_servers = num_trainers, num_servers
        self.features = [
            [f for f, its_table in enumerate(features.tables) if its_table == table]
            for table in range(len(num_embeddings))
        ]
        self.ragged = features.ragged
        self.window, self.prefetch_depth, self.cache_rows = window, prefetch_depth, cache_rows
        self.trainers = range(num_trainers)
        self.servers = range(num_servers)

    def plans(self, batches: Iterable[Batch]) -> Iterator[RankPlans]:
        """Plans of all iterations, in order."""
        self.stream = list(batches)
        self.unique = [
            list(dict.fromkeys(key for table in self.features for t in self.trainers for key in self.ids(i, t, table)))
            for i in range(len(self.stream))
        ]
        self.resident: dict[int, CacheModel] = {}
        self.free_slots: list[list[int]] = [[] for _ in self.trainers]
        self.freed_slots: list[list[int]] = [[] for _ in self.trainers]  # by the iteration before: free in the next
        self.num_handed_out = [0 for _ in self.trainers]
        self.retentions = count()
        self.num_pushed = [0 for _ in self.trainers]  # in the iteration before, and of rows fetched in this one
        fetch_ring = write_back_ring = 1024

        for i in range(len(self.stream)):
            late = set(self.resident) & self.updated_before(i)
            fetched, forced = self.enter(i)
            rows = {key: self.resident[key] for key in self.unique[i]}
            natural = self.leave(i)
            orders = self.trainer_orders(i, rows, late)
            fetch = self.stages(i, fetched, fetch_ring)
            write_back = self.stages(i, forced + natural, write_back_ring)
            fetch_ring, write_back_ring = fetch.ring_rows, write_back.ring_rows
            trainers = tuple(
                TrainerPlan(
                    **self.share_fields(i, t, orders[t]),
                    **self.exchange_fields(i, t, rows, orders, late),
                    fetch_slots=int32([row.slot for part in fetch.rows[t] for row in part]),
                    fetch_counts=int32([fetch.count(t, s) for s in self.servers]),
                    fetch_offsets=int64([fetch.offset(t, s) for s in self.servers]),
                    write_back_slots=int32([row.slot for part in write_back.rows[t] for row in part]),
                    write_back_counts=int32([write_back.count(t, s) for s in self.servers]),
                    forced_counts=int32([len(part) for part in self.split(forced)[t]]),
                    write_back_offsets=int64([write_back.offset(t, s) for s in self.servers]),
                    fetch_ring_rows=fetch_ring,
                    write_back_ring_rows=write_back_ring,
                )
                for t in self.trainers
            )
            servers = tuple(
                ServerPlan(
                    stream_position=i,
                    fetch_rows=self.local_rows(fetch, s),
                    fetch_counts=int32([fetch.count(t, s) for t in self.trainers]),
                    fetch_offsets=int64([fetch.offset(t, s) for t in self.trainers]),
                    write_back_rows=self.local_rows(write_back, s),
                    write_back_counts=int32([write_back.count(t, s) for t in self.trainers]),
                    write_back_offsets=int64([write_back.offset(t, s) for t in self.trainers]),
                    fetch_ring_rows=fetch_ring,
                    write_back_ring_rows=write_back_ring,
                )
                for s in self.servers
            )
            self.num_pushed = [len(trainer.push_index) for trainer in trainers]
            yield RankPlans(stream_position=i, trainers=trainers, servers=servers)

    # --- what the stream says

    def next_use(self, i: int, key: int) -> int | None:
        """The next iteration inside the lookahead window that uses the key."""
        ahead = range(i + 1, min(i + self.window + 1, len(self.stream)))
        return next((j for j in ahead if key in self.unique[j]), None)

    def updated_before(self, i: int) -> set[int]:
        """Keys whose rows iteration i - 1 updated."""
        return set() if i == 0 or self.stream[i - 1].read_only else set(self.unique[i - 1])

    def samples(self, i: int, t: int) -> Batch:
        """Trainer t's share of iteration i."""
        cuts = share_boundaries(len(self.stream[i].labels), self.num_trainers)
        return self.stream[i].slice(cuts[t], cuts[t + 1])

    def ids(self, i: int, t: int, features: list[int]) -> list[int]:
        """Keys of some features of trainer t's share, feature by feature."""
        share = self.samples(i, t)
        return [key for f in features for bag in share.bags[f] for key in bag]

    def dealt(self) -> list[int]:
        """The features, table by table."""
        return [f for table in self.features for f in table]

    def share(self, i: int, t: int) -> list[int]:
        """Ids of trainer t's samples, table by table."""
        return self.ids(i, t, self.dealt())

    # --- residencies

    def enter(self, i: int) -> tuple[list[CacheModel], list[CacheModel]]:
        """Give every key of iteration i a slot: the rows fetched, and the dirty rows forced out for them."""
        shares = [set(self.share(i, t)) for t in self.trainers]
        fetched, forced = [], []
        for key in self.unique[i]:
            if key in self.resident:
                continue
            users = [t for t in self.trainers if key in shares[t]]
            owner = min(users, key=lambda t: (self.num_pushed[t], self.load(t)))
            self.num_pushed[owner] += len(users) - 1
            if not self.has_room(i, owner):
                others = [t for t in self.trainers if self.has_room(i, t)]
                if not others:
                    raise self.too_small(i, key)
                owner = min(others, key=self.load)
            if self.free_slots[owner]:
                slot = self.free_slots[owner].pop()
            elif self.num_handed_out[owner] < self.cache_rows:
                slot = self.num_handed_out[owner]
                self.num_handed_out[owner] += 1
            else:
                victim = max(self.victims(i, owner), key=lambda row: (row.next_use, row.retained))
                del self.resident[victim.key]
                if victim.dirty:
                    forced.append(victim)
                slot = victim.slot
            self.resident[key] = CacheModel(key, owner, slot, next_use=i)
            fetched.append(self.resident[key])
        for t in self.trainers:
            self.free_slots[t] += self.freed_slots[t]
            self.freed_slots[t] = []
        return fetched, forced

    def leave(self, i: int) -> list[CacheModel]:
        """Retain the rows that have a next use, evict the others: the dirty ones of those."""
        natural = []
        for key in self.unique[i]:
            row, next_use = self.resident[key], self.next_use(i, key)
            row.dirty = row.dirty or not self.stream[i].read_only
            if next_use is not None:
                row.next_use, row.retained = next_use, next(self.retentions)
            else:
                del self.resident[key]
                self.freed_slots[row.owner].append(row.slot)
                if row.dirty:
                    natural.append(row)
        return natural

    def load(self, t: int) -> int:
        """Slots occupied at trainer t, by rows that are there or that the iteration before let go of."""
        return sum(row.owner == t for row in self.resident.values()) + len(self.freed_slots[t])

    def victims(self, i: int, t: int) -> list[CacheModel]:
        """Rows of trainer t that may be forced out in iteration i: none that is due soon or was used just before."""
        rows = [r for r in self.resident.values() if r.owner == t and r.next_use > i + self.prefetch_depth]
        return [r for r in rows if i == 0 or r.key not in self.unique[i - 1]]

    def has_room(self, i: int, t: int) -> bool:
        """Whether trainer t can take one more row in iteration i."""
        return self.load(t) < self.cache_rows or bool(self.victims(i, t))

    def too_small(self, i: int, key: int) -> CacheTooSmallError:
        """What to say when every slot of every trainer holds a row that is due within the prefetch depth."""
        need = len(self.resident.keys() | set(self.unique[i]))
        return CacheTooSmallError(
            f"iteration {i}: {need} rows must be resident at once, {self.num_trainers} trainers with cache.rows = "
            f"{self.cache_rows} hold {self.num_trainers * self.cache_rows}, none is left for key {key}; raise "
            f"cache.rows, or lower lookahead.prefetch_depth (now {self.prefetch_depth})"
        )

    # --- rows on the move

    def split(self, rows: list[CacheModel]) -> list[list[list[CacheModel]]]:
        """Deal rows to (trainer, server), keeping their order."""
        return [
            [[row for row in rows if row.owner == t and row.key % self.num_servers == s] for s in self.servers]
            for t in self.trainers
        ]

    def stages(self, i: int, rows: list[CacheModel], ring_rows: int) -> Stages:
        """Stages of iteration i; a ring slot doubles until it holds the busiest server's rows and never shrinks."""
        need = max(sum(row.key % self.num_servers == s for row in rows) for s in self.servers)
        while ring_rows < need:
            ring_rows *= 2
        return Stages(self.split(rows), ring_rows, i % (self.prefetch_depth + 1) * ring_rows)

    def local_rows(self, stages: Stages, s: int) -> Int64Array:
        """Rows of server s's shard that travel, trainer by trainer."""
        return int64([row.key // self.num_servers for t in self.trainers for row in stages.rows[t][s]])

    # --- one iteration's arrays

    def trainer_orders(self, i: int, rows: dict[int, CacheModel], late: set[int]) -> list[list[int]]:
        """Keys of each trainer's rows: its own, then replicas by owner and Gray class; ties by first occurrence."""

        def place(t: int, key: int) -> tuple[int, int]:
            owner = rows[key].owner
            return (-1, 0) if owner == t else (owner, self.gray_class(i, key, late))

        return [sorted(dict.fromkeys(self.share(i, t)), key=partial(place, t)) for t in self.trainers]

    def gray_class(self, i: int, key: int, late: set[int]) -> int:
        """0..3: when the push of a row may start and when its gradient is needed."""
        return GRAY_CLASS[key in late, self.next_use(i, key) == i + 1]

    def share_fields(self, i: int, t: int, order: list[int]) -> dict[str, Any]:
        """The share itself."""
        share = self.samples(i, t)
        ragged = [f for f in self.dealt() if f in self.ragged]
        return {
            "stream_position": i,
            "read_only": share.read_only,
            "num_trained": sum(not earlier.read_only for earlier in self.stream[:i]),
            "num_samples": len(share.labels),
            "num_global_samples": len(self.stream[i].labels),
            "labels": share.labels,
            "dense": share.dense,
            "sample_rows": int32([order.index(key) for key in self.share(i, t)]),
            "bag_lengths": int32([len(bag) for f in ragged for bag in share.bags[f]]),
            "weights": np.array([w for f in ragged if f in share.weighted for w in share.weights(f)], np.float32),
        }

    def exchange_fields(
        self, i: int, t: int, rows: dict[int, CacheModel], orders: list[list[int]], late: set[int]
    ) -> dict[str, Any]:
        """Exchange of trainer t with the others."""
        own = [key for key in orders[t] if rows[key].owner == t]
        updated = own + [key for key in self.unique[i] if rows[key].owner == t and key not in own]
        pushed = [[key for key in orders[u] if rows[key].owner == t and u != t] for u in self.trainers]
        replicas = [[key for key in orders[t] if rows[key].owner == o and o != t] for o in self.trainers]

        def counts(lists: list[list[int]]) -> Int32Array:
            classes = [[self.gray_class(i, key, late) for key in keys] for keys in lists]
            return int32([[part.count(c) for c in range(4)] for part in classes])

        return {
            "num_own": len(own),
            "update_slots": int32([rows[key].slot for key in updated]),
            "push_index": int32([updated.index(key) for keys in pushed for key in keys]),
            "push_counts": counts(pushed),
            "replica_counts": counts(replicas),
        }


def int32(values: Sequence[int] | Sequence[Sequence[int]]) -> Int32Array:
    """A plan's array."""
    return np.array(values, dtype=np.int32)


def int64(values: Sequence[int]) -> Int64Array:
    """A plan's array of local rows or stage positions."""
    return np.array(values, dtype=np.int64)
