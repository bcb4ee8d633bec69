"""Plans as bytes, one message per rank: a fixed header, a table of arrays, the arrays.

    magic "BPPL" | uint8 version | uint8 kind | uint16 number of arrays | int64 scalars[8]
    per array: uint8 dtype code | uint8 ndim | padding to 8 | int64 shape[2]
    the arrays, each padded to 8 bytes

Integer arrays travel in the narrowest of uint16, int32, int64 that holds the values of all ranks, and are widened on
arrival. The rows of a trainer's samples travel as factors, `inverse`, `num_uniques` and `unique_rows`: the trainer
multiplies them out, and the oracle need not touch every id once more.

Encoding is slicing: whatever is the same work for every rank is done once, on the flat arrays of all ranks.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ProtocolError
from bagpipe_hpc.protocol.plan import Int64Array, IterationPlan, Residents, ServerPlan, SnapshotOrder, TrainerPlan, ends

_MAGIC = b"BPPL"
_VERSION = 4
_NUM_SCALARS = 8
_PREFIX = struct.Struct("<4sBBH")
_HEADER = struct.Struct(f"<4sBBH{_NUM_SCALARS}q")
_ARRAY = struct.Struct("<BB6x2q")
_WIRE_DTYPES = (np.dtype("<u2"), np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4"))
_INT32, _INT64, _FLOAT32 = np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4")
_TRAINER_PLAN, _SERVER_PLAN, _SNAPSHOT, _END = range(4)  # kinds of messages

P = TypeVar("P")  # what messages are made from
Item = TrainerPlan | ServerPlan | SnapshotOrder
"""What a rank is told, one after the other."""


@dataclass(frozen=True)
class PlanMessages:
    """One iteration's plans as bytes."""

    trainers: list[bytes]
    servers: list[bytes]

    @property
    def num_bytes(self) -> int:
        """Bytes of all messages."""
        return sum(map(len, self.trainers)) + sum(map(len, self.servers))


@dataclass(frozen=True)
class SnapshotOrders:
    """Everybody's order to save the state after an iteration.

    Args:
        num_trained: Training iterations that are part of the state.
        is_full: Whether every touched row is saved; else those changed since the snapshot before.
        residents: What the trainers' caches hold.
    """

    num_trained: int
    is_full: bool
    residents: Residents
    num_servers: int

    @property
    def row_ends(self) -> Int64Array:
        """int64, shape (T + S + 1,): which cached rows each rank saves; servers save none."""
        ends = self.residents.owner_ends
        return np.concatenate([ends, np.full(self.num_servers, ends[-1])])


def encode_plan(plan: IterationPlan) -> PlanMessages:
    """Everybody's plan of one iteration."""
    num_trainers, num_servers = plan.fetches.counts.shape
    trainers = _encode(_TRAINER_PLAN, plan, num_trainers)
    return PlanMessages(trainers, _encode(_SERVER_PLAN, plan, num_servers))


def encode_snapshot(snapshots: SnapshotOrders) -> PlanMessages:
    """Everybody's order to save the state after an iteration."""
    num_ranks = len(snapshots.row_ends) - 1
    messages = _encode(_SNAPSHOT, snapshots, num_ranks)
    num_trainers = num_ranks - snapshots.num_servers
    return PlanMessages(messages[:num_trainers], messages[num_trainers:])


def encode_end() -> bytes:
    """The message that follows the last plan."""
    return _HEADER.pack(_MAGIC, _VERSION, _END, 0, *[0] * _NUM_SCALARS)


# -- what is in a message ---------------------------------------------------------------------------------------------
# Both directions read these tables. The order is the order on the wire.


@dataclass(frozen=True)
class _Scalar(Generic[P]):
    """A number of every rank: `of` makes it from the plan, one for all ranks or an array of one per rank."""

    name: str
    of: Callable[[P], Any]
    kind: type[int] = int


@dataclass(frozen=True)
class _Array(Generic[P]):
    """An array of every rank.

    Args:
        name: Of the field that it fills on arrival.
        dtype: On arrival.
        of: Makes the array of all ranks from the plan, and the ends, int64 (num_ranks + 1,), that cut it.
        narrows: Whether the array travels in the narrowest type that holds the values of all ranks; else it travels as
            it is made.
    """

    name: str
    dtype: np.dtype[Any]
    of: Callable[[P], tuple[NDArray[Any], Int64Array]]
    narrows: bool = True


@dataclass(frozen=True)
class _Kind(Generic[P]):
    """A kind of message: what it is made from, what it becomes on arrival, and its content."""

    becomes: type
    scalars: tuple[_Scalar[P], ...]
    arrays: tuple[_Array[P], ...]


def _even(array: NDArray[Any]) -> tuple[NDArray[Any], Int64Array]:
    """An array that has one row for each rank, and where it is cut; every rank gets a row, of 1 or 2 dimensions."""
    num_ranks, length = array.shape[:2]
    return array.reshape(num_ranks * length, *array.shape[2:]), np.arange(num_ranks + 1, dtype=np.int64) * length


_RINGS: tuple[_Scalar[IterationPlan], ...] = (
    _Scalar("fetch_ring_rows", lambda plan: plan.fetch_ring_rows),
    _Scalar("write_back_ring_rows", lambda plan: plan.write_back_ring_rows),
)
_OF_TRAINERS = _Kind[IterationPlan](
    TrainerPlan,
    (
        _Scalar("stream_position", lambda plan: plan.stream_position),
        _Scalar("read_only", lambda plan: plan.read_only, bool),
        _Scalar("num_trained", lambda plan: plan.num_trained),
        _Scalar("num_samples", lambda plan: np.diff(plan.samples.sample_ends)),
        _Scalar("num_global_samples", lambda plan: len(plan.samples.labels)),
        _Scalar("num_own", lambda plan: plan.exchange.num_own),
        *_RINGS,
    ),
    (
        _Array("labels", _FLOAT32, lambda plan: (plan.samples.labels, plan.samples.sample_ends), narrows=False),
        _Array("dense", _FLOAT32, lambda plan: (plan.samples.dense, plan.samples.sample_ends), narrows=False),
        _Array("bag_lengths", _INT32, lambda plan: (plan.samples.bags.lengths, plan.samples.bags.length_ends)),
        _Array("weights", _FLOAT32, lambda p: (p.samples.bags.weights, p.samples.bags.weight_ends), narrows=False),
        _Array("inverse", _INT32, lambda plan: (plan.inverse, ends(plan.num_ids.sum(axis=1))), narrows=False),
        _Array("num_ids", _INT32, lambda plan: _even(plan.num_ids)),
        _Array("num_uniques", _INT32, lambda plan: _even(plan.num_uniques)),
        _Array("unique_rows", _INT32, lambda plan: (plan.exchange.unique_rows, plan.exchange.unique_ends)),
        _Array("fetch_slots", _INT32, lambda plan: (plan.fetches.slots, ends(plan.fetches.counts.sum(axis=1)))),
        _Array("fetch_counts", _INT32, lambda plan: _even(plan.fetches.counts)),
        _Array("fetch_offsets", _INT64, lambda plan: _even(plan.fetch_offsets), narrows=False),
        _Array("update_slots", _INT32, lambda plan: (plan.exchange.update_slots, plan.exchange.update_ends)),
        _Array("push_index", _INT32, lambda plan: (plan.exchange.push_index, plan.exchange.push_ends)),
        _Array("push_counts", _INT32, lambda plan: _even(plan.exchange.replica_counts.transpose(1, 0, 2))),
        _Array("replica_counts", _INT32, lambda plan: _even(plan.exchange.replica_counts)),
        _Array("write_back_slots", _INT32, lambda p: (p.write_backs.slots, ends(p.write_backs.counts.sum(axis=1)))),
        _Array("write_back_counts", _INT32, lambda plan: _even(plan.write_backs.counts)),
        _Array("forced_counts", _INT32, lambda plan: _even(plan.forced_counts)),
        _Array("write_back_offsets", _INT64, lambda plan: _even(plan.write_back_offsets), narrows=False),
    ),
)
_OF_SERVERS = _Kind[IterationPlan](
    ServerPlan,
    (_Scalar("stream_position", lambda plan: plan.stream_position), *_RINGS),
    (
        _Array("fetch_rows", _INT64, lambda plan: (plan.fetches.local_rows, ends(plan.fetches.counts.sum(axis=0)))),
        _Array("fetch_counts", _INT32, lambda plan: _even(plan.fetches.counts.T)),
        _Array("fetch_offsets", _INT64, lambda plan: _even(plan.fetch_offsets.T), narrows=False),
        _Array("write_back_rows", _INT64, lambda p: (p.write_backs.local_rows, ends(p.write_backs.counts.sum(axis=0)))),
        _Array("write_back_counts", _INT32, lambda plan: _even(plan.write_backs.counts.T)),
        _Array("write_back_offsets", _INT64, lambda plan: _even(plan.write_back_offsets.T), narrows=False),
    ),
)
_OF_SNAPSHOTS = _Kind[SnapshotOrders](
    SnapshotOrder,
    (
        _Scalar("num_trained", lambda snapshots: snapshots.num_trained),
        _Scalar("is_full", lambda snapshots: snapshots.is_full, bool),
    ),
    (
        _Array("keys", _INT64, lambda snapshots: (snapshots.residents.keys, snapshots.row_ends)),
        _Array("slots", _INT32, lambda snapshots: (snapshots.residents.slots, snapshots.row_ends)),
        _Array("dirty", _INT32, lambda snapshots: (snapshots.residents.dirty.astype(np.int32), snapshots.row_ends)),
    ),
)
_KINDS: tuple[_Kind[Any], ...] = (_OF_TRAINERS, _OF_SERVERS, _OF_SNAPSHOTS)  # by number of the kind


# -- encoding ---------------------------------------------------------------------------------------------------------


_PADDING = [bytes(-length % 8) for length in range(8)]


def _encode(number: int, source: Any, num_ranks: int) -> list[bytes]:
    """The messages of one kind to all ranks that get it."""
    kind = _KINDS[number]
    # Per rank: the scalars, then three numbers per array, as in _ARRAY.
    heads = np.zeros((num_ranks, _NUM_SCALARS + 3 * len(kind.arrays)), dtype="<i8")
    for index, scalar in enumerate(kind.scalars):
        heads[:, index] = scalar.of(source)
    pieces: list[Sequence[Any]] = []
    for index, field in enumerate(kind.arrays):
        array, array_ends = field.of(source)
        array = np.ascontiguousarray(_narrow(array) if field.narrows else array)
        width = array.shape[1] if array.ndim == 2 else 1
        entries = heads[:, _NUM_SCALARS + 3 * index : _NUM_SCALARS + 3 * index + 3]
        entries[:, 0] = _WIRE_DTYPES.index(array.dtype) | array.ndim << 8
        entries[:, 1] = array_ends[1:] - array_ends[:-1]
        entries[:, 2] = width
        pieces += _cut(array, (array_ends * (width * array.itemsize)).tolist())
    prefix = _PREFIX.pack(_MAGIC, _VERSION, number, len(kind.arrays))
    return [b"".join((prefix, *parts)) for parts in zip(heads, *pieces, strict=True)]


def _cut(array: NDArray[Any], byte_ends: list[int]) -> tuple[list[memoryview], list[bytes]]:
    """The part of every rank, and the padding behind it: rank r has the bytes from byte_ends[r] to byte_ends[r + 1]."""
    content = array.reshape(-1).view(np.uint8).data
    pieces = [content[start:stop] for start, stop in itertools.pairwise(byte_ends)]
    return pieces, [_PADDING[len(piece) % 8] for piece in pieces]


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """In the narrowest type that travels; values are not negative."""
    limit = int(array.max(initial=0))
    if limit < 2**16:
        return array.astype(_WIRE_DTYPES[0])
    return array.astype(_INT32 if limit < 2**31 else _INT64, copy=False)


def decode_plan(message: bytes | bytearray | memoryview) -> Item | None:
    """One rank's plan, or a snapshot between two; None for the end message.

    Raises:
        ProtocolError: truncated, foreign or of another version.
    """
    view = memoryview(message)
    if len(view) < _HEADER.size:
        raise ProtocolError(f"plan message of {len(view)} bytes is shorter than its header ({_HEADER.size} bytes)")
    magic, version, kind, num_arrays, *scalars = _HEADER.unpack_from(view)
    if magic != _MAGIC or version != _VERSION or kind > _END:
        raise ProtocolError(
            f"plan message has magic {magic!r}, version {version}, kind {kind}; expected {_MAGIC!r}, version "
            f"{_VERSION}: do all ranks run the same bagpipe_hpc?"
        )
    if kind == _END:
        return None
    content = _KINDS[kind]
    if num_arrays != len(content.arrays):
        raise ProtocolError(
            f"plan message has {num_arrays} arrays; {content.becomes.__name__} has {len(content.arrays)}"
        )
    fields: dict[str, Any] = {
        scalar.name: scalar.kind(value) for scalar, value in zip(content.scalars, scalars, strict=False)
    }
    position = _HEADER.size + num_arrays * _ARRAY.size
    for index, field in enumerate(content.arrays):
        array, position = _read_array(view, _HEADER.size + index * _ARRAY.size, position)
        fields[field.name] = array.astype(field.dtype, copy=False)
    if position != len(view):
        raise _damaged(view, f"{position} bytes were due")
    if kind == _TRAINER_PLAN:
        factors = (fields.pop(name) for name in ("unique_rows", "num_uniques", "num_ids", "inverse"))
        fields["sample_rows"] = _sample_rows(view, *factors)
    plan: Item = content.becomes(**fields)
    return plan


def _sample_rows(
    view: memoryview,
    unique_rows: NDArray[Any],
    num_uniques: NDArray[Any],
    num_ids: NDArray[Any],
    inverse: NDArray[Any],
) -> NDArray[Any]:
    try:
        rows: NDArray[Any] = unique_rows.take(inverse + np.repeat(ends(num_uniques)[:-1], num_ids))
    except (IndexError, ValueError, MemoryError) as error:
        raise _damaged(view, str(error)) from None
    return rows


def _read_array(view: memoryview, entry: int, position: int) -> tuple[NDArray[Any], int]:
    try:
        code, ndim, *shape = _ARRAY.unpack_from(view, entry)
        if ndim not in (1, 2) or min(shape) < 0:
            raise ValueError(f"an array of {ndim} dimensions, shape {shape}")
        dtype = _WIRE_DTYPES[code]
        count = shape[0] * (shape[1] if ndim == 2 else 1)
        array = np.frombuffer(view, dtype, count, position).reshape(shape[:ndim])
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise _damaged(view, str(error)) from None
    return array, position + array.nbytes + -array.nbytes % 8


def _damaged(view: memoryview, why: str) -> ProtocolError:
    return ProtocolError(f"plan message of {len(view)} bytes is damaged or truncated: {why}")
