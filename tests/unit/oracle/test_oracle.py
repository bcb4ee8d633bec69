"""The oracle without MPI: what it does about each message, with servers and trainers that only answer."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.dense_file import DenseState
from bagpipe_hpc.config import Config, load_config
from bagpipe_hpc.data.dataset import Dataset, DatasetWriter, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import BagpipeError, DivergedError, JobStopped, TableFullError
from bagpipe_hpc.oracle.budget import Budget
from bagpipe_hpc.oracle.oracle import Oracle, OracleJob, OraclePorts
from bagpipe_hpc.oracle.progress import Progress
from bagpipe_hpc.oracle.saved_state import SavedState, dynamic_in
from bagpipe_hpc.protocol.codec import decode_plan
from bagpipe_hpc.protocol.figure_schedule import is_due
from bagpipe_hpc.protocol.inbox import Inbox, Outbox
from bagpipe_hpc.protocol.messages import FilesSaved, Loss, Message, Predictions, RankFigures, SavedFile, StopRequest
from bagpipe_hpc.protocol.plan import ServerPlan, SnapshotOrder, TrainerPlan
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.runtime.data_position import TrainingRange
from bagpipe_hpc.runtime.file_writer import saved_files
from bagpipe_hpc.runtime.run_directory import RESUME_AUTO
from bagpipe_hpc.runtime.spec import CheckpointSpec, JobSpec
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.transport.memory_comm import MemoryComm
from bagpipe_hpc.transport.ports import CommMailbox, CommWorld
from tests.integration.conftest import make_dataset

TOPOLOGY = Topology(world_size=4, num_servers=1)
SETTINGS = ["training.batch_size=200", "evaluation.batch_size=500", "evaluation.every=2", "lookahead.window=3",
            "lookahead.prefetch_depth=1", "training.epochs=2", "tensorboard=false"]  # fmt: skip

Answer = Callable[[Message], Message | None]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,000 samples to train on, 1,000 to evaluate on."""
    return open_dataset(make_dataset(tmp_path_factory.mktemp("data") / "small"))


class AnsweringRanks:
    """In place of servers and trainers: whatever they are sent, they answer at once. Also the port PlanOutlet.

    Args:
        spec: The job.
        outbox: To the oracle.
        answer: May change an answer, or withhold it (None).
    """

    def __init__(self, spec: JobSpec, outbox: Outbox, answer: Answer) -> None:
        self._spec, self._outbox, self._answer = spec, outbox, answer
        self.trained: list[int] = []  # num_trained of the plans that trainer 0 got
        self.saved: list[int] = []  # num_trained of the orders that it got
        self.num_ended = 0
        self.bytes_sent = 0
        self._played: Counter[int] = Counter()  # by world rank, the plans that count for its figures

    def has_room(self) -> bool:
        return True

    def is_idle(self) -> bool:
        return True

    def slow_receivers(self) -> list[int]:
        return []

    def send(self, world_rank: int, message: bytes) -> None:
        item = decode_plan(message)
        if isinstance(item, ServerPlan) or (isinstance(item, TrainerPlan) and not item.read_only):
            self._played[world_rank] += 1
            if is_due(self._played[world_rank]):
                self._tell_figures(world_rank)
        trainer = world_rank - TOPOLOGY.trainer_ranks[0]
        if item is None:
            self.num_ended += 1
            self._tell_figures(world_rank)
        elif isinstance(item, SnapshotOrder):
            if trainer == 0:
                self.saved.append(item.num_trained)
            self._reply(FilesSaved(item.num_trained, self._write_files(item.num_trained, trainer), 0, 0.0))
        elif isinstance(item, TrainerPlan) and item.read_only:
            self._reply(Predictions(trainer, np.zeros(item.num_samples, np.float32)))
        elif isinstance(item, TrainerPlan) and trainer == 0:
            self.trained.append(item.num_trained)
            self._reply(Loss(item.num_trained_after, 0.5, item.num_global_samples))
        else:
            assert isinstance(item, ServerPlan | TrainerPlan)

    def _write_files(self, num_trained: int, trainer: int) -> tuple[SavedFile, ...]:
        """Write files without rows, as the rank that this trainer, or server 0 (trainer < 0), is."""
        assert self._spec.checkpoints is not None
        partial = self._spec.checkpoints.partial(num_trained, row_width(self._spec.config))
        entries = [partial.write_server(0, ()) if trainer < 0 else partial.write_trainer(trainer, ())]
        if trainer == 0:
            entries.append(partial.write_dense(DenseState({}, None)))
        return saved_files(entries)

    def _tell_figures(self, world_rank: int) -> None:
        self._outbox.send(RankFigures(world_rank, {"iteration": self._played[world_rank]}))

    def _reply(self, message: Message) -> None:
        answer = self._answer(message)
        if answer is not None:
            self._outbox.send(answer)


class Game:
    """One oracle and the ranks that answer it."""

    def __init__(self, dataset: Dataset, run_path: Path, answer: Answer, *settings: str) -> None:
        self.config: Config = load_config(None, [*SETTINGS, *settings])
        run_path.mkdir()
        root = run_path / "checkpoints"
        root.mkdir()
        checkpoints = CheckpointSpec(root, 1) if self.config.checkpoint.enabled else None
        spec = JobSpec(self.config, dataset.schema, checkpoints=checkpoints)
        (alone,) = MemoryComm.world(1)
        mailbox = CommMailbox(alone)  # type: ignore[arg-type]
        self.outbox, inbox = Outbox(mailbox), Inbox(mailbox)
        self.ranks = AnsweringRanks(spec, self.outbox, answer)
        world = CommWorld(alone)  # type: ignore[arg-type]
        job = OracleJob(dataset, run_path, Budget(None, 0.0), SavedState(), lambda: None)
        training_range = TrainingRange.of(self.config.training, dataset.train.num_samples, spec.start)
        self.oracle = Oracle(
            spec, job, TOPOLOGY, OraclePorts(world, self.ranks, inbox, "an MPI"), training_range, cache_rows=5000
        )
        self._progress = Progress(run_path, training_range.end, self.config, TOPOLOGY)

    def play(self) -> BagpipeError | None:
        with self._progress as progress:
            return self.oracle.play(progress)


NO_CHECKPOINTS = "checkpoint.enabled=false"


def test_a_job_without_incidents(dataset: Dataset, tmp_path: Path) -> None:
    game = Game(dataset, tmp_path / "run", lambda message: message, NO_CHECKPOINTS)
    assert game.play() is None
    assert game.ranks.trained == list(range(10))
    assert game.ranks.num_ended == 3
    assert game.oracle.end == 10
    evaluation, totals = game.oracle.evaluation_totals()
    assert evaluation is not None
    assert (evaluation.num_samples, totals["number"]) == (1000, 5)


def test_a_request_to_stop_ends_the_plans(dataset: Dataset, tmp_path: Path) -> None:
    def answer(message: Message) -> Message:
        if isinstance(message, Loss) and message.num_trained == 3:
            game.outbox.send(StopRequest("server 0 got SIGTERM"))
        return message

    game = Game(dataset, tmp_path / "run", answer, NO_CHECKPOINTS, "evaluation.enabled=false")
    ended = game.play()
    assert isinstance(ended, JobStopped)
    num_trained = len(game.ranks.trained)
    assert 3 <= num_trained < 10
    assert str(ended) == (
        f"stopped after iteration {num_trained}: server 0 got SIGTERM; no checkpoint: checkpoint.enabled is false"
    )
    assert game.ranks.num_ended == 3


def test_a_loss_that_is_not_finite_ends_the_job(dataset: Dataset, tmp_path: Path) -> None:
    def answer(message: Message) -> Message:
        is_bad = isinstance(message, Loss) and message.num_trained >= 4
        return Loss(message.num_trained, math.nan, message.num_samples) if is_bad else message  # type: ignore[union-attr]

    game = Game(dataset, tmp_path / "run", answer, NO_CHECKPOINTS)
    ended = game.play()
    assert isinstance(ended, DivergedError)
    assert "the loss is nan after 4 iterations" in str(ended)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1  # of the iterations before


def test_patience_ends_training_one_evaluation_later(dataset: Dataset, tmp_path: Path) -> None:
    patient = ["evaluation.early_stopping_patience=1", "lookahead.window=2"]
    game = Game(dataset, tmp_path / "run", lambda message: message, NO_CHECKPOINTS, *patient)
    assert game.play() is None
    assert game.oracle.end == 6  # evaluations after 2, 4 and 6 iterations are equal
    assert game.ranks.trained == list(range(6))


def test_a_checkpoint_waits_for_the_files_of_all_ranks(dataset: Dataset, tmp_path: Path) -> None:
    """The last file comes when the oracle has nothing else to wait for."""
    held: list[FilesSaved] = []

    def answer(message: Message) -> Message | None:
        if isinstance(message, FilesSaved):
            held.append(message)
            return message if len(held) != 3 else None
        return message

    game = Game(dataset, tmp_path / "run", answer, "evaluation.enabled=false", "checkpoint.every=4")
    root = tmp_path / "run" / "checkpoints"
    before: list[list[str]] = []
    idle = game.ranks.is_idle

    def is_idle() -> bool:
        if len(held) >= 3 and not before:
            before.append([path.name for path in root.glob("iteration-*")])
            game.outbox.send(held[2])
        return idle()

    game.ranks.is_idle = is_idle  # type: ignore[method-assign]
    game.ranks.has_room = is_idle  # type: ignore[method-assign]
    assert game.play() is None
    assert before == [[]]
    assert game.ranks.saved[0] == 4
    assert (root / "iteration-000000000004").is_dir()


def test_a_rank_that_finds_a_bad_row_ends_the_job_without_a_checkpoint(dataset: Dataset, tmp_path: Path) -> None:
    def answer(message: Message) -> Message:
        if isinstance(message, FilesSaved):
            return FilesSaved(message.num_trained, (), 0, 0.0, "row 3 of table 'site' is not finite")
        return message

    game = Game(dataset, tmp_path / "run", answer, "evaluation.enabled=false", "checkpoint.every=4")
    ended = game.play()
    assert isinstance(ended, DivergedError)
    assert str(ended) == "row 3 of table 'site' is not finite"
    assert list((tmp_path / "run" / "checkpoints").glob("iteration-*")) == []


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """10 iterations of 200 samples; each sample has an id of its own."""
    path = tmp_path_factory.mktemp("data") / "drifting"
    rules = DynamicSchema(capacity=1000)
    users = np.arange(2000).reshape(-1, 1)
    batch = Batch(np.zeros(2000, np.float32), np.zeros((2000, 0), np.float32), users)
    with DatasetWriter(path, Schema(tables=(TableSchema(name="u", num_embeddings=1001, dynamic=rules),))) as writer:
        writer.append("train", batch)
        writer.append("validation", batch.slice(0, 1000))
    return open_dataset(path)


PATIENT = ["evaluation.early_stopping_patience=9", "lookahead.window=2"]


@pytest.mark.parametrize("settings", [[], ["checkpoint.every=2"], PATIENT])
def test_a_full_table_ends_the_job_after_a_checkpoint(drifting: Dataset, tmp_path: Path, settings: list[str]) -> None:
    game = Game(drifting, tmp_path / "run", lambda message: message, "training.epochs=1", *settings)
    ended = game.play()
    assert isinstance(ended, TableFullError)
    assert game.ranks.trained == list(range(5))
    assert game.ranks.num_ended == 3
    path = tmp_path / "run" / "checkpoints" / "iteration-000000000005"
    assert str(ended).startswith("table u has rows for 1,000 ids, and a new id of iteration 6 finds none left; raise")
    assert str(ended).endswith(f"; all iterations before are saved in {path}: go on with {RESUME_AUTO}")
    saved = dynamic_in(Checkpoint.open(path))
    assert saved is not None
    assert np.array_equal(saved.ids["u"].live.ids, np.arange(1000))


def test_a_table_that_is_full_at_once_leaves_no_checkpoint(drifting: Dataset, tmp_path: Path) -> None:
    game = Game(drifting, tmp_path / "run", lambda message: message, "training.batch_size=1001")
    ended = game.play()
    assert isinstance(ended, TableFullError)
    assert str(ended).endswith("or let ids expire (tables.u.expire_after)")
    assert list((tmp_path / "run" / "checkpoints").glob("iteration-*")) == []


def test_a_full_table_of_a_job_without_checkpoints(drifting: Dataset, tmp_path: Path) -> None:
    game = Game(drifting, tmp_path / "run", lambda message: message, NO_CHECKPOINTS)
    assert isinstance(ended := game.play(), TableFullError)
    assert str(ended).endswith("; the iterations before are lost, because checkpoint.enabled is false")
    assert game.ranks.trained == list(range(5))
    last = json.loads((tmp_path / "run" / "figures.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["kind"], last["outcome"], last["reason"]) == ("end", "failed", str(ended))
