"""The progress of a run, as the oracle shows and records it.

It is shown as a live line on a terminal, and as plain lines elsewhere. It is recorded in the run directory:
metrics.jsonl, evaluations.jsonl, and scalars for TensorBoard.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from bagpipe_hpc.bounded_json import dump_line, finite
from bagpipe_hpc.config import Config
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.log import LOGGER, is_printing
from bagpipe_hpc.oracle.dynamic_tables import TableFigures, figures_by_table
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.metrics import METRIC_NAMES, EvaluationResult, in_words
from bagpipe_hpc.oracle.progress_line import ProgressLine
from bagpipe_hpc.oracle.tensorboard import TensorBoard
from bagpipe_hpc.runtime.console import open_console
from bagpipe_hpc.runtime.run_directory import writing_to
from bagpipe_hpc.topology import Topology

METRICS_EVERY = 20  # iterations per line of metrics.jsonl
SECONDS_PER_LINE = 5.0
SECONDS_PER_REFRESH = 0.2


@dataclass(frozen=True)
class History:
    """The metrics of the iterations so far.

    Args:
        lines: The content of metrics.jsonl.
        losses: The losses of the iterations that are in no line yet.
    """

    lines: bytes = b""
    losses: tuple[float, ...] = ()


class Progress:
    """Shows recent samples/s, loss, the latest evaluation and the time left, and records metrics.

    `num_trained` is the number of training iterations of the whole job that have ended. `last_loss` is the mean loss of
    the latest line of metrics.jsonl. metrics.jsonl gets one line per `METRICS_EVERY` iterations, evaluations.jsonl one
    line per evaluation.

    Args:
        run_path: The run directory.
        num_iterations: Training iterations of the whole job.
        config: The settings of the job.
        topology: The roles of the ranks.
        clock: Returns seconds.
        start: Training iterations of earlier starts of the job.
        history: The metrics of earlier starts.
        evaluations: The evaluations of earlier starts.
        to_evaluate: The numbers of samples and batches of one evaluation; zeros if the job does not evaluate.
        tables: Figures of the dynamic tables at the start, by their names; None: there are none.
    Raises:
        BagpipeError: a file in the run directory cannot be written.
    """

    def __init__(
        self,
        run_path: Path,
        num_iterations: int,
        config: Config,
        topology: Topology,
        clock: Callable[[], float] = time.perf_counter,
        start: int = 0,
        history: History | None = None,
        evaluations: Sequence[Evaluation] = (),
        to_evaluate: tuple[int, int] = (0, 0),
        tables: Mapping[str, TableFigures] | None = None,
    ) -> None:
        history = history or History()
        self._config = config
        self._metrics_path = run_path / "metrics.jsonl"
        with writing_to(self._metrics_path):
            self._metrics_path.unlink(missing_ok=True)  # an earlier start that still runs may write into the old file
            # The file has no buffer, because closing a file with a buffer would try again to write what did not fit.
            self._metrics = self._metrics_path.open("wb", buffering=0)
            try:
                _write_all(self._metrics, history.lines)
            except OSError:
                self._metrics.close()
                raise
        self._evaluations_path = run_path / "evaluations.jsonl"
        with writing_to(self._evaluations_path):
            self._evaluations_path.unlink(missing_ok=True)  # an earlier start may have left one
        self._evaluation: Evaluation | None = None
        self._tensorboard = TensorBoard(run_path / "tensorboard", start) if config.tensorboard else None
        for line in history.lines.splitlines():
            self._add_scalars(json.loads(line))
        for evaluation in evaluations:
            self._keep(evaluation)
        self._lines = bytearray(history.lines)
        self._num_iterations = num_iterations
        self._clock = clock
        self._losses = list(history.losses)
        self._has_last_line = False
        self._first = self.num_trained = start
        self._line = ProgressLine(clock(), start, num_iterations)
        self._samples = 0
        self._tables = tables or {}
        self.last_loss = _last_loss(history.lines)
        self._start = self._mark = self._reported = self._shown = clock()
        self._mark_samples = 0
        self._console = open_console()
        self._bar: Bar | None = None
        self._is_hidden = False
        self._task = TaskID(0)
        model = f"{config.model.title} ({config.mode})"
        ranks = f"{topology.num_trainers} trainer(s), {topology.num_servers} embedding server(s)"
        if num_iterations > start:
            doing = (
                f"training {model}: {ranks}, {num_iterations:,} iterations of {config.training.batch_size:,} samples"
            )
        elif to_evaluate[1]:
            doing = "evaluating {:,} samples in {:,} batches".format(*to_evaluate) + f": {model}, {ranks}"
        else:
            doing = f"nothing is left to train: {model}, {ranks}"
        LOGGER.info(doing)

    def __enter__(self) -> Progress:
        if self._console.is_terminal and is_printing():
            self._bar = Bar(
                BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
                console=self._console, auto_refresh=False,
            )  # fmt: skip
            self._task = self._bar.add_task(
                "training",
                total=self._num_iterations,
                completed=self.num_trained,
                figures=self._line.figures(self._clock()),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self._has_last_line and (kind is None or not issubclass(kind, OSError | BagpipeError)):
                self._write_metrics()
        finally:
            self._metrics.close()
        if kind is None and not self._is_hidden and self.num_trained > self._first:
            self._show()
        if self._bar:
            self._bar.stop()
        if self._tensorboard:
            self._tensorboard.close()

    def hide(self) -> None:
        """Show nothing more, so that the reason why the job ends early is the last line of its output."""
        self._is_hidden = True

    def advance(
        self, num_trained: int, loss: float, num_samples: int, tables: Mapping[str, TableFigures] | None = None
    ) -> None:
        """Note the end of one training iteration.

        Args:
            num_trained: Training iterations of the whole job up to and including this one.
            loss: The mean loss over the global batch.
            num_samples: The number of samples of the global batch.
            tables: Figures of the dynamic tables, by their names; None: there are none.
        """
        self.num_trained = num_trained
        self._tables = tables or {}
        self._samples += num_samples
        self._line.advance(self._clock(), num_trained, num_samples)
        self._losses.append(loss)
        self._reported = self._clock()
        if len(self._losses) >= METRICS_EVERY:
            self._write_metrics()

    def evaluated(self, evaluation: Evaluation, is_best: bool) -> None:
        """Show and record the result of an evaluation.

        Args:
            evaluation: The evaluation.
            is_best: Whether it is the best one so far.
        """
        self._keep(evaluation)
        shown, label = _shown(evaluation.result), self._config.evaluation.label
        if evaluation.window is not None:
            LOGGER.info("window from %s to %s, before training on it: %s", *evaluation.window, shown)
            return
        if is_best and evaluation.iteration < self._num_iterations:
            by = METRIC_NAMES[self._config.evaluation.metric] + (f" of {label}" if label else "")
            shown = f"the best so far by {by}; {shown}" if evaluation.result.labels else f"{shown}, the best so far"
        LOGGER.info("evaluation after %s iterations: %s", f"{evaluation.iteration:,}", shown)

    def history(self) -> History:
        """Return what a later start of the job needs to continue the metrics."""
        return History(bytes(self._lines), tuple(self._losses))

    @property
    def seconds_per_iteration(self) -> float:
        """The mean time of an iteration of this start."""
        return (self._clock() - self._start) / max(1, self.num_trained - self._first)

    def training_is_over(self) -> None:
        """Write the last line of metrics.jsonl, because all iterations of this start have ended.

        `history` does not change: a later start with more iterations continues the line that has begun.
        """
        self._line.is_trained = True
        if self._losses and not self._has_last_line:
            self._write_line()
        self._has_last_line = True

    def refresh(self, evaluated: tuple[int, int] | None = None, *, is_saving: bool = False) -> None:
        """Show the progress if the time for the next line has come.

        Args:
            evaluated: The samples with predictions and all samples of the evaluation that goes on. None: between
                evaluations.
            is_saving: Whether all iterations are done and the last checkpoint is still being written.
        """
        now = self._clock()
        self._line.evaluated = evaluated
        self._line.saving_since = (self._line.saving_since or now) if is_saving else None
        if now - self._shown >= (SECONDS_PER_REFRESH if self._bar else SECONDS_PER_LINE):
            self._shown = now
            self._show()

    def _write_metrics(self) -> None:
        if not self._losses:
            return
        self._lines += self._write_line()
        self._losses.clear()
        self._mark, self._mark_samples = self._reported, self._samples

    def _write_line(self) -> bytes:
        """Write a line about the iterations since the line before, and return it."""
        self.last_loss = sum(self._losses) / len(self._losses)
        rate = (self._samples - self._mark_samples) / max(self._reported - self._mark, 1e-9)
        line: dict[str, Any] = {
            "iteration": self.num_trained,
            "loss": self.last_loss,
            "samples_per_second": round(rate, 1),
        }
        if self._tables:
            line["dynamic_tables"] = figures_by_table(self._tables)
        content = dump_line(finite(line)).encode()
        with writing_to(self._metrics_path):
            _write_all(self._metrics, content)
        self._add_scalars(line)
        return content

    def _add_scalars(self, line: dict[str, Any]) -> None:
        if self._tensorboard is None:
            return
        config, num_trained = self._config, int(line["iteration"])
        rates = {"learning_rate": config.dense_learning_rate, "row_learning_rate": config.row_learning_rate}
        scalars = {f"train/{name}": LearningRate(rate, config.schedule)(num_trained) for name, rate in rates.items()}
        scalars |= {f"train/{name}": line[name] for name in ("loss", "samples_per_second")}
        self._tensorboard.add(num_trained, scalars)

    def _keep(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation
        with writing_to(self._evaluations_path), self._evaluations_path.open("a", encoding="utf-8") as file:
            file.write(evaluation.to_line())
        if self._tensorboard:
            result = evaluation.result
            name = "eval" if evaluation.window is None else "window"
            curves = {name: result.judged, **{f"{name}/{label}": each for label, each in result.labels.items()}}
            scalars = {f"{curve}/{name}": value for curve, each in curves.items() for name, value in vars(each).items()}
            self._tensorboard.add(evaluation.iteration, scalars)

    def _show(self) -> None:
        is_early = math.isnan(self.last_loss) and self._losses
        self._line.loss = sum(self._losses) / len(self._losses) if is_early else self.last_loss
        self._line.tables = [f"{name} {figures.live:,} ids" for name, figures in self._tables.items()]
        self._line.evaluation = "" if self._evaluation is None else _in_short(self._evaluation)
        now = self._clock()
        if self._bar:
            self._bar.update(self._task, completed=self.num_trained, figures=self._line.figures(now), refresh=True)
        else:
            LOGGER.info(self._line.text(now))


def _write_all(file: io.RawIOBase, content: bytes) -> None:
    """Write all content. A nearly full disk takes a part of it first and reports an error only at the next write."""
    view = memoryview(content)
    while view:
        view = view[file.write(view) or 0 :]


def _shown(result: EvaluationResult) -> str:
    if result.labels:
        return "; ".join(f"{name}: {in_words(vars(metrics)) or 'no labels'}" for name, metrics in result.labels.items())
    shown = in_words(vars(result.judged))
    return shown or f"{result.num_samples:,} samples predicted; they have no labels, so there are no metrics"


def _in_short(evaluation: Evaluation) -> str:
    shown = in_words(vars(evaluation.result.judged)).split(", ")[0]  # of the AUC, if there is one
    return shown or f"{evaluation.result.num_samples:,} samples predicted"


def _last_loss(lines: bytes) -> float:
    return float(json.loads(lines.splitlines()[-1])["loss"]) if lines else float("nan")
