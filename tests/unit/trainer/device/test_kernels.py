"""The kernels, in Triton's interpreter, against the plain torch code that they replace: the same bits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.trainer.device.base import PlacedSamples
from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.device.feature_layout import DeviceLayout, layout_of
from bagpipe_hpc.trainer.device.index_arrays import (
    NO_GRADIENT,
    RowUses,
    halving_lanes,
    index_bags,
    index_leaves,
    index_terms,
    index_uses,
)
from bagpipe_hpc.trainer.device.row_step import row_step_of
from bagpipe_hpc.trainer.gray_blocks import CRITICAL_GRADIENTS, DELAYED_GRADIENTS, EVERYTHING, GrayBlocks, Part
from bagpipe_hpc.trainer.iteration_lists import GradientList
from bagpipe_hpc.trainer.pooling import Pooling
from bagpipe_hpc.trainer.row_kernels import add_gradients, positions_of
from bagpipe_hpc.trainer.row_optimizer import build_optimizer_of_tables
from bagpipe_hpc.trainer.sample_blocks import BlockSamples
from bagpipe_hpc.trainer.wire import Wire, WireDtype
from tests.launch import run_python
from tests.unit.trainer.device.test_index_arrays import samples_of

CPU = torch.device("cpu")
WIRES: list[WireDtype] = ["float32", "float16", "bfloat16"]
RAGGED = Schema(
    tables=(
        TableSchema(name="tags", num_embeddings=9, ragged=True),
        TableSchema(name="site", num_embeddings=5),
        TableSchema(name="topics", num_embeddings=9, ragged=True, weighted=True, shares="tags"),
        TableSchema(name="item", num_embeddings=9, shares="tags"),
    )
)
ONE_HOT = Schema(
    tables=(
        TableSchema(name="item", num_embeddings=9),
        TableSchema(name="site", num_embeddings=9),
        TableSchema(name="next", num_embeddings=9, shares="item"),
    )
)
SPECIAL = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -3e38, 65520.0]


def bits(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor; all values that are not numbers have the same."""
    values = tensor.detach().clone()
    if values.dtype == torch.float32:
        values[values.isnan()] = float("nan")
    return bytes(values.contiguous().view(torch.uint8).numpy().tobytes())


def random_values(random: np.random.Generator, *shape: int, special: float = 0.05) -> torch.Tensor:
    """Normal values, with some special ones among them."""
    values = random.normal(size=shape).astype(np.float32)
    chosen = random.random(shape) < special
    values[chosen] = random.choice(np.array(SPECIAL, np.float32), chosen.sum())
    return torch.from_numpy(values)


def random_samples(schema: Schema, num_samples: int, num_rows: int, random: np.random.Generator) -> BlockSamples:
    """Samples without labels and dense features. Row r belongs to table r % number of tables."""
    bag_lengths = random.integers(0, 5, (len(schema.ragged_tables), num_samples))
    places = [schema.tables[feature] for feature in schema.features.in_table_order]
    lengths = iter(bag_lengths.sum(axis=1).tolist())
    num_ids = [next(lengths) if table.ragged else num_samples for table in places]
    num_tables = len(schema.own_tables)
    rows = [
        random.integers(0, num_rows // num_tables, count) * num_tables + schema.features.tables[feature]
        for count, feature in zip(num_ids, schema.features.in_table_order, strict=True)
    ]
    num_weights = sum(count for count, table in zip(num_ids, places, strict=True) if table.weighted)
    weights = random.choice([-0.5, 0.5, 1.0, 3.0, 0.0], num_weights).astype(np.float32)
    return samples_of(num_samples, np.concatenate(rows).astype(np.int32), bag_lengths, weights)


def pool(schema: Schema, config: Config, samples: BlockSamples, rows: torch.Tensor) -> torch.Tensor:
    """The vectors of samples by the plain torch code."""
    device = CpuDevice()
    placed = PlacedSamples(
        labels=device.as_tensor(samples.labels),
        dense=device.as_tensor(samples.dense),
        sample_rows=device.as_tensor(samples.sample_rows),
        bag_lengths=device.as_tensor(samples.bag_lengths),
        weights=device.as_tensor(samples.weights),
        num_ids=samples.bag_lengths.sum(axis=1).tolist(),
    )
    return Pooling(schema, config, device)(placed, rows)


def on_device(kernel_tuple: Any, index: Any, **more: Any) -> Any:
    return kernel_tuple(**{name: torch.from_numpy(array) for name, array in index._asdict().items()}, **more)


def test_only_these_kernels_are_interpreted(kernels: Any) -> None:
    """Other tests of the same process compile functions as usual."""
    assert kernels.IS_INTERPRETED
    assert os.environ.get("TRITON_INTERPRET") is None
    assert isinstance(triton.language.zeros, triton.JITFunction)


# -- gather ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [1, 3, 16, 48, 128])
@pytest.mark.parametrize("wire", WIRES)
def test_gather_copies_the_first_columns(kernels: Any, columns: int, wire: WireDtype) -> None:
    random = np.random.default_rng(columns)
    cache = random_values(random, 70, columns + 2)
    slots = torch.from_numpy(random.permutation(70)[:50].astype(np.int32))
    expected = Wire(wire).pack(cache[slots.long(), :columns], 4.0)
    out = torch.empty_like(expected)
    kernels.gather_rows(cache, slots, out, wire, 4.0)
    assert bits(Wire(wire).unpack(out)) == bits(Wire(wire).unpack(expected))


def test_every_value_is_rounded_as_the_wire_rounds_it(kernels: Any) -> None:
    """Many values near the middle between two 16-bit numbers, and numbers below the least normal one."""
    random = np.random.default_rng(0)
    patterns = random.integers(0, 2**32, 4096, dtype=np.uint32)
    patterns[:2048] = (patterns[:2048] & 0xFFFF_8000) + random.choice([0, 0x1000, 0x7FFF, 0x8000], 2048)
    patterns[2048:3072] = (patterns[2048:3072] & 0xFFFF_F000) % 0x4800_0000
    values = torch.from_numpy(patterns.view(np.float32).reshape(64, 64))
    slots = torch.arange(64, dtype=torch.int32)
    for name in WIRES[1:]:
        wire, out = Wire(name), torch.empty(64, 64, dtype=torch.int16)
        kernels.gather_rows(values, slots, out, name)
        assert bits(wire.unpack(out)) == bits(wire.unpack(wire.pack(values)))


# -- pool, and its backward pass -------------------------------------------------------------------------------------


class Case:
    """Random samples of a schema with their rows, and what torch makes of them."""

    def __init__(
        self,
        schema: Schema,
        config: dict[str, Any],
        num_samples: int,
        wire: WireDtype,
        seed: int,
        special: float = 0.05,
    ) -> None:
        random = np.random.default_rng(seed)
        self.config = Config.model_validate(config)
        self.layout = layout_of(schema, self.config)
        self.wire, self.format, row_dim = wire, Wire(wire), self.layout.row_dim
        self.num_own, self.num_rows = 6, 11
        self.samples = random_samples(schema, num_samples, self.num_rows, random)
        self.cache = random_values(random, 20, row_dim + 3, special=special)
        self.slots = torch.from_numpy(random.permutation(20)[: self.num_own].astype(np.int32))
        self.replicas = self.format.pack(random_values(random, self.num_rows - self.num_own, row_dim, special=special))
        self.gradients = random_values(random, num_samples, len(schema.tables), row_dim, special=special)
        own = self.format.pack(self.cache[self.slots.long(), :row_dim])
        self.rows = self.format.unpack(torch.cat([own, self.replicas])).clone().requires_grad_()
        self.vectors = pool(schema, self.config, self.samples, self.rows)

    def pooled(self, kernels: Any) -> torch.Tensor:
        out = torch.full_like(self.vectors, 7.0)
        bags = on_device(
            kernels.Bags,
            index_bags(self.layout, self.samples),
            sample_rows=torch.from_numpy(self.samples.sample_rows),
            weights=torch.from_numpy(self.samples.weights),
        )
        rows = kernels.Rows(self.cache, self.slots, self.replicas)
        kernels.pool_rows(DeviceLayout(self.layout, CPU), rows, bags, out, self.wire)
        return out

    def uses(self) -> RowUses:
        return index_uses(self.layout, self.samples, index_bags(self.layout, self.samples), self.num_rows)

    def row_gradients(self, kernels: Any, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        own = torch.full((self.num_own, self.layout.row_dim), 7.0)
        replicas = torch.zeros((self.num_rows - self.num_own, self.layout.row_dim), dtype=self.replicas.dtype)
        uses = on_device(kernels.Uses, self.uses())
        layout = DeviceLayout(self.layout, CPU)
        kernels.add_row_gradients(layout, self.gradients, uses, own, replicas, self.wire, scale)
        return own, self.format.unpack(replicas, scale)

    def expected_gradients(self, scale: float) -> torch.Tensor:
        self.vectors.backward(self.gradients)
        assert self.rows.grad is not None
        return self.format.unpack(self.format.pack(self.rows.grad, scale), scale)


def check(kernels: Any, case: Case) -> None:
    assert bits(case.pooled(kernels)) == bits(case.vectors)
    own, replicas = case.row_gradients(kernels, 64.0)
    assert bits(torch.cat([own, replicas])) == bits(case.expected_gradients(64.0))


def config_of(model: str, dim: int, means: tuple[str, ...] = (), narrow: tuple[str, ...] = ()) -> dict[str, Any]:
    tables: dict[str, dict[str, Any]] = {name: {"pooling": "mean"} for name in means}
    for name in narrow:
        tables.setdefault(name, {})["embedding_dim"] = max(1, dim // 2)
    return {"model": {"name": model, "embedding_dim": dim}, "tables": tables}


@settings(max_examples=25)
@given(
    st.integers(0, 6), st.sampled_from([1, 3, 16]), st.booleans(), st.booleans(), st.sampled_from(WIRES),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_bags_and_their_gradients(
    kernels: Any, num_samples: int, dim: int, is_mean: bool, is_narrow: bool, wire: WireDtype, seed: int
) -> None:
    means, narrow = ("tags", "topics") if is_mean else (), ("tags",) if is_narrow and dim > 1 else ()
    check(kernels, Case(RAGGED, config_of("wide_deep", dim, means, narrow), num_samples, wire, seed))


@pytest.mark.parametrize("dim", [1, 3, 16, 48, 128])
@pytest.mark.parametrize("wire", WIRES)
def test_one_id_each_and_their_gradients(kernels: Any, dim: int, wire: WireDtype) -> None:
    """Features share a table. The order of uses is that of torch: by sample, not by feature."""
    narrow = ("site",) if dim == 48 else ()
    check(kernels, Case(ONE_HOT, config_of("dcn", dim, narrow=narrow), 40, wire, seed=dim, special=0.01))


def test_a_share_without_samples(kernels: Any) -> None:
    case = Case(ONE_HOT, config_of("dlrm", 16), 0, "float32", seed=0)
    assert case.pooled(kernels).shape == (0, 3, 16)
    own, replicas = case.row_gradients(kernels, 1.0)
    assert not own.any()
    assert not replicas.any()


def test_a_long_bag_beside_short_ones(kernels: Any) -> None:
    """Longer than a loop is unrolled, and a row that has many more uses than the others."""
    case = Case(RAGGED, config_of("dlrm", 3, ("tags",)), 3, "float32", seed=1, special=0)
    lengths = np.array([[0, 257, 1], [2, 33, 0]], np.int64)
    random = np.random.default_rng(2)
    rows = np.concatenate([random.choice([0, 0, 0, 10], lengths.sum() + 3), [1, 3, 1]]).astype(np.int32)
    case.samples = samples_of(3, rows, lengths, random.random(35).astype(np.float32))
    case.vectors = pool(RAGGED, case.config, case.samples, case.rows)
    assert len(case.uses().hot_rows) == 1
    check(kernels, case)


def test_hot_rows_with_more_columns_than_a_program(kernels: Any) -> None:
    """Own rows and a replica are hot."""
    case = Case(ONE_HOT, config_of("wide_deep", 48), 220, "float16", seed=1)
    rows = np.random.default_rng(0).choice([0, 0, 0, 10, 10, 4], 440)
    case.samples = samples_of(220, np.concatenate([rows, [5] * 220]).astype(np.int32))
    case.vectors = pool(ONE_HOT, case.config, case.samples, case.rows)
    assert case.uses().hot_rows.tolist() == [0, 5, 10]
    check(kernels, case)


# -- update ----------------------------------------------------------------------------------------------------------

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "sgd"},
    {"name": "momentum"},
    {"name": "momentum", "momentum": 0.7, "nesterov": True},
    {"name": "adagrad"},
    {"name": "rowwise_adagrad", "initial_accumulator_value": 0.25},
    {"name": "adam"},
]
TABLES = Schema(tables=tuple(TableSchema(name=name, num_embeddings=50) for name in ("a", "b", "c")))
PARTS = {"everything": EVERYTHING, "critical": CRITICAL_GRADIENTS, "delayed": DELAYED_GRADIENTS}


class Exchange:
    """Gradients of owned rows at one of several trainers, some of which arrived from the others."""

    def __init__(self, num_trainers: int, rank: int, part: Part, dim: int, seed: int, special: float) -> None:
        random = np.random.default_rng(seed)
        num_updates, num_own = 12, 8
        self.rank = rank
        counts = random.integers(1, 4, (num_trainers, 4)).astype(np.int32)
        counts[rank] = 0
        pushed = GrayBlocks(counts)
        push_index = np.concatenate([random.permutation(num_updates)[:count] for count in counts.sum(axis=1)])
        arriving = push_index[positions_of(pushed.edges, part)]
        positions = np.union1d(arriving, random.permutation(num_own)[:5]).astype(np.int64)
        self.updates = GradientList(
            positions,
            random.permutation(30)[: len(positions)].astype(np.int32),
            int(np.searchsorted(positions, num_own)),
            np.searchsorted(positions, arriving).astype(np.int64),
            pushed.counts(part).astype(np.int64),
            np.cumsum([0, *pushed.counts(part)]).astype(np.int64),
        )
        self.own = random_values(random, num_own, dim, special=special)
        self.arrived = random_values(random, len(arriving), dim, special=special)

    def terms(self, kernels: Any, arrived: torch.Tensor) -> Any:
        index = index_terms(self.updates, self.rank)
        return on_device(kernels.Terms, index, own_gradients=self.own, arrived=arrived)

    def sums(self, arrived: torch.Tensor) -> torch.Tensor:
        mine = self.updates
        sums = torch.zeros(len(mine.positions), self.own.shape[1])
        add_gradients(
            sums.numpy(), mine.positions, self.own.numpy(), mine.num_own, self.rank, mine.index, mine.starts,
            arrived.numpy(),
        )  # fmt: skip
        return sums


def optimizer_config(settings: dict[str, Any], dim: int, by_table: bool = False) -> Config:
    tables = {"b": {"learning_rate": 0.5}} if by_table else {}
    if by_table and dim > 1:
        tables["c"] = {"embedding_dim": dim - 1}
    return Config.model_validate(
        {
            "model": {"name": "dcn", "embedding_dim": dim},
            "row_optimizer": {"learning_rate": 0.013, **settings},
            "tables": tables,
        }
    )


def random_cache(config: Config, width: int, random: np.random.Generator, special: float) -> torch.Tensor:
    """Rows with state as it may be: sums of squares are not negative."""
    cache = random_values(random, 30, width, special=special)
    if config.row_optimizer.name != "momentum":
        cache[:, config.model.row_dim :] = cache[:, config.model.row_dim :].abs()
    if config.optimizes_by_table:
        cache[:, -1] = torch.from_numpy(random.integers(0, 3, 30).astype(np.float32))
    return cache


def check_update(
    kernels: Any, config: Config, exchange: Exchange, wire: WireDtype = "float32", special: float = 0.0
) -> None:
    random = np.random.default_rng(7)
    step = row_step_of(config, TABLES)
    cache = random_cache(config, step.row_width, random, special)
    slots = torch.from_numpy(exchange.updates.slots)
    packed = Wire(wire).pack(exchange.arrived, 64.0)
    expected = cache.clone()
    updated = expected[slots.long()]
    build_optimizer_of_tables(config, TABLES).step(updated, exchange.sums(Wire(wire).unpack(packed, 64.0)), 3)
    expected[slots.long()] = updated
    kernels.update_rows(
        step, cache, slots, exchange.terms(kernels, packed), torch.from_numpy(step.parameters(3)),
        torch.from_numpy(halving_lanes(step.row_dim)), wire, 64.0,
    )  # fmt: skip
    assert bits(cache) == bits(expected)


@pytest.mark.usefixtures("rounded_square_root")
@pytest.mark.parametrize("dim", [1, 3, 16, 48, 128])
@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
def test_an_update_is_that_of_the_optimizer(kernels: Any, settings: dict[str, Any], dim: int) -> None:
    for clip_value, by_table in [(None, False), (0.5, False), (None, True), (0.5, True)]:
        config = optimizer_config({**settings, "clip_value": clip_value}, dim, by_table)
        check_update(kernels, config, Exchange(3, 1, EVERYTHING, dim, seed=dim, special=0.0))


@pytest.mark.usefixtures("rounded_square_root")
@pytest.mark.parametrize("settings", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("clip_value", [None, 0.5])
def test_gradients_and_state_that_are_no_numbers(kernels: Any, settings: dict[str, Any], clip_value: Any) -> None:
    config = optimizer_config({**settings, "clip_value": clip_value}, 16)
    check_update(kernels, config, Exchange(3, 1, EVERYTHING, 16, seed=0, special=0.1), special=0.1)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_gradients_are_added_in_the_order_of_trainers(kernels: Any, part: str, wire: WireDtype, rank: int) -> None:
    exchange = Exchange(4, rank, PARTS[part], 5, seed=rank, special=0.1)
    check_update(kernels, optimizer_config({"name": "sgd", "learning_rate": 1.0}, 5), exchange, wire)


def sum_of_tree(leaves: list[torch.Tensor | None]) -> torch.Tensor | None:
    """The sum over a binary tree, neighbours first."""
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    sides = [side for side in (sum_of_tree(leaves[:half]), sum_of_tree(leaves[half:])) if side is not None]
    return sides[0] + sides[1] if len(sides) == 2 else sides[0] if sides else None


@pytest.mark.parametrize("num_trainers", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["sgd", "rowwise_adagrad"])
@pytest.mark.usefixtures("rounded_square_root")
def test_gradients_are_added_in_the_order_of_a_tree(kernels: Any, num_trainers: int, name: Any) -> None:
    exchange = Exchange(num_trainers, num_trainers // 2, EVERYTHING, 5, seed=3, special=0.1)
    leaves = index_leaves(exchange.updates, exchange.rank)
    gradients = [
        [None if leaf == NO_GRADIENT else exchange.own[-1 - leaf] if leaf < 0 else exchange.arrived[leaf]
         for leaf in row]
        for row in leaves.tolist()
    ]  # fmt: skip
    sums = [sum_of_tree(row) for row in gradients]
    config = optimizer_config({"name": name, "learning_rate": 1.0}, 5)
    step = row_step_of(config, TABLES)
    cache = random_cache(config, step.row_width, np.random.default_rng(0), 0.1)
    expected = cache.clone()
    updated = expected[: len(sums)]
    build_optimizer_of_tables(config, TABLES).step(
        updated, torch.stack([each for each in sums if each is not None]), 1
    )  # fmt: skip
    slots = torch.arange(len(sums), dtype=torch.int32)
    terms = kernels.Terms(
        torch.empty(0, dtype=torch.int32), torch.from_numpy(leaves), exchange.own, exchange.arrived
    )  # fmt: skip
    kernels.update_rows(
        step, cache, slots, terms, torch.from_numpy(step.parameters(1)), torch.from_numpy(halving_lanes(5))
    )  # fmt: skip
    assert bits(cache) == bits(expected)


def test_trainers_without_a_gradient_change_no_bit_of_the_others(kernels: Any) -> None:
    """A lone -0.0, which rounding for the wire can make, stays -0.0 in a tree."""
    step = row_step_of(optimizer_config({"name": "momentum"}, 1), TABLES)
    cache, lanes = torch.tensor([[1.0, -0.0]]), torch.from_numpy(halving_lanes(1))
    leaves = torch.tensor([[NO_GRADIENT, NO_GRADIENT, 0, NO_GRADIENT]], dtype=torch.int32)
    terms = kernels.Terms(leaves[0, :0], leaves, torch.empty(0, 1), torch.tensor([[-0.0]]))
    slots = torch.zeros(1, dtype=torch.int32)
    kernels.update_rows(step, cache, slots, terms, torch.from_numpy(step.parameters(1)), lanes)
    assert bits(cache) == bits(torch.tensor([[1.0, -0.0]]))


def test_no_rows_is_a_valid_update(kernels: Any) -> None:
    exchange = Exchange(1, 0, EVERYTHING, 4, seed=0, special=0)
    nothing = np.empty(0, np.int64)
    exchange.updates = GradientList(
        nothing, nothing.astype(np.int32), 0, nothing, np.zeros(1, np.int64), np.zeros(2, np.int64)
    )
    check_update(kernels, optimizer_config({"name": "adam"}, 4), exchange)


def test_torchs_own_square_root_is_almost_the_same(kernels: Any) -> None:
    """Without the correct rounding that the other tests give it."""
    config = optimizer_config({"name": "adagrad"}, 16)
    step = row_step_of(config, TABLES)
    cache = random_cache(config, step.row_width, np.random.default_rng(0), 0.0)
    gradients, expected = random_values(np.random.default_rng(1), 30, 16, special=0), cache.clone()
    build_optimizer_of_tables(config, TABLES).step(expected, gradients.clone(), 1)
    ends = torch.arange(31, dtype=torch.int32)
    terms = kernels.Terms(ends, ends[:-1], torch.empty(0, 16), gradients)
    lanes = torch.from_numpy(halving_lanes(16))
    kernels.update_rows(step, cache, ends[:-1], terms, torch.from_numpy(step.parameters(1)), lanes)
    torch.testing.assert_close(cache, expected, rtol=1e-6, atol=1e-8)


# -- what the compiler makes of them ---------------------------------------------------------------------------------


def test_kernels_compile_to_the_operations_they_name(tmp_path: Path) -> None:
    """For an H100, without one: fused only where the source says so, no approximations, no atomic operations."""
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    done = run_python(["-m", "tests.unit.trainer.device.ptx"], timeout=280, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    assert {name for name, counts in found.items() if counts["fused"]} == {"sgd", "momentum", "adagrad"}
    assert {name for name, counts in found.items() if counts["root"]} == {"adagrad", "rowwise_adagrad", "adam"}
    assert not any(counts["inexact"] or counts["atomic"] for counts in found.values())
    for name in ("gather", "pool one-hot", "pool bags", "gradients"):
        assert found[name]["16-byte loads"], name
    for name in ("pool one-hot", "pool bags", "gradients"):
        assert found[name]["16-byte stores"], name
