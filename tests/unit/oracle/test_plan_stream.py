"""The stream of batches and of their plans: evaluations in between, and where it ends."""

from __future__ import annotations

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import Dataset, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.oracle import plan_stream
from bagpipe_hpc.oracle.batch_stream import count_batches, sample_batches, timetable_of
from bagpipe_hpc.oracle.plan_stream import EncodedPlan, PlanStream
from bagpipe_hpc.runtime.data_position import BEGINNING, DataPosition, TrainingRange
from tests.integration.conftest import make_dataset

SETTINGS = ["training.batch_size=200", "evaluation.batch_size=400", "evaluation.every=2", "lookahead.window=3",
            "lookahead.prefetch_depth=1"]  # fmt: skip
E, T = "E", "T"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1,000 samples to train on, 1,000 to evaluate on."""
    return open_dataset(make_dataset(tmp_path_factory.mktemp("data") / "small"))


def batches_of(dataset: Dataset, start: DataPosition = BEGINNING, *settings: str) -> list[Batch]:
    config = load_config(None, [*SETTINGS, *settings])
    training_range = TrainingRange.of(config.training, dataset.train.num_samples, start)
    timetable = timetable_of(config, dataset, training_range)
    batches = list(sample_batches(config, dataset, training_range, timetable))
    assert len(batches) == count_batches(training_range, timetable)
    return batches


def kinds(batches: list[Batch]) -> str:
    return "".join(E if batch.read_only else T for batch in batches)


def test_evaluations_come_after_their_iterations(dataset: Dataset) -> None:
    assert kinds(batches_of(dataset)) == "TTEEETTEEETEEE"
    assert kinds(batches_of(dataset, DataPosition(2, 0, 400))) == "EEETTEEETEEE"
    assert kinds(batches_of(dataset, DataPosition(3, 0, 600))) == "TEEETEEE"
    assert kinds(batches_of(dataset, DataPosition(5, 1, 0))) == "EEE"
    assert kinds(batches_of(dataset, BEGINNING, "training.iterations=4")) == "TTEEETTEEE"
    assert kinds(batches_of(dataset, BEGINNING, "evaluation.every=null")) == "TTTTTEEE"
    assert kinds(batches_of(dataset, BEGINNING, "evaluation.enabled=false")) == "TTTTT"


def test_training_batches_are_the_same_with_and_without(dataset: Dataset) -> None:
    shuffled = ["training.shuffle_block=64", "training.epochs=2"]
    trained = [batch for batch in batches_of(dataset, BEGINNING, *shuffled) if not batch.read_only]
    for batch, other in zip(
        trained, batches_of(dataset, BEGINNING, *shuffled, "evaluation.enabled=false"), strict=True
    ):
        assert np.array_equal(batch.ids, other.ids)


def plan(
    dataset: Dataset, stop_after: int | None = None, cut_at: int | None = None
) -> tuple[PlanStream, list[EncodedPlan]]:
    """Plans of the whole stream; `cut_at` batches are admitted, `stop_after` so many plans it is stopped."""
    config = load_config(None, SETTINGS)
    batches = batches_of(dataset)
    admitted = iter(range(len(batches)))
    stream = PlanStream(
        config, dataset.schema, num_trainers=2, num_servers=1, cache_rows=5000, num_batches=len(batches),
        admits=lambda _: cut_at is None or next(admitted) < cut_at,
    )  # fmt: skip
    plans = []
    for encoded in stream.plans(iter(batches), meanwhile=lambda: None):
        plans.append(encoded)
        if len(plans) == stop_after:
            stream.stop()
    return stream, plans


def test_plans_have_a_place_and_a_training_iteration(dataset: Dataset) -> None:
    stream, plans = plan(dataset)
    assert [encoded.plan.stream_position for encoded in plans] == list(range(14))
    assert [encoded.plan.num_trained for encoded in plans] == [0, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 5, 5, 5]
    assert [encoded.plan.num_trained_after for encoded in plans] == [1, 2, 2, 2, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    assert stream.end is not None
    assert (stream.end.num_trained, stream.end.is_stop, len(stream.end.residents.keys)) == (5, False, 0)


def test_a_stream_that_is_cut_ends_as_one_that_is_over(dataset: Dataset) -> None:
    stream, plans = plan(dataset, cut_at=10)
    assert len(plans) == 10
    assert stream.end is not None
    assert (stream.end.num_trained, stream.end.is_stop, len(stream.end.residents.keys)) == (4, False, 0)
    trained = {key for batch in batches_of(dataset)[:10] if not batch.read_only for key in batch.ids[:, 3].tolist()}
    written_back = np.concatenate([encoded.plan.write_backs.local_rows for encoded in plans])
    offset = sum(dataset.schema.num_embeddings[:3])
    assert trained <= set((written_back - offset).tolist())


def test_a_stream_that_is_stopped_within_an_evaluation(dataset: Dataset) -> None:
    stream, plans = plan(dataset, stop_after=1)
    boundary = plans[-1].boundary
    assert boundary is not None
    assert boundary.is_stop
    assert boundary.num_trained == plans[-1].plan.num_trained_after
    assert stream.end is None


def test_histories_of_any_length_are_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    largest: list[object] = []
    monkeypatch.setattr(plan_stream, "warm_up", lambda *arguments: largest.append(arguments[-1]))
    one_hot = TableSchema(name="item", num_embeddings=8)
    ragged = TableSchema(name="clicked", num_embeddings=8, ragged=True, sequence=True)
    for tables in ((one_hot,), (one_hot, ragged)):
        plan_stream.warm_up_planning(load_config(None, SETTINGS), Schema(tables=tables), num_trainers=2)
    assert largest == [200, None]
