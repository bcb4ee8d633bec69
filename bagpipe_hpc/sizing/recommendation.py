"""The sizing advisor: it predicts every choice of a grid, and recommends one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.simulation.network import Network
from bagpipe_hpc.sizing.compute_time import ComputeTime
from bagpipe_hpc.sizing.iteration_cost import IterationCost, Links, TrainerCost, cost_of
from bagpipe_hpc.sizing.memory import RoleMemory, Sizes, memory_of
from bagpipe_hpc.sizing.workload import Choice, Workload, mean_and_peak, play_plans

TOLERANCE = 0.03  # choices whose speed differs by less are equally fast
CACHE_SHARES = (1.0, 0.9, 0.8, 0.65, 0.5, 0.25)
HEADROOM = 1.25  # of the recommended cache over what the samples need


@dataclass(frozen=True)
class Job:
    """What all choices have in common.

    Args:
        compute: How long a trainer computes.
        dense_bytes: Of the dense gradients.
        wire_bytes: Of a row, or its gradient, between trainers.
        is_overlapped: Whether neighbouring iterations overlap, if P >= 1.
        oracle_threads: Threads of the oracle.
        network: The links of the nodes.
        echoes_gets: As in Links.
        trainers_per_node: Trainers that share a link. The oracle and the servers have nodes of their own.
        sizes: What memory depends on.
    """

    compute: ComputeTime
    dense_bytes: float
    wire_bytes: int
    is_overlapped: bool
    oracle_threads: int
    network: Network
    echoes_gets: bool
    trainers_per_node: int
    sizes: Sizes

    def links(self, choice: Choice) -> Links:
        """Return the links of a choice: the oracle shares the host of server 0."""
        num_servers = choice.num_servers
        trainers = (num_servers + rank // self.trainers_per_node for rank in range(choice.num_trainers))
        hosts = (0, *range(num_servers), *trainers)
        network = self.network
        return Links(network.bytes_per_second, network.latency_seconds, hosts, echoes_gets=self.echoes_gets)

    def cost(self, choice: Choice) -> TrainerCost:
        """Return what a trainer of a choice does besides moving rows."""
        return TrainerCost(
            compute_seconds=self.compute.of(-(-choice.batch_size // choice.num_trainers)),
            dense_bytes=self.dense_bytes if choice.num_trainers > 1 else 0.0,
            row_bytes=self.sizes.row_bytes,
            wire_bytes=self.wire_bytes,
            is_overlapped=self.is_overlapped,
            oracle_speedup=1.8 if self.oracle_threads > 1 else 1.0,
        )


@dataclass(frozen=True)
class Prediction:
    """What the advisor says about one choice.

    Args:
        choice: The settings.
        cost: The predicted time of an iteration.
        memory: Memory of each role.
        rows: Mean and 95th percentile of rows per iteration, by path.
        oracle_samples_per_second: What one thread of the oracle planned here.
    """

    choice: Choice
    cost: IterationCost
    memory: RoleMemory
    rows: dict[str, tuple[float, float]]
    oracle_samples_per_second: float

    @property
    def samples_per_second(self) -> float:
        """The predicted speed."""
        return self.choice.batch_size / self.cost.seconds

    def to_json(self) -> dict[str, Any]:
        """Return all figures."""
        derived = {"samples_per_second": self.samples_per_second, "bottlenecks": self.cost.bottlenecks}
        return {**asdict(self), **derived}


@dataclass(frozen=True)
class SmallerCache:
    """What a cache of some size costs.

    Args:
        rows: Slots of each trainer.
        share: Of those with which nothing is forced out.
        prediction: None: the job would end, because the rows of the nearest iterations do not fit.
    """

    rows: int
    share: float
    prediction: Prediction | None


def grid(
    trainers: Sequence[int],
    servers: Sequence[int],
    batch_sizes: Sequence[int],
    windows: Sequence[int],
    prefetch_depths: Sequence[int],
    *,
    is_local: bool = False,
) -> list[Choice]:
    """Return all choices with P <= L and at least one sample for each trainer."""
    return [
        Choice(t, s, b, window, depth, is_local=is_local)
        for t, s, b, window, depth in itertools.product(trainers, servers, batch_sizes, windows, prefetch_depths)
        if depth <= window and t <= b
    ]


def predict(batches: Sequence[Batch], schema: Schema, choice: Choice, job: Job) -> Prediction:
    """Plan the batches, and predict the time of an iteration.

    Raises:
        CacheTooSmallError: choice.cache_rows is too small.
    """
    workload = play_plans(batches, schema, choice)
    cache_rows = choice.cache_rows or workload.slots
    chosen = replace(choice, cache_rows=cache_rows)
    return Prediction(
        choice=chosen,
        cost=cost_of(workload, job.cost(choice), job.links(choice)),
        memory=memory_of(workload, job.sizes, cache_rows),
        rows=rows_of(workload),
        oracle_samples_per_second=float(workload.num_samples.mean()) / workload.oracle_seconds,
    )


def rows_of(workload: Workload) -> dict[str, tuple[float, float]]:
    """Return mean and 95th percentile of rows per steady iteration, of all ranks together, by path."""
    steady, pushed = workload.steady, workload.pushed[workload.steady].sum(axis=(1, 2))
    counts = {
        "fetched": workload.fetched[steady].sum(axis=(1, 2)),
        "written back": workload.written_back[steady].sum(axis=(1, 2)),
        "forced out": workload.forced[steady],
        "pushed early": pushed[:, [0, 1]].sum(axis=1),
        "pushed critically": pushed[:, [2, 3]].sum(axis=1),
        "delayed gradients": pushed[:, [0, 3]].sum(axis=1),
        "critical gradients": pushed[:, [1, 2]].sum(axis=1),
        "used by trainers": workload.unique_rows[steady].sum(axis=1),
    }
    return {name: mean_and_peak(values) for name, values in counts.items()}


def recommend(predictions: Sequence[Prediction]) -> Prediction:
    """Return the fastest prediction. Among equally fast ones, prefer fewer ranks, then smaller B, L and P."""
    fastest = max(each.samples_per_second for each in predictions)

    def effort(each: Prediction) -> tuple[int, int, int, int]:
        choice = each.choice
        return (choice.num_trainers + choice.num_servers, choice.batch_size, choice.window, choice.prefetch_depth)

    return min((each for each in predictions if each.samples_per_second >= (1 - TOLERANCE) * fastest), key=effort)


def recommended_rows(best: Prediction) -> int:
    """Return the slots to configure: what the samples need, and some more for other samples."""
    return round(HEADROOM * best.memory.cache_rows)


def smaller_caches(
    batches: Sequence[Batch],
    schema: Schema,
    best: Prediction,
    job: Job,
    note: Callable[[int], object] = lambda done: None,
) -> list[SmallerCache]:
    """Return what smaller caches cost.

    Args:
        batches: The batches.
        schema: Their schema.
        best: The recommended choice, whose cache is large enough.
        job: The job.
        note: Is called with the number of sizes that are done.
    """
    found = []
    for share in CACHE_SHARES:
        rows = max(1, round(share * (best.choice.cache_rows or 1)))
        try:
            prediction = predict(batches, schema, replace(best.choice, cache_rows=rows), job)
        except CacheTooSmallError:
            found.append(SmallerCache(rows, share, None))
        else:
            found.append(SmallerCache(rows, share, prediction))
        note(len(found))
    return found
