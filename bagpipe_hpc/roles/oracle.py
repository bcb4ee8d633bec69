"""The oracle, from start to end.

planning threads               main thread                                  servers, trainers
  | shards -> plan messages      1 cache limits  <--- collective --->           |
  | (planning.py)                2 next plan                                    |
  |--- queue (bounded) -->       3 send plan n (bounded ahead)  --------------> |
  |                              4 take reports, show progress  <-------------- | trainer 0
  |--- end of data ----->        5 end  --------------------------------------> |
  |                              6 totals, dense parameters, touched rows <---- |
  |                              7 digest, summary.json, closing table          |

"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bagpipe_hpc import trace
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.lookahead.codec import encode_end
from bagpipe_hpc.roles.collection import receive_touched_rows
from bagpipe_hpc.roles.communicators import Communicators
from bagpipe_hpc.roles.planning import PlanStream, count_batches, count_iterations, sample_batches, warm_up_planning
from bagpipe_hpc.roles.progress import Progress
from bagpipe_hpc.roles.report import REPORT
from bagpipe_hpc.roles.run_directory import writing_to
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.roles.summary import print_summary, summarise
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.store.layout import row_width
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.channel import PlanSender
from bagpipe_hpc.transport.polite import wait_until

PLANS_IN_FLIGHT = 4  # per receiver


def run_oracle(spec: JobSpec, topology: Topology, comms: Communicators, dataset: Dataset, run_path: Path) -> None:
    """Plan the whole job, watch it, and write down how it ended. Communication: see the timeline."""
    num_iterations = count_iterations(spec.config, dataset)
    keep_freed_memory()
    warm_up_planning(spec.config, spec.num_embeddings, topology.num_trainers)
    limits = comms.world.gather(None)
    assert limits is not None
    cache_rows = comms.world.bcast(min(limits[rank] for rank in topology.trainer_ranks))  # 1
    stream = PlanStream(
        spec.config,
        spec.num_embeddings,
        num_trainers=topology.num_trainers,
        num_servers=topology.num_servers,
        cache_rows=cache_rows,
        num_batches=count_batches(spec.config, dataset),
    )
    sender = PlanSender(comms.plans, PLANS_IN_FLIGHT)
    with Progress(run_path, num_iterations, spec.config, topology) as progress:
        watch = _Watch(comms, progress)
        for encoded in trace.each("plan wait", stream.plans(sample_batches(spec.config, dataset))):  # 2
            with trace.span("receiver wait", encoded.plan.iteration):
                wait_until(lambda: watch.poll() or sender.has_room())
            with trace.span("send", encoded.plan.iteration):
                for rank, message in zip(topology.server_ranks, encoded.messages.servers, strict=True):
                    sender.send(rank, message)  # 3
                for rank, message in zip(topology.trainer_ranks, encoded.messages.trainers, strict=True):
                    sender.send(rank, message)
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


def _digest(spec: JobSpec, topology: Topology, comms: Communicators, totals: list[dict[str, Any]]) -> str:
    digest = ModelDigest()
    digest.add_dense(totals[topology.trainer_ranks[0]]["dense_parameters"])
    sharding = Sharding(KeySpace(spec.num_embeddings).num_keys, topology.num_servers)
    for keys, rows in receive_touched_rows(comms.world, topology, sharding, row_width(spec.config)):
        digest.add_rows(keys, rows)
    return digest.hexdigest()
