"""Planned training with the Triton kernels, in Triton's interpreter, gives the bits of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.item_features import item_column
from bagpipe_hpc.data.schema import ElementSchema, Schema, TableSchema
from bagpipe_hpc.lookahead.item_counts import CountedItems
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import IterationPlan
from bagpipe_hpc.row_layout import row_width
from bagpipe_hpc.sharding import KeySpace, Sharding
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.device.base import Device, RowJob, RowKernels
from bagpipe_hpc.trainer.device.cpu import CpuDevice, CpuKernels
from bagpipe_hpc.trainer.device.feature_layout import layout_of
from bagpipe_hpc.trainer.device.row_step import fusible_optimizer
from bagpipe_hpc.trainer.feature_inputs import item_places, sequence_inputs, vectors_of
from bagpipe_hpc.trainer.models import MODELS, SEQUENCE_MODELS, build_model
from bagpipe_hpc.trainer.objective import Objective
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.sample_blocks import ONE_BLOCK, BlockSamples, BlockShare
from bagpipe_hpc.trainer.step import Stopwatch, TrainingStep
from bagpipe_hpc.trainer.wire import Wire, WireDtype
from tests.fake_cuda import FakeCudaDevice, fake_cuda
from tests.kernels import check_kernels, pooled, random_lists, updated
from tests.plans import rank_plans
from tests.unit.trainer.test_step import (
    NUM_DENSE,
    ORDERS,
    Board,
    LaunchedSGD,
    NobodyElse,
    Outcome,
    Players,
    Servers,
    ThreadDense,
    ThreadPeers,
)

RAGGED = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
        TableSchema(name="item", num_embeddings=9, shares="tags"),
    )
)
HISTORY = Schema(
    tables=(
        TableSchema(name="seen", num_embeddings=9, ragged=True, sequence=True, shares="item"),
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="site", num_embeddings=5),
    )
)
MIXED = Schema(
    tables=(
        TableSchema(
            name="seen",
            num_embeddings=9,
            ragged=True,
            sequence=True,
            shares="tags",
            elements=(ElementSchema(name="stars"),),
        ),
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="bought", num_embeddings=9, ragged=True, sequence=True, shares="tags"),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
        TableSchema(name="item", num_embeddings=9, shares="tags"),
    )
)
ONE_HOT = Schema(
    tables=(
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="next", num_embeddings=9, shares="item"),
    )
)
SIZES, READ_ONLY = (6, 6, 2, 5), 2
PREFETCH_DEPTH, CACHE_ROWS = 1, 40
TABLES = {
    "tags": {"pooling": "mean", "embedding_dim": 2},
    "topics": {"pooling": "mean"},
    "site": {"learning_rate": 0.4},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def triton_kernels(kernels: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[], RowKernels]:
    """Makes TritonKernels, whose launches are serial, because the interpreter has one state for all threads."""
    from bagpipe_hpc.trainer.device.triton_kernels import TritonKernels

    lock, launch = Lock(), kernels._launch

    def launch_alone(*args: Any, **constants: Any) -> None:
        with lock:
            launch(*args, **constants)

    monkeypatch.setattr(kernels, "_launch", launch_alone)
    fake_cuda(monkeypatch)
    return TritonKernels


def bags_of(random: np.random.Generator, size: int, table: TableSchema) -> Bags:
    counts = random.integers(0, 4, size)
    ids = random.integers(0, 9, counts.sum())
    weights = random.choice(np.array([-0.5, 0.5, 2.0], np.float32), len(ids)) if table.weighted else None
    elements = {element.name: random.random(len(ids), np.float32) for element in table.elements}
    return Bags(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), ids, weights, elements)


def batches(schema: Schema) -> list[Batch]:
    random = np.random.default_rng(0)
    stream = []
    for number, size in enumerate(SIZES):
        ids = [random.integers(0, table.num_embeddings, size) for table in schema.tables if not table.ragged]
        bags = {table.name: bags_of(random, size, table) for table in schema.ragged_tables}
        labels = random.integers(0, 2, size).astype(np.float32)
        dense = random.normal(size=(size, NUM_DENSE)).astype(np.float32)
        stream.append(Batch(labels, dense, np.stack(ids, axis=1), bags, read_only=number == READ_ONLY))
    return stream


def initial_rows(config: Config, key_space: KeySpace) -> NDArray[np.float32]:
    rows = np.zeros((key_space.num_keys, row_width(config)), np.float32)
    rows[:, : config.model.row_dim] = np.random.default_rng(1).normal(size=(key_space.num_keys, config.model.row_dim))
    if config.optimizes_by_table:
        rows[:, -1] = np.repeat(np.arange(len(key_space.num_embeddings)), key_space.num_embeddings)
    return rows


def config_of(optimizer: dict[str, Any], tables: dict[str, Any], name: str) -> Config:
    model = {"name": name, "embedding_dim": 3, "attention_heads": 1}
    return Config.model_validate(
        {"model": model, "tables": tables, "row_optimizer": {"learning_rate": 0.3, **optimizer}}
    )


def planned_training(
    make_device: Callable[[], Device],
    config: Config,
    schema: Schema,
    num_trainers: int,
    wire: WireDtype = "float32",
    num_blocks: int | None = None,
) -> Outcome:
    """Train on a few small batches; iterations overlap."""
    key_space = KeySpace(schema.num_embeddings)
    planner = Planner(
        num_embeddings=key_space.num_embeddings, num_trainers=num_trainers, num_servers=1, window=3,
        prefetch_depth=PREFETCH_DEPTH, cache_rows=CACHE_ROWS, features=schema.features, num_blocks=num_blocks,
    )  # fmt: skip
    num_vectors, histories = len(vectors_of(config, schema)), sequence_inputs(config, schema)
    models = [
        build_model(config.model, NUM_DENSE, num_vectors, seed=3, sequences=histories, item=item_places(config, schema))
        for _ in range(num_trainers)
    ]
    outcome = Outcome(initial_rows(config, key_space), [model.state_dict() for model in models])
    boards = [Board(num_trainers) for _ in range(3)]
    steps = []
    for trainer, model in enumerate(models):
        device, count = make_device(), (num_blocks or 0) // num_trainers
        peers, delayed = (
            ThreadPeers(board, trainer) if num_trainers > 1 else NobodyElse() for board in boards[:2]
        )  # fmt: skip
        steps.append(
            TrainingStep(
                trainer_rank=trainer,
                model=model,
                row_dim=config.model.row_dim,
                table_names=tuple(table.name for table in schema.tables),
                pooling=Pooling(schema, config, device),
                objective=Objective(config, schema, device.torch_device),
                cache=RowCache(CACHE_ROWS, row_width(config), device),
                row_optimizer=fusible_optimizer(config, schema, waits=device.shares_memory),
                dense_optimizer=LaunchedSGD(model, device),
                dense_gradients=ThreadDense(boards[2], trainer, model, num_blocks is not None),
                blocks=BlockShare(trainer * count, count, num_blocks) if num_blocks else ONE_BLOCK,
                peers=peers,
                delayed_peers=delayed,
                wire=Wire(wire),
                stopwatch=Stopwatch(),
                delayed_stopwatch=Stopwatch(),
            )
        )
    servers = Servers(Sharding(key_space.num_keys, 1), PREFETCH_DEPTH, outcome.rows)
    with Players(steps, servers, outcome) as players:
        ORDERS["while"](players, list(rank_plans(plans_of(planner, config, schema))))
    while servers.written:
        servers.scatter()
    return outcome


def plans_of(planner: Planner, config: Config, schema: Schema) -> Iterator[IterationPlan]:
    stream, column = batches(schema), item_column(config, schema)
    if column is None:
        yield from planner.plans(stream)
        return
    items = CountedItems("item", column)
    for batch in stream:
        items.enter(batch)
    yield from map(items.counted, planner.plans(stream))


def check(
    triton_kernels: Callable[[], RowKernels],
    optimizer: dict[str, Any],
    schema: Schema,
    num_trainers: int,
    *,
    tables: dict[str, Any] | None = None,
    wire: WireDtype = "float32",
    num_blocks: int | None = None,
    model: str = "wide_deep",
) -> None:
    arguments = config_of(optimizer, tables or {}, model), schema, num_trainers, wire, num_blocks
    theirs = planned_training(CpuDevice, *arguments)
    ours = planned_training(lambda: FakeCudaDevice(triton_kernels()), *arguments)
    assert ours.rows.tobytes() == theirs.rows.tobytes() != initial_rows(arguments[0], KeySpace((9, 5))).tobytes()
    assert ours.losses == theirs.losses
    assert [each.tobytes() for each in ours.logits] == [each.tobytes() for each in theirs.logits]
    assert all(torch.equal(tensor, theirs.dense[0][name]) for name, tensor in ours.dense[0].items())


def test_ragged_features_and_narrow_tables_with_sgd(triton_kernels: Any) -> None:
    check(triton_kernels, {"name": "sgd"}, RAGGED, 2, tables=TABLES)


def test_one_hot_features_with_momentum(triton_kernels: Any) -> None:
    check(triton_kernels, {"name": "momentum", "nesterov": True}, ONE_HOT, 3)


@pytest.mark.usefixtures("rounded_square_root")
def test_blocks_in_a_tree_with_adagrad(triton_kernels: Any) -> None:
    check(triton_kernels, {"name": "adagrad", "clip_value": 0.01}, RAGGED, 2, num_blocks=4)


@pytest.mark.usefixtures("rounded_square_root")
def test_16_bits_with_rowwise_adagrad(triton_kernels: Any) -> None:
    check(triton_kernels, {"name": "rowwise_adagrad"}, RAGGED, 2, tables=TABLES, wire="float16")


@pytest.mark.usefixtures("rounded_square_root")
def test_16_bits_with_adam_on_one_trainer(triton_kernels: Any) -> None:
    check(triton_kernels, {"name": "adam"}, ONE_HOT, 1, wire="bfloat16")


@pytest.mark.usefixtures("rounded_square_root")
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad", "rowwise_adagrad", "adam"])
@pytest.mark.parametrize("model", sorted(MODELS | SEQUENCE_MODELS))
def test_every_model_with_every_optimizer(triton_kernels: Any, model: str, optimizer: str) -> None:
    check(triton_kernels, {"name": optimizer}, HISTORY if model in SEQUENCE_MODELS else ONE_HOT, 1, model=model)


def test_sequences_on_two_trainers(triton_kernels: Any) -> None:
    check(triton_kernels, {"name": "sgd"}, HISTORY, 2, model="din", wire="float16")


@pytest.mark.parametrize("tables", [{}, {"topics": {"pooling": "mean"}, "bought": {"pooling": "sum"}}])
def test_features_beside_sequences_are_pooled_by_kernels(
    triton_kernels: Any, kernels: Any, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any]
) -> None:
    pooled_shapes, pool_rows = set(), kernels.pool_rows

    def pool(layout: Any, rows: Any, bags: Any, out: torch.Tensor, *wire: Any) -> None:
        pooled_shapes.add(out.shape[1:])
        pool_rows(layout, rows, bags, out, *wire)

    monkeypatch.setattr(kernels, "pool_rows", pool)
    check(triton_kernels, {"name": "sgd"}, MIXED, 2, model="din", wire="float16", tables=tables)
    assert pooled_shapes == {(5 if tables else 4, 3)}


def test_sequences_alone_need_no_kernels(triton_kernels: Any) -> None:
    tables = (
        TableSchema(name="seen", num_embeddings=9, ragged=True, sequence=True),
        TableSchema(name="site", num_embeddings=5, ragged=True, sequence=True),
    )
    layout = layout_of(Schema(tables=tables), Config())
    lengths = np.array([[1], [0]])
    samples = BlockSamples(
        np.zeros(1, np.float32), np.zeros((1, 0), np.float32), np.zeros(1, np.int32), lengths, np.empty(0, np.float32)
    )
    job = RowJob(layout, fusible_optimizer(Config(), Schema(tables=tables), waits=True), 0, in_tree=False)
    assert list(triton_kernels().arrays_of_samples(job, samples, 1)) == []


def test_rows_are_copied(triton_kernels: Any) -> None:
    check_kernels(triton_kernels(), torch.from_numpy, lambda tensor: tensor.numpy())


def test_pooling_and_its_gradients(triton_kernels: Any) -> None:
    vectors, gradients = pooled(CpuDevice())
    ours = pooled(FakeCudaDevice(triton_kernels()))
    assert ours[0].tobytes() == vectors.tobytes()
    assert ours[1].tobytes() == gradients.tobytes()


@pytest.mark.usefixtures("rounded_square_root")
@pytest.mark.parametrize("in_tree", [False, True])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "rowwise_adagrad", "adam"])
def test_updates_are_those_of_the_cpu(triton_kernels: Any, name: str, in_tree: bool) -> None:
    wire: WireDtype = "float16" if in_tree else "float32"
    expected = updated(CpuDevice(), {"name": name}, in_tree=in_tree, wire_name=wire)
    found = updated(FakeCudaDevice(triton_kernels()), {"name": name}, in_tree=in_tree, wire_name=wire)
    assert found.tobytes() == expected.tobytes()


def test_an_optimizer_that_no_kernel_knows_steps_in_torch(triton_kernels: Any) -> None:
    lists, own, arrived = random_lists(2, 0, 3, seed=1)
    plain = fusible_optimizer(config_of({"name": "sgd"}, {}, "wide_deep"), ONE_HOT)._optimizer
    rows = np.random.default_rng(0).random((40, 3), np.float32)
    expected, found = rows.copy(), torch.from_numpy(rows.copy())
    CpuKernels().update(expected, lists, own, arrived, plain, 3, in_tree=True)
    tensors = {name: torch.from_numpy(getattr(lists, name)) for name in ("slots", "positions", "index")}
    of_torch = type(lists)(**{**vars(lists), **tensors})
    triton_kernels().update(
        found, of_torch, torch.from_numpy(own), torch.from_numpy(arrived), plain, 3, in_tree=True
    )  # fmt: skip
    assert found.numpy().tobytes() == expected.tobytes()
