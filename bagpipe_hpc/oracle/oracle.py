"""The oracle, from start to end.

planning threads               main thread                                  servers, trainers
  | shards -> plan messages      1 agree on cache rows  <--------------->       |
  | (plan_stream.py)             2 next plan                                    |
  |--- queue (bounded) -->       3 send plan n (bounded ahead)  ------------->  |
  |                              4 take messages, show progress  <------------- | protocol/messages.py
  |                              5 SnapshotOrder between plans  ------------->  | committer.py
  |--- end of data ----->        6 end  ------------------------------------->  |
  |                              7 totals, dense parameters, touched rows  <--- |
  |                              8 digest, summary.json, closing table, DONE    |

The oracle does not use MPI. It communicates over the ports of the protocol, which its caller passes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bagpipe_hpc import trace
from bagpipe_hpc.activity import showing_activity
from bagpipe_hpc.bounded_json import dump_json, finite
from bagpipe_hpc.checkpoint.model_entry import model_entry
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.time_windows import TimeWindow
from bagpipe_hpc.errors import BagpipeError, DivergedError, JobStopped, TableFullError
from bagpipe_hpc.heap import keep_freed_memory
from bagpipe_hpc.log import LOGGER
from bagpipe_hpc.oracle.batch_stream import count_batches, sample_batches, timetable_of
from bagpipe_hpc.oracle.budget import Budget
from bagpipe_hpc.oracle.committer import Committer, versions_of_job
from bagpipe_hpc.oracle.dynamic_tables import TableFigures
from bagpipe_hpc.oracle.energy import energy_of
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.evaluator import Evaluator
from bagpipe_hpc.oracle.metrics import EvaluationResult, columns_in_words
from bagpipe_hpc.oracle.outcome import Outcome
from bagpipe_hpc.oracle.plan_stream import Boundary, EncodedPlan, PlanStream, warm_up_planning
from bagpipe_hpc.oracle.progress import Progress
from bagpipe_hpc.oracle.recorder import Recorder
from bagpipe_hpc.oracle.saved_state import SavedState
from bagpipe_hpc.oracle.summary import show_summary, summarise
from bagpipe_hpc.oracle.trained_model import collect_digest
from bagpipe_hpc.polling import wait_until
from bagpipe_hpc.protocol.codec import PlanMessages, encode_end
from bagpipe_hpc.protocol.handshakes import agree_on_cache_rows, agree_on_end, collect_totals
from bagpipe_hpc.protocol.inbox import Inbox
from bagpipe_hpc.protocol.messages import FilesSaved, Loss, Message, Predictions, RankFigures, StopRequest
from bagpipe_hpc.protocol.plan import IterationPlan
from bagpipe_hpc.protocol.ports import PlanOutlet, World
from bagpipe_hpc.runtime.data_position import TrainingRange
from bagpipe_hpc.runtime.energy import EnergyMeter
from bagpipe_hpc.runtime.finite import require_finite_loss
from bagpipe_hpc.runtime.run_directory import DONE, write_at_once
from bagpipe_hpc.runtime.spec import JobSpec
from bagpipe_hpc.sharding import Int64Array
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.waiting import note_step, waiting_for


@dataclass(frozen=True)
class OraclePorts:
    """The ports that the oracle communicates over.

    Args:
        world: Connects all ranks, for the handshakes at the start and the end.
        plans: Sends plans and orders of snapshots to all other ranks.
        inbox: Receives messages from all ranks.
        mpi_version: The version string of the MPI library, for the manifests of checkpoints.
    """

    world: World
    plans: PlanOutlet
    inbox: Inbox
    mpi_version: str


@dataclass(frozen=True)
class OracleJob:
    """The parts of a job that only the oracle has.

    Args:
        dataset: The data set, open for reading.
        run_path: The run directory.
        budget: The time that the job has.
        saved: The oracle's state in the checkpoint that the job goes on from.
        require_ownership: Raises FencedError if a later start has become the owner of the run directory.
        windows: The windows of the training samples; empty if the job does not train in time order.
        frequent_ids: Of each dynamic table that admits by future uses: the ids that have enough of them.
    """

    dataset: Dataset
    run_path: Path
    budget: Budget
    saved: SavedState
    require_ownership: Callable[[], None]
    windows: Sequence[TimeWindow] = ()
    frequent_ids: Mapping[str, Int64Array] = field(default_factory=dict)


def run_oracle(spec: JobSpec, job: OracleJob, topology: Topology, ports: OraclePorts) -> BagpipeError | None:
    """Plan the whole job, show its progress, and write its summary.

    Returns:
        None if the job came to its end; JobStopped if it was stopped before; DivergedError if it diverged;
        TableFullError if a dynamic table is full.
    Communication: see the timeline.
    """
    keep_freed_memory()
    meter = EnergyMeter()
    with showing_activity("compiling the planner") as activity:
        warm_up_planning(spec.config, spec.schema, topology.num_trainers)
        activity("waiting for servers and trainers")
        cache_rows = agree_on_cache_rows(ports.world, None)  # 1
    ends = [window.last for window in job.windows]
    training_range = TrainingRange.of(spec.config.training, job.dataset.train.num_samples, spec.start, ends)
    if spec.resumed is not None and not spec.evaluates_only and (said := training_range.said_of_nothing_left()):
        LOGGER.warning(said)
    oracle = Oracle(spec, job, topology, ports, training_range, cache_rows)
    with Progress(
        job.run_path,
        training_range.end,
        spec.config,
        topology,
        start=training_range.start.num_trained,
        history=job.saved.history,
        evaluations=job.saved.evaluations,
        to_evaluate=oracle.to_evaluate,
        tables=oracle.dynamic_figures,
    ) as progress:
        early_end = oracle.play(progress)
        if early_end is not None:
            progress.hide()
        if isinstance(early_end, JobStopped):
            LOGGER.info("%s", early_end)
    if not agree_on_end(ports.world, early_end is None):
        return early_end
    try:
        with showing_activity("collecting the model and its digest"):
            totals = collect_totals(ports.world, topology)  # 7
            digest = collect_digest(ports.world, spec, topology, oracle.end)
    except DivergedError as error:
        return error
    evaluation, evaluation_totals = oracle.evaluation_totals()
    summary = summarise(
        spec.config,
        totals,
        digest=digest,
        dense_backend=spec.dense_backend,
        exchange=spec.exchange,
        loss=progress.last_loss,
        bytes_plans=ports.plans.bytes_sent,
        num_trained=oracle.end,
        start=training_range.start.num_trained,
        checkpoints=oracle.checkpoint_totals,
        evaluation=evaluation,
        evaluations=evaluation_totals,
        dynamic_tables=oracle.dynamic_figures,
        energy=energy_of([meter.reading(), *totals.energy]),
    )
    meter.close()
    job.require_ownership()  # a DONE of this start would end the job script of the later one
    write_at_once(job.run_path / "summary.json", dump_json(finite(summary), indent=2))
    show_summary(summary, job.run_path)  # 8
    if spec.predictions is not None:
        num_rows = summary["validation_samples"]
        LOGGER.info(
            "predictions %s: %s rows, float32; %s", spec.predictions, f"{num_rows:,}", columns_in_words(spec.schema)
        )
    write_at_once(job.run_path / DONE, f"{oracle.end}\n".encode())
    return None


class Oracle:
    """Sends plans and orders of snapshots, and handles messages.

    Args:
        spec: The job.
        job: The parts of the job that only the oracle has.
        topology: The roles of the ranks.
        ports: The ports that the oracle communicates over.
        training_range: The training iterations of this start.
        cache_rows: Slots per trainer.
    """

    def __init__(
        self,
        spec: JobSpec,
        job: OracleJob,
        topology: Topology,
        ports: OraclePorts,
        training_range: TrainingRange,
        cache_rows: int,
    ) -> None:
        self._topology, self._training_range = topology, training_range
        self._plans, self._inbox, self._budget = ports.plans, ports.inbox, job.budget
        self._config = spec.config
        self._timetable = timetable_of(spec.config, job.dataset, training_range, job.windows)
        self._evaluator = Evaluator(
            spec.config.evaluation,
            self._timetable,
            topology.num_trainers,
            spec.schema,
            job.saved.evaluations,
            spec.predictions,
        )
        self._recorder = Recorder(job.run_path, topology, keeps_earlier=spec.resumed is not None)
        self._cache_rows, self._versions = cache_rows, versions_of_job(ports.mpi_version)
        self._committer: Committer | None = None
        if spec.checkpoints is not None and spec.config.checkpoint.enabled:
            model = model_entry(spec.config, job.dataset)
            self._committer = Committer(
                spec,
                topology,
                training_range,
                model,
                cache_rows,
                self._is_pinned,
                ports.mpi_version,
                self._recorder.committed,
            )
        self._batches = sample_batches(spec.config, job.dataset, training_range, self._timetable)
        self._stream = PlanStream(
            spec.config,
            spec.schema,
            num_trainers=topology.num_trainers,
            num_servers=topology.num_servers,
            cache_rows=cache_rows,
            num_batches=count_batches(training_range, self._timetable),
            is_boundary=self._is_checkpoint_due,
            admits=self._evaluator.admits,
            start=training_range.start.num_trained,
            before=job.saved.boundary,
            frequent_ids=job.frequent_ids,
        )
        self._num_planned = self._num_reported = 0  # training iterations of this start
        self._num_plans = 0
        # After each training iteration without a loss: figures of the dynamic tables, rows in each trainer's cache.
        self._unreported: deque[tuple[Mapping[str, TableFigures], Sequence[int]]] = deque()
        self._all_planned = False
        self._is_trained = False
        self._outcome = Outcome(has_checkpoints=self._committer is not None)

    @property
    def to_evaluate(self) -> tuple[int, int]:
        """The numbers of samples and batches of one evaluation."""
        return self._timetable.num_samples, self._timetable.num_batches

    @property
    def checkpoint_totals(self) -> dict[str, Any]:
        """Figures of the checkpoints of this start."""
        return self._committer.totals.as_dict() if self._committer else {}

    @property
    def dynamic_figures(self) -> dict[str, TableFigures]:
        """The figures of each dynamic table after the plan that was made last."""
        return self._stream.dynamic_figures

    @property
    def end(self) -> int:
        """The training iterations of the whole job; fewer than its settings ask for if it stopped early."""
        stopped_at = self._evaluator.stopped_at
        return self._training_range.end if stopped_at is None else stopped_at

    def evaluation_totals(self) -> tuple[EvaluationResult | None, dict[str, Any]]:
        """Return the last evaluation of this start, and figures of all."""
        evaluator = self._evaluator
        return evaluator.last.result if evaluator.last else None, evaluator.totals()

    def play(self, progress: Progress) -> BagpipeError | None:
        """Send the plans until the job ends or is stopped, and wait until all checkpoints are committed.

        Returns:
            Why the job stopped before its end; None if it did not.
        Communication: sends to all ranks and receives from them.
        """
        with self._recorder as recorder:
            recorder.start(
                self._training_range.start.num_trained,
                end=self._training_range.end,
                cache_rows=self._cache_rows,
                versions=self._versions,
            )
            early_end = self._play(progress)
            recorder.end(progress.num_trained, self._outcome.word, str(early_end or ""))
        return early_end

    def _play(self, progress: Progress) -> DivergedError | TableFullError | JobStopped | None:
        self._progress = progress
        full: TableFullError | None = None
        try:
            self._send_plans()
        except TableFullError as error:  # all batches before that of the error have been sent
            full = error
        self._all_planned = True
        end = self._stream.end
        is_full = full is not None and self._num_planned > 0
        if end is not None and (end.is_stop or is_full or self._evaluator.stopped_at is not None):
            self._save_at(end, while_evaluating=True)
        for rank in range(1, self._topology.world_size):
            self._plans.send(rank, encode_end())  # 6
        self._wait_until(self._is_settled, "the last messages, evaluations and checkpoints")
        self._evaluator.close()
        if full is not None:
            self._outcome.note_full(full, self._checkpoint_at(end))
        return self._outcome.early_end

    def _send_plans(self) -> None:
        start = self._training_range.start.num_trained
        for encoded in trace.each("plan wait", self._stream.plans(self._batches, self._attend), start):  # 2
            plan = encoded.plan
            with trace.span("receiver wait", plan.stream_position):
                self._wait_until(self._plans.has_room, self._slow_receivers)
            note_step()
            with trace.span("send", plan.stream_position):
                self._note_plan(encoded)
                self._send(encoded.messages)  # 3
            if encoded.boundary is not None:
                self._save_at(encoded.boundary, while_evaluating=plan.read_only)

    # --- messages and the clock (4)

    def _wait_until(self, condition: Callable[[], bool], what: str | Callable[[], str]) -> None:
        """Take messages until a condition holds."""

        def holds() -> bool:
            self._attend()
            return condition()

        with waiting_for(what):
            wait_until(holds)

    def _attend(self) -> None:
        """Handle all messages, results and commits that are there, and look at the clock. This never waits."""
        for message in self._inbox.poll():
            self._handle(message)
        self._take_evaluations()
        self._complete_checkpoint()
        self._look_at_clock()
        self._note_end_of_training()
        self._progress.refresh(
            self._evaluator.progress,
            is_saving=self._is_trained and self._evaluator.is_idle() and not self._has_no_checkpoint_open(),
        )

    def _handle(self, message: Message) -> None:
        match message:
            case Loss():
                self._take_loss(message)
            case Predictions():
                self._evaluator.take(message)
            case FilesSaved():
                self._take_files(message)
            case RankFigures():
                self._recorder.take(message)
            case StopRequest():
                self._stop(message.reason)

    def _take_loss(self, report: Loss) -> None:
        self._num_reported += 1
        tables, cached_rows = self._unreported.popleft()
        note_step()
        if self._outcome.diverged is not None:
            return
        try:
            require_finite_loss(report.num_trained, report.loss)
        except DivergedError as error:
            self._diverge(error)
            return
        self._progress.advance(report.num_trained, report.loss, report.num_samples, tables)
        self._recorder.trained(report.num_trained, self._num_reported, cached_rows, self._plans.bytes_sent)
        self._complete_checkpoint()  # before the next loss arrives: the history must end with this iteration

    def _take_files(self, saved: FilesSaved) -> None:
        assert self._committer is not None
        self._committer.take(saved)
        if saved.fault:
            self._diverge(DivergedError(saved.fault))

    def _take_evaluations(self) -> None:
        try:
            for evaluation in self._evaluator.finished():
                self._show_evaluation(evaluation)
        except DivergedError as error:
            self._diverge(error)

    def _show_evaluation(self, evaluation: Evaluation) -> None:
        best = self._evaluator.best
        self._progress.evaluated(evaluation, is_best=evaluation is best)
        if best is not None and self._committer is not None and self._config.checkpoint.keep_best:
            self._committer.name_best(best.iteration)

    def _complete_checkpoint(self) -> None:
        """Give the open checkpoint its history and the evaluations before it, as soon as they are known."""
        if self._committer is None or self._outcome.diverged is not None:
            return
        if self._committer.awaits_history_of == self._progress.num_trained:
            self._committer.note_history(self._progress.history())
        num_trained = self._committer.awaits_evaluations_before
        if num_trained is not None and self._evaluator.are_known_before(num_trained):
            lines = "".join(evaluation.to_line() for evaluation in self._evaluator.before(num_trained))
            self._committer.note_evaluations(lines.encode())

    def _look_at_clock(self) -> None:
        slowest_seconds = self._committer.totals.slowest_seconds if self._committer else 0.0
        if self._budget.is_spent(time.perf_counter(), self._progress.seconds_per_iteration, slowest_seconds):
            self._stop("the time limit is near")

    def _note_end_of_training(self) -> None:
        """Note the end of training once the last loss is here. Then the job only evaluates and writes a checkpoint."""
        all_planned = self._all_planned or self._num_planned == self._training_range.num_iterations
        is_over = all_planned and self._num_reported >= self._num_planned
        if self._is_trained or self._outcome.diverged is not None or not is_over:
            return
        self._is_trained = True
        self._progress.training_is_over()
        if self._committer is not None:
            self._committer.note_end_of_training()

    def _stop(self, reason: str) -> None:
        if self._outcome.stop(reason):
            self._stream.stop()
            self._evaluator.give_up()

    def _diverge(self, error: DivergedError) -> None:
        """Stop the job because training has diverged. No rank is aborted, and rank 0 prints the reason."""
        if self._outcome.diverge(error):
            self._stop("training diverged")
            if self._committer is not None:
                self._committer.abandon()

    # --- plans and checkpoints

    def _note_plan(self, encoded: EncodedPlan) -> None:
        self._num_plans += 1
        if encoded.plan.read_only:
            self._evaluator.expect(encoded.plan)
        else:
            self._num_planned += 1
            self._unreported.append((encoded.tables, encoded.cached_rows))

    def _send(self, messages: PlanMessages) -> None:
        for rank, message in zip(self._topology.server_ranks, messages.servers, strict=True):
            self._plans.send(rank, message)
        for rank, message in zip(self._topology.trainer_ranks, messages.trainers, strict=True):
            self._plans.send(rank, message)

    def _slow_receivers(self) -> str:
        names = [self._topology.name_of(rank) for rank in self._plans.slow_receivers()]
        return f"{', '.join(names) or 'all ranks'}: to take the plans sent"

    def _is_checkpoint_due(self, plan: IterationPlan) -> bool:
        """Return whether a checkpoint is due after a plan. The planning thread calls this."""
        if self._committer is None or plan.read_only:
            return False
        num_trained, every = plan.num_trained_after, self._config.checkpoint.every
        return self._is_wanted(num_trained) or (every is not None and num_trained % every == 0)

    def _is_wanted(self, num_trained: int) -> bool:
        """Return whether the checkpoint after this iteration must not be skipped."""
        is_evaluated = self._config.checkpoint.keep_best and self._timetable.is_due(num_trained)
        return num_trained == self._training_range.end or is_evaluated

    def _is_pinned(self, num_trained: int) -> bool:
        return self._config.checkpoint.keep_best and self._evaluator.may_be_best(num_trained)

    def _save_at(self, boundary: Boundary, *, while_evaluating: bool) -> None:
        """Order a checkpoint (5).

        If a checkpoint of this state exists already, the oracle orders none. If the checkpoint before is still being
        written, the oracle waits for it or, if this one may be skipped, skips this one.
        """
        if boundary.is_stop:
            self._outcome.note_stop(boundary.num_trained, while_evaluating=while_evaluating)
        if self._committer is None or self._committer.has(boundary.num_trained):
            return
        if while_evaluating or boundary.is_stop or self._is_wanted(boundary.num_trained):
            self._wait_until(self._has_no_checkpoint_open, "all ranks: files of the checkpoint before")
        elif not self._has_no_checkpoint_open():
            self._committer.totals.skipped += 1
            return
        if self._outcome.diverged is not None:
            return
        self._send(self._committer.begin(boundary))
        # The last loss before the boundary may have arrived while the checkpoint before was being written.
        self._complete_checkpoint()

    def _checkpoint_at(self, boundary: Boundary | None) -> Path | None:
        """Return the checkpoint at a boundary; None if there is none."""
        if self._committer is None or boundary is None or not self._committer.has(boundary.num_trained):
            return None
        return self._committer.path_of(boundary.num_trained)

    def _has_no_checkpoint_open(self) -> bool:
        return self._committer is None or self._committer.is_idle()

    def _is_settled(self) -> bool:
        is_complete = self._num_reported == self._num_planned and self._evaluator.is_idle()
        has_figures = self._recorder.has_all(self._num_planned, self._num_plans)
        return self._plans.is_idle() and is_complete and has_figures and self._has_no_checkpoint_open()
