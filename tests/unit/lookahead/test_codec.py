"""Plans as bytes."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from typing import Any, TypeVar, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bagpipe_hpc.errors import PlanCodecError
from bagpipe_hpc.lookahead import plan as plan_module
from bagpipe_hpc.lookahead.codec import decode_plan, encode_end, encode_plan
from bagpipe_hpc.lookahead.plan import ServerPlan, TrainerPlan
from bagpipe_hpc.lookahead.planner import KeyBatch, Planner

Plan = TypeVar("Plan", TrainerPlan, ServerPlan)
DTYPES = {plan_module.Int32Array: np.int32, plan_module.Int64Array: np.int64, plan_module.Float32Array: np.float32}
TWO_DIMENSIONAL = {"dense", "push_cuts", "replica_cuts"}
HEADER_BYTES, ENTRY_BYTES = 72, 24


def arrays(name: str, hint: object) -> st.SearchStrategy[NDArray[Any]]:
    ndim = 2 if name in TWO_DIMENSIONAL else 1
    dtype = DTYPES[hint]  # type: ignore[index]
    values = {} if dtype is np.float32 else {"elements": integers_of(dtype)}
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=0, max_side=5), **values)


def integers_of(dtype: type[np.integer[Any]]) -> st.SearchStrategy[int]:
    """Often within 16 or 32 bits, with the edges."""
    limits = np.iinfo(dtype)
    edges = [0, 2**16 - 1, 2**16, 2**31 - 1, -1, -(2**31), limits.min, limits.max]
    return st.integers(0, 2**16 - 1) | st.sampled_from(edges) | st.integers(int(limits.min), int(limits.max))


def plans(plan_type: type[Plan]) -> st.SearchStrategy[Plan]:
    scalars: dict[object, st.SearchStrategy[Any]] = {int: st.integers(0, 2**63 - 1), bool: st.booleans()}
    hints = get_type_hints(plan_type)
    parts = {name: scalars[hint] if hint in scalars else arrays(name, hint) for name, hint in hints.items()}
    return st.builds(plan_type, **parts)


def assert_same(arrived: Any, sent: Any) -> None:
    assert type(arrived) is type(sent)
    for field in fields(sent):
        there, here = getattr(arrived, field.name), getattr(sent, field.name)
        assert type(there) is type(here), field.name
        if isinstance(here, np.ndarray):
            assert (there.dtype, there.shape) == (here.dtype, here.shape), field.name
            assert there.tobytes() == here.tobytes(), field.name
        else:
            assert there == here, field.name


def real_plan() -> TrainerPlan:
    rng = np.random.default_rng(0)
    planner = Planner(num_keys=50, num_trainers=2, num_servers=2, window=2, prefetch_depth=1, cache_rows=50)
    batches = [KeyBatch(rng.integers(0, 50, 24), np.ones(8, np.float32), np.ones((8, 2), np.float32)) for _ in range(4)]
    return list(planner.plans(batches))[2].trainers[1]


@settings(max_examples=60)
@given(st.one_of(plans(TrainerPlan), plans(ServerPlan)))
def test_plans_survive(plan: TrainerPlan | ServerPlan) -> None:
    assert_same(decode_plan(encode_plan(plan)), plan)


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(container: type) -> None:
    plan = real_plan()
    assert_same(decode_plan(container(encode_plan(plan))), plan)


def test_views_and_foreign_layouts_survive() -> None:
    plan = replace(
        real_plan(), push_cuts=np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
        update_slots=np.arange(20, dtype=np.int32)[::-3],
    )  # fmt: skip
    assert_same(decode_plan(encode_plan(plan)), plan)


@pytest.mark.parametrize(
    ("values", "bytes_per_value"),
    [([0, 2**16 - 1], 2), ([0, 2**16], 4), ([-1, 5], 4), ([0, 2**31 - 1], 4), ([0, 2**31], 8), ([-(2**31) - 1, 0], 8)],
)
def test_integers_travel_narrow(values: list[int], bytes_per_value: int) -> None:
    none, count = np.empty(0, np.int64), np.empty(0, np.int32)
    plan = ServerPlan(0, none, count, none, none, count, none, 1, 1)
    full = replace(plan, fetch_rows=np.resize(np.array(values, dtype=np.int64), 80))
    assert len(encode_plan(full)) - len(encode_plan(plan)) == 80 * bytes_per_value
    assert_same(decode_plan(encode_plan(full)), full)


def test_the_end_is_told_apart() -> None:
    assert decode_plan(encode_end()) is None


def test_every_truncation_is_noticed() -> None:
    message = encode_plan(real_plan())
    for length in range(len(message)):
        with pytest.raises(PlanCodecError, match=rf"{length} bytes"):
            decode_plan(message[:length])


def test_more_than_a_plan_is_noticed() -> None:
    with pytest.raises(PlanCodecError, match="damaged or truncated"):
        decode_plan(encode_plan(real_plan()) + bytes(8))


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1])
def test_a_truncated_end_is_noticed(length: int) -> None:
    with pytest.raises(PlanCodecError, match="shorter than its header"):
        decode_plan(encode_end()[:length])


@pytest.mark.parametrize(
    ("position", "content", "words"),
    [
        (0, b"HDF5", "magic b'HDF5'.*expected b'BPPL'"),
        (4, b"\x02", "version 2, .*expected.*version 1: do all ranks run the same"),
        (5, b"\x03", "kind 3"),
        (6, b"\xff", "has 255 arrays; TrainerPlan has 16"),
        (HEADER_BYTES, b"\x04", "damaged or truncated"),  # dtype code
        (HEADER_BYTES + 1, b"\x03", "damaged or truncated"),  # number of dimensions
        (HEADER_BYTES + 8, b"\xff" * 8, "damaged or truncated"),  # a shape of -1
        (HEADER_BYTES + 8, b"\xff" * 7 + b"\x7f", "damaged or truncated"),  # a huge shape
        (HEADER_BYTES + ENTRY_BYTES + 16, b"\xff" * 8, "damaged or truncated"),  # the second array's columns
    ],
)
def test_foreign_and_damaged_messages_are_refused(position: int, content: bytes, words: str) -> None:
    message = bytearray(encode_plan(real_plan()))
    message[position : position + len(content)] = content
    with pytest.raises(PlanCodecError, match=words):
        decode_plan(message)


@given(st.data())
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    message = bytearray(encode_plan(real_plan()))
    end_of_entries = HEADER_BYTES + 16 * ENTRY_BYTES
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, end_of_entries - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PlanCodecError):
        decode_plan(message)
