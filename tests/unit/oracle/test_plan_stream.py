"""The stream of batches and of their plans: evaluations in between, and where it ends."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import cast

import numpy as np
import pytest

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import Dataset, open_dataset
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.data.time_windows import TimeWindow
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import TableFullError
from bagpipe_hpc.oracle import plan_stream
from bagpipe_hpc.oracle.batch_stream import count_batches, sample_batches, timetable_of
from bagpipe_hpc.oracle.plan_stream import Boundary, EncodedPlan, PlanStream
from bagpipe_hpc.protocol.codec import decode_plan
from bagpipe_hpc.protocol.plan import Residents, TrainerPlan
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


WINDOWS = [TimeWindow(0, 5, 0, 450), TimeWindow(5, 10, 450, 460), TimeWindow(15, 20, 460, 1000)]


def in_time_order(dataset: Dataset, start: DataPosition = BEGINNING, *settings: str) -> list[Batch]:
    """Return the batches of 3, 1 and 3 iterations, where windows are evaluated in 2, 1 and 2 batches."""
    config = load_config(None, [*SETTINGS, "evaluation.every=null", *settings])
    ends = [window.last for window in WINDOWS]
    training_range = TrainingRange.of(config.training, dataset.train.num_samples, start, ends)
    timetable = timetable_of(config, dataset, training_range, WINDOWS)
    batches = list(sample_batches(config, dataset, training_range, timetable))
    assert len(batches) == count_batches(training_range, timetable)
    return batches


def test_windows_are_evaluated_before_training_on_them(dataset: Dataset) -> None:
    batches = in_time_order(dataset)
    assert kinds(batches) == "EETTTETEETTTEEE"
    assert [batch.num_samples for batch in batches] == [
        400,
        50,
        200,
        200,
        50,
        10,
        10,
        400,
        140,
        200,
        200,
        140,
        400,
        400,
        200,
    ]
    samples = dataset.train.read(0, 1000)
    for read_only, end in ((True, len(batches) - 3), (False, len(batches))):
        found = Batch.concatenate([batch for batch in batches[:end] if batch.read_only is read_only])
        assert np.array_equal(found.ids, samples.ids)
    assert kinds(in_time_order(dataset, BEGINNING, "evaluation.enabled=false")) == "TTTTTTT"
    assert kinds(in_time_order(dataset, BEGINNING, "training.iterations=4")) == "EETTTETEEE"


def test_going_on_in_time_order(dataset: Dataset) -> None:
    """In the middle of a window, its evaluation is past; at its start, it is not."""
    assert kinds(in_time_order(dataset, DataPosition(2, 0, 400))) == "TETEETTTEEE"
    assert kinds(in_time_order(dataset, DataPosition(3, 0, 450))) == "ETEETTTEEE"
    assert kinds(in_time_order(dataset, DataPosition(7, 1, 0))) == "EEE"


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


COUNTING = ["model.name=two_tower", "model.item_features=[t3]", "training.epochs=2", "training.shuffle_block=64"]


def counted(
    dataset: Dataset, num_trainers: int, *settings: str, start: DataPosition = BEGINNING, before: Boundary | None = None
) -> list[EncodedPlan]:
    """Plans of a job that counts items, with a boundary behind each."""
    config = load_config(None, [*SETTINGS, *COUNTING, *settings])
    stream = PlanStream(
        config, dataset.schema, num_trainers=num_trainers, num_servers=1, cache_rows=5000, num_batches=50,
        is_boundary=lambda _: True, start=start.num_trained, before=before,
    )  # fmt: skip
    return list(stream.plans(iter(batches_of(dataset, start, *COUNTING, *settings)), meanwhile=lambda: None))


def counts_by_trainer(plans: list[EncodedPlan]) -> list[list[list[int]]]:
    decoded = [[decode_plan(message) for message in encoded.messages.trainers] for encoded in plans]
    return [[cast(TrainerPlan, each).item_counts.tolist() for each in of_plan] for of_plan in decoded]


def test_items_are_counted_as_they_are_trained_on(dataset: Dataset) -> None:
    expected, so_far = [], Counter[int]()
    for batch in batches_of(dataset, BEGINNING, *COUNTING):
        items = batch.ids[:, 3].tolist()
        if not batch.read_only:
            so_far.update(items)
        expected.append([] if batch.read_only else [so_far[item] for item in items])
    plans = counted(dataset, 2, "evaluation.every=7")
    assert [first + second for first, second in counts_by_trainer(plans) if first] == [
        each for each in expected if each
    ]
    end = plans[-1].boundary
    assert end is not None
    assert end.items is not None
    assert dict(zip(end.items.items.tolist(), end.items.counts.tolist(), strict=True)) == so_far
    moved = [plan for plan in counted(dataset, 3, "oracle.placement=locality") if not plan.plan.read_only]
    found = [sorted(itertools.chain(*each)) for each in counts_by_trainer(moved)]
    assert found == [sorted(each) for each in expected if each]


def test_counts_go_on_after_a_restart(dataset: Dataset) -> None:
    plans = counted(dataset, 2)
    boundary = next(each.boundary for each in plans if each.plan.num_trained_after == 6)
    assert boundary is not None
    before = Boundary(6, Residents.none(3), None, items=boundary.items)
    resumed = counted(dataset, 3, start=DataPosition(6, 1, 200), before=before)
    trained = [[plan for plan in each if not plan.plan.read_only] for each in (plans, resumed)]
    all_counts, later = ([list(itertools.chain(*each)) for each in counts_by_trainer(of)] for of in trained)
    assert (len(all_counts), len(later)) == (10, 4)
    assert later == all_counts[6:]


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


def test_a_full_table_ends_the_stream_before_its_batch(dataset: Dataset) -> None:
    """No batch behind it is asked whether it is admitted: this would wait for the results of batches without plans."""
    rules = DynamicSchema(capacity=2, default_rows=3)
    table = TableSchema(name="t3", num_embeddings=rules.num_rows, dynamic=rules)
    schema = Schema(tables=(table,))
    batches = [
        Batch(np.zeros(1, np.float32), np.zeros((1, 0), np.float32), np.array([[each]]), read_only=each < 0)
        for each in (7, 7, -1, -1, 8, 7, -1, -1, 9, 7, 7)
    ]
    asked: list[Batch] = []

    def admits(batch: Batch) -> bool:
        asked.append(batch)
        return True

    stream = PlanStream(
        load_config(None, SETTINGS), schema, num_trainers=2, num_servers=1, cache_rows=50, num_batches=len(batches),
        admits=admits,
    )  # fmt: skip
    plans = stream.plans(iter(batches), meanwhile=lambda: None)
    assert [next(plans).plan.num_trained_after for _ in range(8)] == [1, 2, 2, 2, 3, 4, 4, 4]
    with pytest.raises(TableFullError, match="table t3 has rows for 2 ids, and a new id of iteration 5 finds none"):
        next(plans)
    assert len(asked) == 9
    end = stream.end
    assert end is not None
    assert end.dynamic is not None
    assert (end.num_trained, end.is_stop, len(end.residents.keys)) == (4, False, 0)
    assert end.dynamic().ids["t3"].live.ids.tolist() == [8, 7]


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
