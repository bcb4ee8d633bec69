"""Plans as bytes."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.batch import Batch
from bagpipe_hpc.errors import ProtocolError
from bagpipe_hpc.lookahead.planner import Planner
from bagpipe_hpc.protocol.codec import decode_plan, encode_end, encode_plan
from bagpipe_hpc.protocol.plan import IterationPlan, ServerPlan, TrainerPlan

HEADER_BYTES, ENTRY_BYTES = 72, 24
NUM_ARRAYS = 23  # of a trainer's message


def iteration_plan() -> IterationPlan:
    rng = np.random.default_rng(0)
    batches = [
        Batch(np.arange(8, dtype=np.float32), np.ones((8, 2), np.float32), rng.integers(0, 50, (8, 3)))
        for _ in range(4)
    ]
    planner = Planner(
        num_embeddings=(50, 50, 50), num_trainers=2, num_servers=2, window=2, prefetch_depth=1, cache_rows=50
    )
    return list(planner.plans(batches))[2]


def real_message() -> bytes:
    return encode_plan(iteration_plan()).trainers[1]


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


# That plans survive is tested with the planner: what it plans is compared after a journey through the codec.


def test_labels_weights_and_groups_go_to_the_trainers_of_their_samples() -> None:
    labels = np.arange(24, dtype=np.float32).reshape(8, 3)
    labels[3, 1] = np.nan
    ids = np.zeros((8, 1), np.int64)
    batch = Batch(
        labels,
        np.ones((8, 2), np.float32),
        ids,
        sample_weights=np.arange(8, dtype=np.float32),
        groups=np.arange(8) - 2**62,
    )
    planner = Planner(
        num_embeddings=(1,), num_trainers=3, num_servers=1, window=0, prefetch_depth=0, cache_rows=5,
        has_plain_labels=False,
    )  # fmt: skip
    [plan] = planner.plans([batch])
    counts, positive = np.arange(8) + 1, np.array([3.5, 1, 2])
    plan = replace(plan, samples=replace(plan.samples, item_counts=counts, positive_weights=positive))
    trainers = [decode_plan(message) for message in encode_plan(plan).trainers]
    assert batch.sample_weights is not None
    assert batch.groups is not None
    columns = ("sample_weights", batch.sample_weights), ("groups", batch.groups), ("item_counts", counts)
    for name, sent in (("labels", labels), *columns):
        parts = [getattr(each, name) for each in trainers]
        assert np.array_equal(np.concatenate(parts), sent, equal_nan=True), name
        assert [len(part) for part in parts] == [3, 3, 2]
    for trainer in trainers:
        assert isinstance(trainer, TrainerPlan)
        assert trainer.loss_divisors.tolist() == [28, 25, 28]
        assert trainer.positive_weights.tolist() == positive.tolist()


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(container: type) -> None:
    plan = decode_plan(real_message())
    assert isinstance(plan, TrainerPlan)
    assert_same(decode_plan(container(real_message())), plan)


def test_the_size_is_that_of_all_messages() -> None:
    messages = encode_plan(iteration_plan())
    assert messages.num_bytes == len(b"".join([*messages.trainers, *messages.servers]))


@pytest.mark.parametrize(
    ("values", "bytes_per_value"),
    [([0, 2**16 - 1], 2), ([0, 2**16], 4), ([0, 2**31 - 1], 4), ([0, 2**31], 8)],
)
def test_integers_travel_narrow(values: list[int], bytes_per_value: int) -> None:
    plan = iteration_plan()
    none = np.zeros_like(plan.fetches.counts)
    full = none.copy()
    full[0, 0] = 80
    rows = np.resize(np.array(values, dtype=np.int64), 80)
    lengths = []
    for counts, local_rows in ((full, rows), (none, rows[:0])):
        fetches = plan.fetches._replace(counts=counts, slots=rows[:0].astype(np.int32), local_rows=local_rows)
        messages = encode_plan(replace(plan, fetches=fetches))
        lengths.append(len(messages.servers[0]))
        arrived = decode_plan(messages.servers[0])
        assert isinstance(arrived, ServerPlan)
        assert arrived.fetch_rows.dtype == np.int64
        assert arrived.fetch_rows.tolist() == local_rows.tolist()
    assert lengths[0] - lengths[1] == 80 * bytes_per_value


def test_the_end_is_told_apart() -> None:
    assert decode_plan(encode_end()) is None


def test_every_truncation_is_noticed() -> None:
    message = real_message()
    for length in range(len(message)):
        with pytest.raises(ProtocolError, match=rf"{length} bytes"):
            decode_plan(message[:length])


def test_more_than_a_plan_is_noticed() -> None:
    with pytest.raises(ProtocolError, match="damaged or truncated"):
        decode_plan(real_message() + bytes(8))


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1])
def test_a_truncated_end_is_noticed(length: int) -> None:
    with pytest.raises(ProtocolError, match="shorter than its header"):
        decode_plan(encode_end()[:length])


@pytest.mark.parametrize(
    ("position", "content", "words"),
    [
        (0, b"HDF5", "magic b'HDF5'.*expected b'BPPL'"),
        (4, b"\x01", "version 1, .*expected.*version 6: do all ranks run the same"),
        (5, b"\x04", "kind 4"),
        (6, b"\xff", "has 255 arrays; TrainerPlan has 28"),
        (HEADER_BYTES, b"\x04", "damaged or truncated"),  # dtype code
        (HEADER_BYTES + 1, b"\x03", "damaged or truncated"),  # number of dimensions
        (HEADER_BYTES + 8, b"\xff" * 8, "damaged or truncated"),  # a shape of -1
        (HEADER_BYTES + 8, b"\xff" * 7 + b"\x7f", "damaged or truncated"),  # a huge shape
        (HEADER_BYTES + ENTRY_BYTES + 16, b"\xff" * 8, "damaged or truncated"),  # the second array's columns
    ],
)
def test_foreign_and_damaged_messages_are_refused(position: int, content: bytes, words: str) -> None:
    message = bytearray(real_message())
    message[position : position + len(content)] = content
    with pytest.raises(ProtocolError, match=words):
        decode_plan(message)


@given(st.data())
def test_damage_never_raises_anything_else(data: st.DataObject) -> None:
    message = bytearray(real_message())
    end_of_entries = HEADER_BYTES + NUM_ARRAYS * ENTRY_BYTES
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, end_of_entries - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        decode_plan(message)
