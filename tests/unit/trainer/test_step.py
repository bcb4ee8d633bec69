"""One iteration after the other on T trainers in threads, against a plain PyTorch loop, bit for bit."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from operator import add
from threading import Barrier
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.config import Config, ModelConfig, ScheduleConfig
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.learning_rate import LearningRate
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.plan import TrainerPlan
from bagpipe_hpc.sharding import KeySpace, Sharding, share_boundaries
from bagpipe_hpc.trainer.cache import RowCache
from bagpipe_hpc.trainer.dense_optimizer import DenseOptimizer
from bagpipe_hpc.trainer.device.base import Device, Forward, Memory, Stream
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.exposed_memory import ExposedMemory
from bagpipe_hpc.trainer.models import build_model
from bagpipe_hpc.trainer.objective import Objective
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.random_state import seed_of_block
from bagpipe_hpc.trainer.row_optimizer import RowSGD
from bagpipe_hpc.trainer.sample_blocks import ONE_BLOCK, BlockShare
from bagpipe_hpc.trainer.step import Blocks, Loss, OpenIteration, Stopwatch, TrainingStep, _evaluation_mode
from bagpipe_hpc.trainer.tree_accumulator import TreeAccumulator
from bagpipe_hpc.trainer.wire import Wire, WireArray, WireDtype, gradient_scale
from tests.plans import RankPlans, rank_plans
from tests.queued_device import Order, QueuedDevice, poisoned

Float32Array = NDArray[np.float32]

KEY_SPACE = KeySpace((4, 30, 11))
NUM_TABLES, NUM_DENSE, DIM = 3, 2, 5
SCHEMA = Schema(tables=tuple(TableSchema(name=f"t{n}", num_embeddings=n) for n in KEY_SPACE.num_embeddings))
RATE = LearningRate(0.3, ScheduleConfig(warm_up_iterations=4, decay="inverse_sqrt"))
MODEL = ModelConfig(embedding_dim=DIM, bottom_mlp=(7,), top_mlp=(6,))
READ_ONLY = {5, 11, 12}
SIZES = (7, 7, 1, 7, 2, 7, 7, 5, 7, 7, 7, 4, 6)  # some shares are empty
TIMEOUT = 20.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batches() -> list[Batch]:
    random = np.random.default_rng(0)
    stream = []
    for iteration, size in enumerate(SIZES):
        ids = [(random.random(size) ** 2 * num_rows).astype(np.int64) for num_rows in KEY_SPACE.num_embeddings]
        labels = random.integers(0, 2, size).astype(np.float32)
        dense = random.normal(size=(size, NUM_DENSE)).astype(np.float32)
        stream.append(Batch(labels, dense, np.stack(ids, axis=1), read_only=iteration in READ_ONLY))
    return stream


def numbered_batches() -> Iterator[tuple[int, Batch]]:
    """Each with the training iterations before it, which learning rates depend on."""
    num_trained = 0
    for batch in batches():
        yield num_trained, batch
        num_trained += not batch.read_only


def initial_rows() -> Float32Array:
    return np.random.default_rng(1).normal(size=(KEY_SPACE.num_keys, DIM)).astype(np.float32)


@dataclass
class Outcome:
    """What there is to compare."""

    rows: Float32Array
    dense: list[dict[str, Any]]  # of each trainer
    losses: list[float] = field(default_factory=list)
    logits: list[Float32Array] = field(default_factory=list)  # of each iteration
    allocations: list[int] = field(default_factory=list)  # of communication buffers, up to each iteration


def plain_training(num_shares: int) -> Outcome:
    """nn.Embedding tables, torch.optim.SGD, gradients accumulated over the shares of each batch."""
    model = build_model(MODEL, NUM_DENSE, NUM_TABLES, seed=3)
    pieces = np.split(initial_rows(), KEY_SPACE.table_offsets[1:-1])
    tables = nn.ModuleList(nn.Embedding.from_pretrained(torch.tensor(piece), freeze=False) for piece in pieces)
    optimizer = torch.optim.SGD([*model.parameters(), *tables.parameters()])
    outcome = Outcome(np.empty(0, np.float32), [])
    for num_trained, batch in numbered_batches():
        ids = torch.from_numpy(batch.ids)
        optimizer.param_groups[0]["lr"] = RATE(num_trained + 1)
        optimizer.zero_grad()
        logits, losses = [], []
        for share in torch.arange(len(ids)).tensor_split(num_shares):
            embedded = torch.stack([table(ids[share, index]) for index, table in enumerate(tables)], dim=1)
            logits.append(model(torch.from_numpy(batch.dense)[share], embedded))
            labels = torch.from_numpy(batch.labels)[share]
            loss = functional.binary_cross_entropy_with_logits(logits[-1], labels, reduction="sum") / len(ids)
            loss.backward()
            losses.append(loss.detach())
        if not batch.read_only:
            optimizer.step()
            outcome.losses.append(float(sum(losses)))
        outcome.logits.append(torch.cat(logits).detach().numpy())
    outcome.rows = np.concatenate([weight.detach().numpy() for weight in tables.parameters()])
    outcome.dense = [model.state_dict()]
    return outcome


def plain_rounded_training(num_shares: int, name: WireDtype) -> Outcome:
    """The same where all that is read, and every share's gradient of it, is rounded; rows themselves are not."""
    model, wire = build_model(MODEL, NUM_DENSE, NUM_TABLES, seed=3), Wire(name)
    optimizer = torch.optim.SGD(model.parameters())
    rows = torch.from_numpy(initial_rows())
    outcome = Outcome(rows.numpy(), [model.state_dict()])
    for num_trained, batch in numbered_batches():
        optimizer.param_groups[0]["lr"] = RATE(num_trained + 1)
        keys, scale = torch.from_numpy(batch.ids + KEY_SPACE.table_offsets[:-1]), gradient_scale(len(batch.ids))
        optimizer.zero_grad()
        logits, gradients = [], torch.zeros_like(rows)
        for share in torch.arange(len(keys)).tensor_split(num_shares):
            read = wire.unpack(wire.pack(rows.clone())).requires_grad_()
            logits.append(model(torch.from_numpy(batch.dense)[share], functional.embedding(keys[share], read)))
            labels = torch.from_numpy(batch.labels)[share]
            loss = functional.binary_cross_entropy_with_logits(logits[-1], labels, reduction="sum") / len(keys)
            loss.backward()
            assert read.grad is not None
            gradients += wire.unpack(wire.pack(read.grad, scale), scale)
        if not batch.read_only:
            optimizer.step()
            rows.add_(gradients, alpha=-RATE(num_trained + 1))
        outcome.logits.append(torch.cat(logits).detach().numpy())
    return outcome


class Board:
    """What trainers in threads show each other."""

    def __init__(self, num_trainers: int) -> None:
        self.barrier = Barrier(num_trainers, timeout=TIMEOUT)
        self.shown: list[Any] = [None] * num_trainers

    def show(self, trainer: int, item: Any) -> list[Any]:
        """Show an item; returns everybody's."""
        self.shown[trainer] = item
        self.barrier.wait()
        items = list(self.shown)
        self.barrier.wait()
        return items


def in_memory(block: WireArray | torch.Tensor) -> WireArray:
    """The memory of a block, as it is now, whatever work of a device is still under way."""
    array: WireArray = block.numpy() if isinstance(block, torch.Tensor) else block
    return array


class ThreadPeers:
    """The exchange between trainers, by copying."""

    def __init__(self, board: Board, trainer: int) -> None:
        self.board, self.trainer = board, trainer

    def begin(self, outgoing: Blocks, incoming: Blocks) -> ThreadSwap:
        sent, landing = ({peer: in_memory(block) for peer, block in blocks} for blocks in (outgoing, incoming))
        assert self.trainer not in sent | landing
        for block in landing.values():
            note_landing(block)
        assert all(block.flags.c_contiguous and len(block) for block in sent.values())
        return ThreadSwap(self, {peer: block.copy() for peer, block in sent.items()}, landing)


@dataclass
class ThreadSwap:
    """Rows leave as they are when the swap begins, and land when it finishes."""

    peers: ThreadPeers
    sent: dict[int, WireArray]
    landing: dict[int, WireArray]

    def finish(self) -> None:
        me = self.peers.trainer
        shown = self.peers.board.show(me, self.sent)
        landed = {peer: theirs[me] for peer, theirs in enumerate(shown) if me in theirs}
        assert landed.keys() == self.landing.keys()
        for peer, block in landed.items():
            self.landing[peer][:] = block


class NobodyElse:
    """The exchange of a trainer that is alone."""

    def begin(self, outgoing: Blocks, incoming: Blocks) -> NobodyElse:
        assert [*outgoing, *incoming] == []
        return self

    def finish(self) -> None:
        pass


class ThreadDense:
    """Sums dense gradients and losses: those of blocks by a tree, those of trainers in order, or by a tree too.

    Trainers are added by numpy: a device that runs behind does not notice, so its rows stay behind, too.
    """

    def __init__(self, board: Board, trainer: int, model: nn.Module, in_tree: bool) -> None:
        self.board, self.trainer, self.parameters = board, trainer, list(model.parameters())
        self.in_tree, self.blocks = in_tree, [TreeAccumulator() for _ in range(1 + len(self.parameters))]

    num_bytes = 0

    def start(self, loss: torch.Tensor, *, is_last: bool = True) -> None:
        self.loss = loss.detach()

    def end_block(self) -> None:
        mine = [self.loss, *(parameter.grad for parameter in self.parameters)]
        for blocks, item in zip(self.blocks, mine, strict=True):
            assert item is not None
            blocks.add(item.clone())

    def finish(self) -> Loss:
        everybody = self.board.show(self.trainer, [blocks.total().numpy() for blocks in self.blocks])
        loss_sum, *sums = (self.sum(items) for items in zip(*everybody, strict=True))
        for parameter, gradient in zip(self.parameters, sums, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        return partial(float, loss_sum)

    def sum(self, items: tuple[NDArray[Any], ...]) -> NDArray[Any]:
        if not self.in_tree:
            return sum(items[1:], start=items[0].copy())
        while len(items) > 1:
            items = tuple(items[i] + items[i + 1] for i in range(0, len(items), 2))
        return items[0].copy()


class LaunchedSGD(DenseOptimizer):
    """Steps as work of the stream of its thread, which the host does not wait for."""

    def __init__(self, model: nn.Module, device: Device) -> None:
        super().__init__(torch.optim.SGD(model.parameters()), RATE)
        self.device = device

    def step(self, num_trained: int) -> None:
        parameters = [parameter for group in self.torch_optimizer.param_groups for parameter in group["params"]]
        gradients = [
            parameter.grad for parameter in parameters
        ]  # of this iteration; they may be deleted before the step
        self.device.launch(self.step_on, parameters, gradients, RATE(num_trained))

    @staticmethod
    def step_on(parameters: list[torch.Tensor], gradients: list[torch.Tensor], rate: float) -> None:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-rate)


class CountingSGD(RowSGD):
    """Keeps as a row's state how often it was updated."""

    state_width = 1

    def step(self, rows: torch.Tensor, gradients: torch.Tensor, num_trained: int) -> None:
        super().step(rows[:, :DIM], gradients, num_trained)
        rows[:, DIM] += 1


class Servers:
    """All rows in one array; write-backs arrive P + 1 iterations late, as they may."""

    def __init__(self, sharding: Sharding, prefetch_depth: int, rows: Float32Array) -> None:
        self.sharding, self.prefetch_depth, self.rows = sharding, prefetch_depth, rows
        self.written: deque[tuple[RankPlans, list[Float32Array]]] = deque()
        self.num_scattered = 0

    def fetch(self, plan: RankPlans) -> list[Float32Array]:
        """Rows for every trainer."""
        while self.num_scattered < plan.stream_position - self.prefetch_depth:
            self.scatter()
        return [self.rows[keys] for keys in self.keys(plan, "fetch")]

    def scatter(self) -> None:
        plan, blocks = self.written.popleft()
        self.num_scattered += 1
        for keys, rows in zip(self.keys(plan, "write_back"), blocks, strict=True):
            self.rows[keys] = rows

    def keys(self, plan: RankPlans, direction: str) -> list[NDArray[np.int64]]:
        """Keys of every trainer's rows, server by server."""
        parts = []
        for server, script in enumerate(plan.servers):
            keys = self.sharding.keys_of(server, getattr(script, f"{direction}_rows"))
            parts.append(np.split(keys, np.cumsum(getattr(script, f"{direction}_counts"))[:-1]))
        return [np.concatenate(mine) for mine in zip(*parts, strict=True)]


def planned_training(
    num_trainers: int,
    window: int,
    prefetch_depth: int,
    cache_rows: int = 2 * KEY_SPACE.num_keys,
    order: str = "one after the other",
    wire: WireDtype = "float32",
    num_epochs: int = 1,
    num_blocks: int | None = None,
    make_device: Callable[[], Device] = CpuDevice,
    make_forward: Callable[[nn.Module, Device, int], Forward] = lambda model, *_: model,
) -> Outcome:
    """The same by plans."""
    stream = batches() * num_epochs
    planner = Planner(
        num_embeddings=KEY_SPACE.num_embeddings,
        num_trainers=num_trainers,
        num_servers=2,
        window=window,
        prefetch_depth=prefetch_depth,
        cache_rows=cache_rows,
        num_blocks=num_blocks,
    )
    rows = np.concatenate([initial_rows(), np.zeros((KEY_SPACE.num_keys, 1), np.float32)], axis=1)
    models = [build_model(MODEL, NUM_DENSE, NUM_TABLES, seed=3) for _ in range(num_trainers)]
    outcome = Outcome(rows, [model.state_dict() for model in models])
    devices = [make_device() for _ in models]
    steps = make_steps(models, devices, cache_rows, order != "one after the other", wire, num_blocks, make_forward)
    servers = Servers(Sharding(KEY_SPACE.num_keys, 2), prefetch_depth, rows)
    with Players(steps, servers, outcome) as players:
        ORDERS[order](players, list(rank_plans(planner.plans(stream))))
    while servers.written:
        servers.scatter()
    return outcome


def compute(
    step: TrainingStep, iteration: OpenIteration, following: OpenIteration | None
) -> tuple[float, Float32Array]:
    """Loss and logits, by a training loop of our own."""
    with step.cache.device.on(Stream.COMPUTE):
        return compute_here(step, iteration, following)


def compute_here(
    step: TrainingStep, iteration: OpenIteration, following: OpenIteration | None
) -> tuple[float, Float32Array]:
    logits = []
    for batch in step.gather(iteration):
        if iteration.plan.read_only:
            logits.append(step.predict(batch))
            continue
        of_block = batch.logits()
        logits.append(step.cache.device.get(of_block))
        batch.step(batch.mean(functional.binary_cross_entropy_with_logits(of_block, batch.labels, reduction="none")))
    loss = float("nan") if iteration.plan.read_only else step.apply(iteration, lambda: following)()
    return loss, np.concatenate(logits)


def start(stream: Stream, step: TrainingStep, plan: TrainerPlan, fetched: Float32Array) -> OpenIteration:
    """Do what the prefetch thread does, and start an iteration."""
    device = step.cache.device
    with device.on(Stream.UPLOAD):
        packed = step.placer.pack(plan)
        packed.rows[:] = fetched
        placed = step.placer.place(packed)
    with device.on(stream):
        return step.start(placed)


def finish(stream: Stream, step: TrainingStep, iteration: OpenIteration) -> Float32Array:
    with step.cache.device.on(stream):
        return step.finish(iteration).copy()


class Players:
    """All trainers, each in two threads: one computes, one does what may be done meanwhile."""

    def __init__(self, steps: list[TrainingStep], servers: Servers, outcome: Outcome) -> None:
        self.steps, self.servers, self.outcome = steps, servers, outcome
        # Libraries that torch calls have a number of threads for each thread that calls them.
        self.main, self.exchange = (
            ThreadPoolExecutor(len(steps), initializer=torch.set_num_threads, initargs=(1,)) for _ in range(2)
        )

    def __enter__(self) -> Players:
        return self

    def __exit__(self, *_: object) -> None:
        self.main.shutdown()
        self.exchange.shutdown()

    def start(self, plan: RankPlans, stream: Stream = Stream.EXCHANGE) -> list[OpenIteration]:
        fetched = self.servers.fetch(plan)
        return list(self.exchange.map(partial(start, stream), self.steps, plan.trainers, fetched))

    def begin_compute(
        self, iterations: list[OpenIteration], following: list[OpenIteration]
    ) -> list[Future[tuple[float, Float32Array]]]:
        # The next iteration has started at every other trainer only.
        started = [each if i % 2 else None for i, each in enumerate(following)] or [None] * len(iterations)
        arguments = zip(self.steps, iterations, started, strict=True)
        return [self.main.submit(compute, *each) for each in arguments]

    def end_compute(self, played: list[Future[tuple[float, Float32Array]]], read_only: bool) -> None:
        results = [future.result(TIMEOUT) for future in played]
        losses = {loss for loss, _ in results}
        if not read_only:
            self.outcome.losses.append(losses.pop())
            assert not losses, "trainers disagree on the loss"
        self.outcome.logits.append(np.concatenate([logits for _, logits in results]))

    def compute(self, iterations: list[OpenIteration], following: list[OpenIteration]) -> None:
        self.end_compute(self.begin_compute(iterations, following), iterations[0].plan.read_only)

    def finish(self, plan: RankPlans, iterations: list[OpenIteration], stream: Stream = Stream.EXCHANGE) -> None:
        leaving = self.exchange.map(partial(finish, stream), self.steps, iterations)
        self.servers.written.append((plan, list(leaving)))
        self.outcome.allocations.append(sum(step.cache.device.num_allocations for step in self.steps))


def one_after_the_other(players: Players, plans: list[RankPlans]) -> None:
    for plan in plans:
        iterations = players.start(plan)
        players.compute(iterations, [])
        players.finish(plan, iterations)


def overlapped(players: Players, plans: list[RankPlans], when: str) -> None:
    """Finish i - 1 and start i + 1 before, after or while i computes."""
    current = players.start(plans[0])
    previous: list[OpenIteration] | None = None
    for i, plan in enumerate(plans):
        if when == "after":
            players.compute(current, [])
        elif when == "while":
            computing = players.begin_compute(current, [])
        if previous is not None:
            players.finish(plans[i - 1], previous)
        following = players.start(plans[i + 1]) if i + 1 < len(plans) else []
        if when == "before":
            players.compute(current, following)
        elif when == "while":
            players.end_compute(computing, plan.trainers[0].read_only)
        previous, current = current, following
    assert previous is not None
    players.finish(plans[-1], previous)


def with_snapshots(players: Players, plans: list[RankPlans]) -> None:
    """Finish i - 1 and start i + 1 while i computes, but around every third one in the stream of computing."""
    current = players.start(plans[0], Stream.COMPUTE)
    previous: list[OpenIteration] | None = None
    for i, plan in enumerate(plans):
        computing = players.begin_compute(current, [])
        if previous is not None:
            players.finish(plans[i - 1], previous)
        is_snapshot = i % 3 == 2 or i + 1 == len(plans)
        following = [] if is_snapshot else players.start(plans[i + 1])
        players.end_compute(computing, plan.trainers[0].read_only)
        if is_snapshot:
            players.finish(plan, current, Stream.COMPUTE)
            following = players.start(plans[i + 1], Stream.COMPUTE) if i + 1 < len(plans) else []
        previous, current = None if is_snapshot else current, following


ORDERS: dict[str, Callable[[Players, list[RankPlans]], None]] = {
    "one after the other": one_after_the_other,
    "with snapshots": with_snapshots,
    **{when: partial(overlapped, when=when) for when in ("before", "after", "while")},
}


def make_steps(
    models: list[nn.Module],
    devices: list[Device],
    cache_rows: int,
    overlapped: bool,
    wire: WireDtype,
    num_blocks: int | None = None,
    make_forward: Callable[[nn.Module, Device, int], Forward] = lambda model, *_: model,
) -> list[TrainingStep]:
    board, delayed_board = Board(len(models)), Board(len(models))
    dense_board = Board(len(models))

    def peers(board: Board, trainer: int) -> ThreadPeers | NobodyElse:
        return ThreadPeers(board, trainer) if len(models) > 1 else NobodyElse()

    count = (num_blocks or 0) // len(models)
    return [
        TrainingStep(
            trainer_rank=trainer,
            model=model,
            forward=make_forward(model, device, trainer),
            row_dim=DIM,
            table_names=tuple("abc"),
            pooling=Pooling(SCHEMA, Config(), device),
            objective=Objective(Config(), SCHEMA, device.torch_device),
            cache=RowCache(cache_rows, DIM + 1, device),
            row_optimizer=CountingSGD(RATE),
            dense_optimizer=LaunchedSGD(model, device),
            dense_gradients=ThreadDense(dense_board, trainer, model, num_blocks is not None),
            blocks=BlockShare(trainer * count, count, num_blocks) if num_blocks else ONE_BLOCK,
            seed_of_block=partial(seed_of_block, 7) if num_blocks else None,
            peers=peers(board, trainer),
            delayed_peers=peers(delayed_board, trainer) if overlapped else None,
            wire=Wire(wire),
            stopwatch=Stopwatch(),
            delayed_stopwatch=Stopwatch(),
        )
        for trainer, (model, device) in enumerate(zip(models, devices, strict=True))
    ]


def tight_cache_rows(num_trainers: int, prefetch_depth: int) -> int:
    stream = [(batch.ids + KEY_SPACE.table_offsets[:-1]).ravel() for batch in batches()]
    near = [len(np.unique(np.concatenate(stream[i : i + prefetch_depth + 1]))) for i in range(len(stream))]
    before = [0, *(len(np.unique(keys)) for keys in stream)]  # their slots are not free yet
    most: int = max(map(add, near, before))
    return -(-most // num_trainers)


SIZES_OF_PLANS = [  # L, P, as few slots as will do
    (0, 0, False), (1, 1, False), (4, 0, False), (4, 2, False), (20, 3, False), (20, 0, True), (20, 1, True)
]  # fmt: skip
IN_ORDER = [(*sizes, "one after the other") for sizes in SIZES_OF_PLANS]
OVERLAPPED = [(*sizes, order) for sizes in SIZES_OF_PLANS if sizes[1] for order in ("before", "after", "while")]


@pytest.mark.parametrize("order", ["one after the other", "while"])
@pytest.mark.parametrize("num_trainers", [1, 2, 4, 8])
def test_blocks_give_the_same_bits_on_any_number_of_trainers(num_trainers: int, order: str) -> None:
    one = planned_training(1, 0, 0, num_blocks=8)
    many = planned_training(num_trainers, 4, 2, order=order, num_blocks=8)
    assert many.losses == one.losses
    assert all(mine.tobytes() == theirs.tobytes() for mine, theirs in zip(many.logits, one.logits, strict=True))
    assert many.rows.tobytes() == one.rows.tobytes()
    for parameters in many.dense:
        assert all(tensor.equal(one.dense[0][name]) for name, tensor in parameters.items())


@pytest.mark.parametrize("num_trainers", [1, 2, 3])
@pytest.mark.parametrize(("window", "prefetch_depth", "tight", "order"), IN_ORDER + OVERLAPPED)
def test_equal_to_plain_training(num_trainers: int, window: int, prefetch_depth: int, tight: bool, order: str) -> None:
    cache_rows = tight_cache_rows(num_trainers, prefetch_depth) if tight else 2 * KEY_SPACE.num_keys
    ours = planned_training(num_trainers, window, prefetch_depth, cache_rows, order)
    assert_equal(ours, plain_training(num_trainers))


def assert_equal(ours: Outcome, theirs: Outcome) -> None:
    assert ours.losses == theirs.losses
    for iteration, (mine, plain) in enumerate(zip(ours.logits, theirs.logits, strict=True)):
        np.testing.assert_array_equal(mine, plain, f"logits of iteration {iteration}")
    np.testing.assert_array_equal(ours.rows[:, :DIM], theirs.rows[:, :DIM])
    for dense in ours.dense:
        assert all(torch.equal(dense[name], theirs.dense[0][name]) for name in dense)


@pytest.mark.parametrize(("work", "seed"), [("late", 0), ("early", 0), *(("random", seed) for seed in range(2))])
@pytest.mark.parametrize(
    ("num_trainers", "order", "exposes_memory"),
    [
        (1, "while", False),
        (3, "while", False),
        (3, "before", False),
        (3, "after", False),
        (2, "with snapshots", False),
        (3, "while", True),
        (3, "after", True),
        (2, "with snapshots", True),
    ],
)
def test_a_device_that_runs_behind_changes_nothing(
    num_trainers: int, order: str, exposes_memory: bool, work: Order, seed: int
) -> None:
    """Nor does one whose streams run in any order that the rules allow."""
    cache_rows = tight_cache_rows(num_trainers, 3)
    make_device = partial(QueuedDevice, work, seed, exposes_memory=exposes_memory)
    ours = planned_training(num_trainers, 20, 3, cache_rows, order, make_device=make_device)
    assert_equal(ours, plain_training(num_trainers))


@pytest.mark.parametrize(
    ("num_trainers", "what", "number", "exposes_memory"),
    [
        (1, "stream in TrainingStep.start", 1, False),  # for the upload
        (1, "stream in TrainingStep._begin_critical_pushes", 0, False),  # for start
        (1, "stream in TrainingStep.finish", 1, False),  # for apply
        (1, "down in TrainingStep.finish", 0, False),  # for rows that leave
        (2, "down in TrainingStep._begin_pushes", 0, False),  # for pushed rows
        (2, "down in TrainingStep._reduce", 0, False),  # for gradients
        # The same, where peers read and write the memory of the device themselves.
        (2, "down in TrainingStep._begin_pushes", 0, True),
        (2, "down in TrainingStep._reduce", 0, True),
        (2, "down in TrainingStep._reduce", 1, True),  # for picked gradients
    ],
)
def test_every_wait_is_needed(num_trainers: int, what: str, number: int, exposes_memory: bool) -> None:
    """Without it, a device that runs behind computes something else, or meets an index that does not exist.

    `number` counts the waits of this kind in this function.
    """
    sites: set[str] = set()

    def play(deaf_at: str | None) -> Outcome:
        def make() -> QueuedDevice:
            devices.append(QueuedDevice("late", deaf_at=deaf_at, exposes_memory=exposes_memory))
            return devices[-1]

        devices: list[QueuedDevice] = []
        outcome = planned_training(num_trainers, 20, 3, 2 * KEY_SPACE.num_keys, "while", make_device=make)
        sites.update(*(device.sites for device in devices))
        return outcome

    plain = plain_training(num_trainers)
    assert_equal(play(None), plain)
    site = sorted((site for site in sites if site.startswith(f"{what},")), key=lambda site: int(site.split()[-1]))
    for _ in range(5):  # threads may do by chance what the wait would have done
        try:
            assert_equal(play(site[number]), plain)
        except (AssertionError, IndexError):
            return
    pytest.fail(f"nothing needs {site[number]}")


class StrictMemory(ExposedMemory):
    """Fails if it is used again after peers have written into it, and nobody has released it."""

    all: ClassVar[list[StrictMemory]] = []

    def __init__(self, device: Device, array: torch.Tensor) -> None:
        super().__init__(device, array)
        self.array, self.has_landed, self.num_released = array.numpy(), False, 0
        StrictMemory.all.append(self)

    def release(self) -> None:
        self.num_released += self.has_landed
        self.has_landed = False
        super().release()

    def await_host(self) -> None:
        assert not self.has_landed, "who reads what peers have written has not said when it is read"
        super().await_host()


def note_landing(block: WireArray) -> None:
    for memory in StrictMemory.all:
        if np.may_share_memory(memory.array, block):  # |= would undo what another thread releases meanwhile
            memory.has_landed = True


class StrictDevice(QueuedDevice):
    def allocate(self, num_bytes: int, *, for_peers: bool = False) -> Memory:
        memory = super().allocate(num_bytes, for_peers=for_peers)
        return StrictMemory(self, torch.from_numpy(poisoned(num_bytes))) if for_peers else memory


@pytest.mark.parametrize("order", ["while", "one after the other"])
def test_where_peers_write_is_released_before_they_write_again(order: str) -> None:
    """Replicas, and gradients from other trainers."""
    StrictMemory.all.clear()
    make_device = partial(StrictDevice, "random", exposes_memory=True)
    assert_equal(planned_training(3, 20, 3, order=order, make_device=make_device), plain_training(3))
    assert sum(memory.num_released > 0 for memory in StrictMemory.all) > 2 * 3
    StrictMemory.all.clear()


@pytest.mark.parametrize("num_trainers", [1, 2, 3])
@pytest.mark.parametrize("wire", ["float16", "bfloat16"])
def test_16_bits_depend_on_neither_owners_nor_order(num_trainers: int, wire: WireDtype) -> None:
    theirs = plain_rounded_training(num_trainers, wire)
    exposed = partial(QueuedDevice, "late", exposes_memory=True)
    sizes = [(0, 0, "one after the other"), (20, 0, "one after the other"), (1, 1, "while"), (20, 3, "while")]
    makers: list[Callable[[], Device]] = [CpuDevice, CpuDevice, CpuDevice, CpuDevice, exposed]
    for (window, prefetch_depth, order), make_device in zip([*sizes, sizes[-1]], makers, strict=True):
        cache_rows = tight_cache_rows(num_trainers, prefetch_depth) if window else 2 * KEY_SPACE.num_keys
        ours = planned_training(num_trainers, window, prefetch_depth, cache_rows, order, wire, make_device=make_device)
        np.testing.assert_array_equal(ours.rows[:, :DIM], theirs.rows)
        for iteration, (mine, plain) in enumerate(zip(ours.logits, theirs.logits, strict=True)):
            np.testing.assert_array_equal(mine, plain, f"logits of iteration {iteration}")
    exact = plain_training(num_trainers).rows
    assert 0 < np.abs(theirs.rows - exact).max() < 0.05


@pytest.mark.parametrize("num_trainers", [1, 3])
@pytest.mark.parametrize(("window", "prefetch_depth"), [(0, 0), (4, 2)])
def test_state_travels_and_every_use_is_one_step(num_trainers: int, window: int, prefetch_depth: int) -> None:
    expected = np.zeros(KEY_SPACE.num_keys)
    for batch in batches():
        if not batch.read_only:
            expected[np.unique(batch.ids + KEY_SPACE.table_offsets[:-1])] += 1
    np.testing.assert_array_equal(planned_training(num_trainers, window, prefetch_depth).rows[:, DIM], expected)


@pytest.mark.parametrize(("order", "most"), [("one after the other", 0), ("while", 12)])
def test_communication_buffers_are_allocated_once(order: str, most: int) -> None:
    """After three epochs nothing is allocated; but where threads hand buffers on, each of the four of a trainer may
    meet a larger iteration late. (In the last epoch all rows leave, which is more than before.)"""
    allocations = planned_training(3, 4, 2, order=order, num_epochs=9).allocations
    warm, late = allocations[3 * len(SIZES)], allocations[8 * len(SIZES) - 1]
    assert late >= warm > 0
    assert late - warm <= most


def test_the_stream_is_what_it_should_be() -> None:
    """Shares without samples, rows that trainers share, rows that leave early: all of it happens."""
    planner = Planner(
        num_embeddings=KEY_SPACE.num_embeddings,
        num_trainers=3,
        num_servers=2,
        window=20,
        prefetch_depth=0,
        cache_rows=tight_cache_rows(3, 0),
    )
    plans = rank_plans(planner.plans(batches()))
    scripts = [script for plan in plans for script in plan.trainers]
    assert any(share_boundaries(size, 3)[-2:] == [size, size] for size in SIZES)
    assert any(script.num_samples == 0 for script in scripts)
    assert sum(script.push_counts.sum() for script in scripts) > 50
    assert sum(script.forced_counts.sum() for script in scripts) > 3


def test_a_stopwatch_adds_up() -> None:
    watch = Stopwatch()
    watch.add("compute", 5, 10**9 + 5)
    watch.add("compute", 0, 2 * 10**9)
    watch.add("cache", 0, 5 * 10**8)
    assert watch.seconds == {"compute": 3.0, "cache": 0.5}
    watch.end_iteration(counts=True)
    watch.add("compute", 0, 10**9)
    watch.end_iteration(counts=False)
    assert (watch.seconds, watch.counted) == ({}, {"compute": 3.0, "cache": 0.5})


class Drawing(nn.Module):
    """Draws a random number whatever the mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(())


def drawing_model() -> nn.Sequential:
    built = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), Drawing(), nn.BatchNorm1d(3))
    built[4].eval()  # as somebody left it
    return built


def test_modes_buffers_and_random_numbers_stay() -> None:
    torch.manual_seed(3)
    predicting, left_alone = drawing_model(), drawing_model()
    left_alone.load_state_dict(predicting.state_dict())
    state = torch.get_rng_state()
    with _evaluation_mode(predicting, CpuDevice()):
        assert not any(module.training for module in predicting.modules())
        assert not predicting(torch.ones(2, 3)).requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in predicting.modules()] == [module.training for module in left_alone.modules()]
    for name, value in left_alone.state_dict().items():
        assert torch.equal(predicting.state_dict()[name], value), name


def test_modes_stay_after_a_failure() -> None:
    failing = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(RuntimeError), _evaluation_mode(failing, CpuDevice()):
        failing(torch.ones(2, 4))
    assert failing.training
    assert torch.is_grad_enabled()
