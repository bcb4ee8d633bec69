"""The oracle, from start to end.

reader thread                  main thread                                   servers, trainers
  | shards -> batches            1 cache limits  <--- collective --->           |
  |--- queue (bounded) -->       2 plan, encode                                 |
  |                              3 send plan n (bounded ahead)  --------------> |
  |                              4 take reports, show progress  <-------------- | trainer 0
  |--- end of data ----->        5 end  --------------------------------------> |
  |                              6 totals, dense parameters, touched rows <---- |
  |                              7 digest, summary.json, closing table          |

"""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from bagpipe_hpc import trace
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.batch import Batch
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.lookahead.codec import encode_end, encode_plan
from bagpipe_hpc.lookahead.planner import KeyBatch, Planner
from bagpipe_hpc.roles.collection import receive_touched_rows
from bagpipe_hpc.roles.communicators import Communicators
from bagpipe_hpc.roles.progress import Progress
from bagpipe_hpc.roles.report import REPORT
from bagpipe_hpc.roles.run_directory import writing_to
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.roles.summary import print_summary, summarise
from bagpipe_hpc.sharding import Int64Array, KeySpace, Sharding
from bagpipe_hpc.store.layout import row_width
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.channel import PlanSender
from bagpipe_hpc.transport.polite import wait_until

PLANS_IN_FLIGHT = 4  # per receiver
BATCHES_READ_AHEAD = 8

T = TypeVar("T")


def run_oracle(spec: JobSpec, topology: Topology, comms: Communicators, dataset: Dataset, run_path: Path) -> None:
    """Plan the whole job, watch it, and write down how it ended. Communication: see the timeline."""
    num_iterations = count_iterations(spec.config, dataset)
    key_space = KeySpace(spec.num_embeddings)
    limits = comms.world.gather(None)
    assert limits is not None
    cache_rows = comms.world.bcast(min(limits[rank] for rank in topology.trainer_ranks))  # 1
    planner = Planner(
        num_keys=key_space.num_keys,
        num_trainers=topology.num_trainers,
        num_servers=topology.num_servers,
        window=spec.config.window,
        prefetch_depth=spec.config.prefetch_depth,
        cache_rows=cache_rows,
    )
    batches = read_ahead(key_batches(spec.config, dataset, key_space.table_offsets), BATCHES_READ_AHEAD)
    sender = PlanSender(comms.plans, PLANS_IN_FLIGHT)
    with Progress(run_path, num_iterations, spec.config, topology) as progress:
        watch = _Watch(comms, progress)
        for plan in trace.each("plan", planner.plans(trace.each("batch wait", batches))):  # 2
            with trace.span("receiver wait", plan.iteration):
                wait_until(lambda: watch.poll() or sender.has_room())
            with trace.span("encode", plan.iteration):
                messages = [*map(encode_plan, plan.servers), *map(encode_plan, plan.trainers)]  # by world rank
            with trace.span("send", plan.iteration):
                for rank, message in enumerate(messages, start=1):
                    sender.send(rank, message)  # 3
            watch.num_planned += 1
        for rank in range(1, topology.world_size):
            sender.send(rank, encode_end())  # 5
        wait_until(lambda: watch.poll() or (sender.is_idle() and watch.num_reported == watch.num_planned))
    totals = comms.world.gather(None)
    assert totals is not None
    digest = _digest(spec, topology, comms, totals)  # 6
    summary = summarise(spec.config, topology, totals, digest, progress.last_loss, sender.bytes_sent, num_iterations)
    summary_path = run_path / "summary.json"
    with writing_to(summary_path):
        summary_path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_summary(summary, run_path)  # 7


class _Watch:
    """Takes the reports of trainer 0 (4)."""

    def __init__(self, comms: Communicators, progress: Progress) -> None:
        self._reports = comms.reports
        self._progress = progress
        self.num_planned = 0
        self.num_reported = 0

    def poll(self) -> bool:
        """Take what has arrived; never blocks and always returns False, so that it can lead a wait's condition.

        Raises:
            BagpipeError: the loss is not finite; names the iteration.
        """
        while self._reports.Iprobe():
            buffer = bytearray(REPORT.size)
            self._reports.Recv(buffer)
            iteration, loss, num_samples, read_only = REPORT.unpack(buffer)
            self.num_reported += 1
            if not read_only:
                _check_loss(iteration, loss)
                self._progress.advance(iteration, loss, num_samples)
        self._progress.refresh()
        return False


def _check_loss(iteration: int, loss: float) -> None:
    # Here and not at the trainers, who all know it: one rank is to speak.
    if not math.isfinite(loss):
        raise BagpipeError(
            f"the loss is {loss} in iteration {iteration}: training diverged; lower training.learning_rate"
        )


def count_iterations(config: Config, dataset: Dataset) -> int:
    """Training iterations of the whole job."""
    per_epoch = dataset.train.num_batches(config.training.batch_size)
    total = per_epoch * config.training.epochs
    return min(total, config.training.iterations or total)


def key_batches(config: Config, dataset: Dataset, table_offsets: Int64Array) -> Iterator[KeyBatch]:
    """All batches of the job: the epochs of the training split, then the validation split, read-only."""
    training = config.training
    epochs = (dataset.train.batches(training.batch_size) for _ in range(training.epochs))
    batches = itertools.islice(itertools.chain.from_iterable(epochs), training.iterations)
    yield from (_with_keys(batch, table_offsets, read_only=False) for batch in batches)
    if config.evaluation.enabled:
        for batch in dataset.validation.batches(config.evaluation.batch_size or training.batch_size):
            yield _with_keys(batch, table_offsets, read_only=True)


def _with_keys(batch: Batch, table_offsets: Int64Array, read_only: bool) -> KeyBatch:
    keys = (batch.ids + table_offsets[:-1]).reshape(-1)
    return KeyBatch(keys, batch.labels, batch.dense, read_only)


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items, made by a thread up to depth ahead; its exception is raised here."""
    queue: Queue[tuple[str, Any]] = Queue(maxsize=depth)

    def produce() -> None:
        try:
            for item in trace.each("read batch", items):
                queue.put(("item", item))
            queue.put(("end", None))
        except BaseException as error:
            queue.put(("error", error))

    threading.Thread(target=produce, name="reader", daemon=True).start()
    while True:
        kind, content = queue.get()
        if kind == "error":
            raise content
        if kind == "end":
            return
        yield content


def _digest(spec: JobSpec, topology: Topology, comms: Communicators, totals: list[dict[str, Any]]) -> str:
    digest = ModelDigest()
    digest.add_dense(totals[topology.trainer_ranks[0]]["dense_parameters"])
    sharding = Sharding(KeySpace(spec.num_embeddings).num_keys, topology.num_servers)
    for keys, rows in receive_touched_rows(comms.world, topology, sharding, row_width(spec.config)):
        digest.add_rows(keys, rows)
    return digest.hexdigest()
