"""The oracle, from start to end.

planning threads               main thread                                  servers, trainers
  | shards -> plan messages      1 cache limits  <--- collective --->           |
  | (planning.py)                2 next plan                                    |
  |--- queue (bounded) -->       3 send plan n (bounded ahead)  --------------> |
  |                              4 take reports, show progress  <-------------- | trainer 0; predictions: all trainers
  |                              5 snapshot between plans  -------------------> | committer.py
  |--- end of data ----->        6 end  --------------------------------------> |
  |                              7 totals, dense parameters, touched rows <---- |
  |                              8 digest, summary.json, closing table, DONE    |

"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpi4py import MPI

from bagpipe_hpc import trace
from bagpipe_hpc.activity import showing_activity
from bagpipe_hpc.bounded_json import dump_json, finite
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import BagpipeError, DivergedError, JobStopped
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.launch.resume import model_entry, resumed_boundary, resumed_evaluations, resumed_history
from bagpipe_hpc.oracle.committer import Committer
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.evaluator import Evaluations, receive_predictions
from bagpipe_hpc.oracle.metrics import EvaluationResult
from bagpipe_hpc.oracle.plan_stream import (
    Boundary,
    PlanStream,
    count_batches,
    sample_batches,
    timetable_of,
    warm_up_planning,
)
from bagpipe_hpc.oracle.progress import Progress
from bagpipe_hpc.oracle.summary import print_summary, summarise
from bagpipe_hpc.protocol.codec import PlanMessages, encode_end
from bagpipe_hpc.protocol.model_collection import receive_touched_rows
from bagpipe_hpc.protocol.plan import IterationPlan
from bagpipe_hpc.protocol.report import LOSS_TAG, REPORT
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.data_position import Course
from bagpipe_hpc.runtime.finite import FiniteRows, require_finite_loss, require_finite_parameters
from bagpipe_hpc.runtime.run_directory import DONE, RESUME_AUTO, write_at_once
from bagpipe_hpc.runtime.signals import FILES_TAG, Budget, StopRequests
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.channel import PlanSender
from bagpipe_hpc.transport.communicators import Communicators
from bagpipe_hpc.transport.polling import receive_bytes, wait_until
from bagpipe_hpc.waiting import note_step, waiting_for

PLANS_IN_FLIGHT = 4  # per receiver


def run_oracle(
    spec: JobSpec,
    topology: Topology,
    comms: Communicators,
    dataset: Dataset,
    run_path: Path,
    stops: StopRequests,
    budget: Budget,
    require_ownership: Callable[[], None],
) -> BagpipeError | None:
    """Plan the whole job, watch it, and write down how it ended. Communication: see the timeline.

    Args:
        stops: What asks for an early end.
        budget: What asks for it when time runs out.
        require_ownership: Raises FencedError where a later start has taken the run directory over.
    Returns:
        None where the job came to its end; JobStopped where it was stopped before, DivergedError where it diverged.
    """
    keep_freed_memory()
    with showing_activity("compiling what plans") as activity:
        warm_up_planning(spec.config, spec.schema, topology.num_trainers)
        activity("waiting for servers and trainers")
        with waiting_for("all ranks: to start"):
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
        evaluations=resumed_evaluations(spec),
        to_evaluate=oracle.to_evaluate,
    ) as progress:
        oracle.plan_all(progress)
        early_end = oracle.early_end
        if early_end is not None:
            progress.fall_silent()
        if isinstance(early_end, JobStopped):
            print(early_end, flush=True)  # at once: a launcher that ends the ranks may not leave them a second
    if not comms.world.bcast(early_end is None):
        return early_end
    try:
        with showing_activity("collecting the model and its digest"):
            totals = comms.world.gather(None)
            assert totals is not None
            digest = _digest(spec, topology, comms, totals, oracle.end_iteration)  # 7
    except DivergedError as error:
        return error
    summary = summarise(
        spec.config,
        topology,
        totals,
        digest,
        progress.last_loss,
        oracle.bytes_sent,
        oracle.end_iteration,
        course.start.iteration,
        oracle.checkpoint_totals,
        *oracle.evaluation_totals(),
    )
    require_ownership()  # a DONE of this start would end the later one's job script
    write_at_once(run_path / "summary.json", dump_json(finite(summary), indent=2))
    print_summary(summary, run_path)  # 8
    if spec.predictions is not None:
        num_rows = summary["validation_samples"]
        print(f"predictions {spec.predictions}: {num_rows:,} rows, a float32 click probability each", flush=True)
    write_at_once(run_path / DONE, f"{oracle.end_iteration}\n".encode())
    return None


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
        self._config = spec.config
        self._timetable = timetable_of(spec.config, dataset, course)
        self._evaluations = Evaluations(
            spec.config.evaluation,
            self._timetable,
            topology.num_trainers,
            resumed_evaluations(spec),
            spec.predictions,
            spec.schema.labelled,
        )
        self._committer: Committer | None = None
        if spec.checkpoints is not None and spec.config.checkpoint.enabled:
            model = model_entry(spec.config, dataset)
            self._committer = Committer(spec, topology, course, model, cache_rows, self._is_pinned)
        self._sender = PlanSender(comms.plans, PLANS_IN_FLIGHT)
        self._batches = sample_batches(spec.config, dataset, course, self._timetable)
        self._stream = PlanStream(
            spec.config,
            spec.schema,
            num_trainers=topology.num_trainers,
            num_servers=topology.num_servers,
            cache_rows=cache_rows,
            num_batches=count_batches(course, self._timetable),
            is_boundary=self._is_boundary,
            admits=self._evaluations.admits,
            first_iteration=course.start.iteration,
            before=resumed_boundary(spec),
        )
        self._num_planned = self._num_reported = 0  # training iterations
        self._all_planned = False
        self._is_trained = False
        self._stop_reason = ""
        self._where = ""  # it was stopped
        self._diverged: DivergedError | None = None

    @property
    def early_end(self) -> DivergedError | JobStopped | None:
        """Why plans ended before their time; None: they did not."""
        if self._diverged is not None:
            return self._diverged
        if not self._where:
            return None
        going_on = f"go on with {RESUME_AUTO}" if self._committer else "no checkpoint: checkpoint.enabled is false"
        return JobStopped(f"stopped {self._where}; {going_on}")

    @property
    def to_evaluate(self) -> tuple[int, int]:
        """Samples and batches of one evaluation."""
        return self._timetable.num_samples, self._timetable.num_batches

    @property
    def bytes_sent(self) -> int:
        """Of plans and snapshots."""
        return self._sender.bytes_sent

    @property
    def checkpoint_totals(self) -> dict[str, Any]:
        """Figures of the checkpoints written."""
        return self._committer.totals.as_dict() if self._committer else {}

    @property
    def end_iteration(self) -> int:
        """Iterations of the whole job, as it turned out."""
        stopped_at = self._evaluations.stopped_at
        return self._course.end_iteration if stopped_at is None else stopped_at

    def evaluation_totals(self) -> tuple[EvaluationResult | None, dict[str, Any]]:
        """The last evaluation of this start, and figures of all."""
        evaluations = self._evaluations
        return evaluations.last.result if evaluations.last else None, evaluations.totals()

    def plan_all(self, progress: Progress) -> None:
        """Play the stream to its end, or to where it is stopped; afterwards all checkpoints are committed."""
        self._progress = progress
        first = self._course.start.iteration
        for encoded in trace.each("plan wait", self._stream.plans(self._batches, self._poll), first):  # 2
            plan = encoded.plan
            with trace.span("receiver wait", plan.stream_position), waiting_for(self._slow_receivers):
                wait_until(lambda: self._poll() or self._sender.has_room())
            note_step()
            with trace.span("send", plan.stream_position):
                if plan.read_only:
                    self._evaluations.expect(plan)
                else:
                    self._num_planned += 1
                self._send(encoded.messages)  # 3
            if encoded.boundary is not None:
                self._end_at(encoded.boundary, plan.read_only)
        self._all_planned = True
        end = self._stream.end
        if end is not None and (end.is_stop or self._evaluations.stopped_at is not None):
            self._end_at(end, read_only=True)
        for rank in range(1, self._topology.world_size):
            self._sender.send(rank, encode_end())  # 6
        with waiting_for("the last reports, evaluations and checkpoints"):
            wait_until(lambda: self._poll() or self._is_settled())
        self._evaluations.close()

    def _slow_receivers(self) -> str:
        names = [self._topology.name_of(rank) for rank in self._sender.slow_receivers()]
        return f"{', '.join(names) or 'all ranks'}: to take the plans sent"

    def _is_boundary(self, plan: IterationPlan) -> bool:
        """Whether a checkpoint is due after a plan. Called by the thread that plans."""
        if self._committer is None or plan.read_only:
            return False
        done, every = plan.num_trained_after, self._config.checkpoint.every
        return self._is_wanted(done) or (every is not None and done % every == 0)

    def _is_wanted(self, done: int) -> bool:
        """Whether a checkpoint after so many iterations must not be left out."""
        is_evaluated = self._config.checkpoint.keep_best and self._timetable.is_due(done)
        return done == self._course.end_iteration or is_evaluated

    def _is_pinned(self, iteration: int) -> bool:
        return self._config.checkpoint.keep_best and self._evaluations.may_be_best(iteration)

    def _end_at(self, boundary: Boundary, read_only: bool) -> None:
        """A checkpoint, unless there is one of this state, or one is being written and this one may be left out (5)."""
        done = boundary.num_trained
        if boundary.is_stop:
            where = f"after iteration {done:,}, while evaluating" if read_only else f"after iteration {done:,}"
            self._where = f"{where}: {self._stop_reason}"
        if self._committer is None or self._committer.has(done):
            return
        if read_only or boundary.is_stop or self._is_wanted(done):
            with waiting_for("all ranks: files of the checkpoint before"):
                wait_until(lambda: self._poll() or self._is_idle())
        elif not self._is_idle():
            self._committer.totals.skipped += 1
            return
        if self._diverged is not None:
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
        is_told = self._num_reported == self._num_planned and self._evaluations.is_idle()
        return self._sender.is_idle() and is_told and self._is_idle()

    def _poll(self) -> bool:
        """Take what has arrived (4); never blocks and always returns False, so that it can lead a wait's condition."""
        while self._comms.reports.Iprobe(tag=LOSS_TAG):
            self._take_report(*REPORT.unpack(receive_bytes(self._comms.reports, MPI.ANY_SOURCE, LOSS_TAG)))
        for rank, logits in receive_predictions(self._comms.reports):
            self._evaluations.take(self._topology.trainer_ranks.index(rank), logits)
        try:
            for evaluation in self._evaluations.finished():
                self._take_evaluation(evaluation)
        except DivergedError as error:
            self._diverge(error)
        self._note_history()
        while self._comms.events.Iprobe(tag=FILES_TAG):
            assert self._committer is not None
            fault = self._committer.receive(bytes(receive_bytes(self._comms.events, MPI.ANY_SOURCE, FILES_TAG)))
            if fault:
                self._diverge(DivergedError(fault))
        if reason := self._stops.poll():
            self._stop(reason)
        slowest_seconds = self._committer.totals.slowest_seconds if self._committer else 0.0
        if self._budget.is_spent(time.perf_counter(), self._progress.seconds_per_iteration, slowest_seconds):
            self._stop("the time limit is near")
        self._note_end_of_training()
        self._progress.refresh(
            self._evaluations.progress,
            is_saving=self._is_trained and self._evaluations.is_idle() and not self._is_idle(),
        )
        return False

    def _note_end_of_training(self) -> None:
        """From the last report on, the job only evaluates and writes its last checkpoint."""
        num_planned = self._num_planned
        all_planned = self._all_planned or num_planned == self._course.end_iteration - self._course.start.iteration
        if self._is_trained or self._diverged is not None or not all_planned or self._num_reported < num_planned:
            return
        self._is_trained = True
        self._progress.training_is_over()
        if self._committer is not None:
            self._committer.note_end_of_training()

    def _take_report(self, iteration: int, loss: float, num_samples: int) -> None:
        self._num_reported += 1
        note_step()
        if self._diverged is not None:
            return
        try:
            require_finite_loss(iteration, loss)
        except DivergedError as error:
            self._diverge(error)
            return
        self._progress.advance(iteration, loss, num_samples)
        self._note_history()

    def _take_evaluation(self, evaluation: Evaluation) -> None:
        best = self._evaluations.best
        assert best is not None
        self._progress.evaluated(evaluation, is_best=evaluation is best)
        if self._committer is not None and self._config.checkpoint.keep_best:
            self._committer.name_best(best.iteration)

    def _note_history(self) -> None:
        if self._committer is None or self._diverged is not None:
            return
        if self._committer.awaits_history_of == self._progress.num_done:
            self._committer.note_history(self._progress.history())
        iteration = self._committer.awaits_evaluations_before
        if iteration is not None and self._evaluations.are_known_before(iteration):
            lines = "".join(evaluation.to_line() for evaluation in self._evaluations.before(iteration))
            self._committer.note_evaluations(lines.encode())

    def _stop(self, reason: str) -> None:
        if not self._stop_reason:
            self._stop_reason = reason
            self._stream.stop()
            self._evaluations.give_up()

    def _diverge(self, error: DivergedError) -> None:
        """End the job in good order: no rank need be aborted, and one of them says why."""
        if self._diverged is None:
            self._diverged = error
            self._stop("training diverged")
            if self._committer is not None:
                self._committer.abandon()


def _digest(
    spec: JobSpec, topology: Topology, comms: Communicators, totals: list[dict[str, Any]], num_done: int
) -> str:
    """The digest of the trained model.

    Raises:
        DivergedError: it is not finite; all rows have been received then, too.
    """
    digest, diverged = ModelDigest(), None
    parameters = totals[topology.trainer_ranks[0]]["dense_parameters"]
    digest.add_dense(parameters)
    finite = FiniteRows(spec.config, spec.schema)
    sharding = Sharding(KeySpace(spec.num_embeddings).num_keys, topology.num_servers)
    for keys, rows in receive_touched_rows(comms.world, topology, sharding, row_width(spec.config)):
        digest.add_rows(keys, rows)
        try:
            finite.require(num_done, keys, rows)
        except DivergedError as error:
            diverged = diverged or error
    require_finite_parameters(num_done, parameters)
    if diverged is not None:
        raise diverged
    return digest.hexdigest()
