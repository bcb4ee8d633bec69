"""The oracle, from start to end.

planning threads               main thread                                  servers, trainers
  | shards -> plan messages      1 cache limits  <--- collective --->           |
  | (planning.py)                2 next plan                                    |
  |--- queue (bounded) -->       3 send plan n (bounded ahead)  --------------> |
  |                              4 take reports, show progress  <-------------- | trainer 0
  |                              5 snapshot between plans  -------------------> | committer.py
  |--- end of data ----->        6 end  --------------------------------------> |
  |                              7 totals, dense parameters, touched rows <---- |
  |                              8 digest, summary.json, closing table, DONE    |

"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from mpi4py import MPI

from bagpipe_hpc import trace
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.lookahead.codec import PlanMessages, encode_end
from bagpipe_hpc.lookahead.plan import IterationPlan
from bagpipe_hpc.roles.collection import receive_touched_rows
from bagpipe_hpc.roles.committer import Committer
from bagpipe_hpc.roles.communicators import Communicators
from bagpipe_hpc.roles.course import Course
from bagpipe_hpc.roles.planning import Boundary, PlanStream, count_batches, sample_batches, warm_up_planning
from bagpipe_hpc.roles.progress import Progress
from bagpipe_hpc.roles.report import REPORT
from bagpipe_hpc.roles.resume import model_entry, resumed_boundary, resumed_history
from bagpipe_hpc.roles.run_directory import DONE, writing_to
from bagpipe_hpc.roles.spec import JobSpec
from bagpipe_hpc.roles.stop import FILES_TAG, Budget, StopRequests
from bagpipe_hpc.roles.summary import print_summary, summarise
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.store.layout import row_width
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.channel import PlanSender
from bagpipe_hpc.transport.polite import receive_bytes, wait_until

PLANS_IN_FLIGHT = 4  # per receiver


def run_oracle(
    spec: JobSpec,
    topology: Topology,
    comms: Communicators,
    dataset: Dataset,
    run_path: Path,
    stops: StopRequests,
    budget: Budget,
) -> bool:
    """Plan the whole job, watch it, and write down how it ended. Communication: see the timeline.

    Args:
        stops: What asks for an early end.
        budget: What asks for it when time runs out.
    Returns:
        False where the job was stopped before its end.
    """
    keep_freed_memory()
    warm_up_planning(spec.config, spec.num_embeddings, topology.num_trainers)
    limits = comms.world.gather(None)
    assert limits is not None
    cache_rows = comms.world.bcast(min(limits[rank] for rank in topology.trainer_ranks))  # 1
    course = Course.of(spec.config.training, dataset.train.num_samples, spec.start)
    oracle = _Oracle(spec, topology, comms, dataset, course, cache_rows, stops, budget)
    with Progress(
        run_path,
        course.end_iteration,
        spec.config,
        topology,
        first_iteration=course.start.iteration,
        history=resumed_history(spec),
    ) as progress:
        oracle.plan_all(progress)
    if not comms.world.bcast(not oracle.is_stopped):
        print(f"stopped {oracle.where}; go on with --resume auto", flush=True)
        return False
    totals = comms.world.gather(None)
    assert totals is not None
    digest = _digest(spec, topology, comms, totals)  # 7
    summary = summarise(
        spec.config,
        topology,
        totals,
        digest,
        progress.last_loss,
        oracle.bytes_sent,
        course.end_iteration,
        course.start.iteration,
        oracle.checkpoint_totals,
    )
    summary_path = run_path / "summary.json"
    with writing_to(summary_path):
        summary_path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        print_summary(summary, run_path)  # 8
        (run_path / DONE).write_text(f"{course.end_iteration}\n", encoding="utf-8")
    return True


class _Oracle:
    """Sends plans and snapshots, takes reports and files."""

    def __init__(
        self,
        spec: JobSpec,
        topology: Topology,
        comms: Communicators,
        dataset: Dataset,
        course: Course,
        cache_rows: int,
        stops: StopRequests,
        budget: Budget,
    ) -> None:
        self._topology, self._comms, self._course = topology, comms, course
        self._stops, self._budget = stops, budget
        self._every = spec.config.checkpoint.every
        self._committer: Committer | None = None
        if spec.checkpoints is not None and spec.config.checkpoint.enabled:
            self._committer = Committer(spec, topology, course, model_entry(spec.config, dataset.schema), cache_rows)
        self._sender = PlanSender(comms.plans, PLANS_IN_FLIGHT)
        self._batches = sample_batches(spec.config, dataset, course)
        self._stream = PlanStream(
            spec.config,
            spec.num_embeddings,
            num_trainers=topology.num_trainers,
            num_servers=topology.num_servers,
            cache_rows=cache_rows,
            num_batches=count_batches(spec.config, dataset, course),
            is_boundary=self._is_boundary,
            first_iteration=course.start.iteration,
            before=resumed_boundary(spec),
        )
        self._num_planned = self._num_reported = 0
        self._stop_reason = ""
        self.where = ""  # it was stopped

    @property
    def is_stopped(self) -> bool:
        """Whether plans ended before their time."""
        return bool(self.where)

    @property
    def bytes_sent(self) -> int:
        """Of plans and snapshots."""
        return self._sender.bytes_sent

    @property
    def checkpoint_totals(self) -> dict[str, Any]:
        """Figures of the checkpoints written."""
        return self._committer.totals.as_dict() if self._committer else {}

    def plan_all(self, progress: Progress) -> None:
        """Play the stream to its end, or to where it is stopped; afterwards all checkpoints are committed."""
        self._progress = progress
        first = self._course.start.iteration
        for encoded in trace.each("plan wait", self._stream.plans(self._batches), first):  # 2
            with trace.span("receiver wait", encoded.plan.iteration):
                wait_until(lambda: self._poll() or self._sender.has_room())
            with trace.span("send", encoded.plan.iteration):
                self._send(encoded.messages)  # 3
            self._num_planned += 1
            if encoded.boundary is not None:
                self._end_at(encoded.boundary, encoded.plan.read_only)
        for rank in range(1, self._topology.world_size):
            self._sender.send(rank, encode_end())  # 6
        wait_until(lambda: self._poll() or self._is_settled())

    def _is_boundary(self, plan: IterationPlan) -> bool:
        """Whether a checkpoint is due after a plan. Called by the thread that plans."""
        if self._committer is None or plan.read_only:
            return False
        done = plan.iteration + 1
        return done == self._course.end_iteration or (self._every is not None and done % self._every == 0)

    def _end_at(self, boundary: Boundary, read_only: bool) -> None:
        """A checkpoint, unless there is one of this state, or one is being written that is not the last (5)."""
        is_last = boundary.is_stop or boundary.iteration + 1 == self._course.end_iteration
        if boundary.is_stop:
            where = "while evaluating" if read_only else f"after iteration {boundary.iteration + 1:,}"
            self.where = f"{where}: {self._stop_reason}"
        if self._committer is None or read_only:
            return
        if is_last:
            wait_until(lambda: self._poll() or self._is_idle())
        elif not self._is_idle():
            self._committer.totals.skipped += 1
            return
        self._send(self._committer.begin(boundary))
        self._note_history()  # while another one was being written, this iteration may have ended

    def _send(self, messages: PlanMessages) -> None:
        for rank, message in zip(self._topology.server_ranks, messages.servers, strict=True):
            self._sender.send(rank, message)
        for rank, message in zip(self._topology.trainer_ranks, messages.trainers, strict=True):
            self._sender.send(rank, message)

    def _is_idle(self) -> bool:
        return self._committer is None or self._committer.is_idle()

    def _is_settled(self) -> bool:
        return self._sender.is_idle() and self._num_reported == self._num_planned and self._is_idle()

    def _poll(self) -> bool:
        """Take what has arrived (4); never blocks and always returns False, so that it can lead a wait's condition.

        Raises:
            BagpipeError: the loss is not finite; names the iteration.
        """
        while self._comms.reports.Iprobe():
            buffer = bytearray(REPORT.size)
            self._comms.reports.Recv(buffer)
            self._take_report(*REPORT.unpack(buffer))
        while self._comms.events.Iprobe(tag=FILES_TAG):
            assert self._committer is not None
            self._committer.receive(bytes(receive_bytes(self._comms.events, MPI.ANY_SOURCE, FILES_TAG)))
        if reason := self._stops.poll():
            self._stop(reason)
        slowest_seconds = self._committer.totals.slowest_seconds if self._committer else 0.0
        if self._budget.is_spent(time.perf_counter(), self._progress.seconds_per_iteration, slowest_seconds):
            self._stop("the time limit is near")
        self._progress.refresh()
        return False

    def _take_report(self, iteration: int, loss: float, num_samples: int, read_only: bool) -> None:
        self._num_reported += 1
        if read_only:
            return
        _check_loss(iteration, loss)
        self._progress.advance(iteration, loss, num_samples)
        self._note_history()

    def _note_history(self) -> None:
        if self._committer is not None and self._committer.awaits_history_of == self._progress.num_done:
            self._committer.note_history(self._progress.history())

    def _stop(self, reason: str) -> None:
        if not self._stop_reason:
            self._stop_reason = reason
            self._stream.stop()


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
