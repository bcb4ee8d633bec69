"""Plans as bytes. A message to one rank has a header, one entry per array, and the arrays:

    magic "BPPL" | uint8 version | uint8 kind | uint16 number of arrays | int64 scalars[8]
    for each array: uint8 number of its type | uint8 ndim | padding to 8 bytes | int64 shape[2]
    the arrays, each padded to a multiple of 8 bytes

Most integer arrays travel in the narrowest of uint16, int32 and int64 that holds the values of all ranks. The receiver
widens them. The position of the row of each id (`TrainerPlan.sample_rows`) does not travel. The trainer computes it
from `inverse`, `num_uniques` and `unique_rows`, so that the oracle does not visit every id once more.

An `IterationPlan` has flat arrays of all ranks. Work that is the same for every rank is done on them once. Encoding
then cuts them into the parts of the ranks.
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
_VERSION = 6
_NUM_SCALARS = 8
_PREFIX = struct.Struct("<4sBBH")
_HEADER = struct.Struct(f"<4sBBH{_NUM_SCALARS}q")
_ARRAY = struct.Struct("<BB6x2q")
_WIRE_DTYPES = (np.dtype("<u2"), np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4"), np.dtype("<f8"))
_INT32, _INT64, _FLOAT32, _FLOAT64 = _WIRE_DTYPES[1:]
_TRAINER_PLAN, _SERVER_PLAN, _SNAPSHOT, _END = range(4)  # kinds of messages

P = TypeVar("P")  # what the messages of a kind are made from
Item = TrainerPlan | ServerPlan | SnapshotOrder
"""What a message holds on arrival."""


@dataclass(frozen=True)
class PlanMessages:
    """The messages to all ranks that belong together.

    Args:
        trainers: To each trainer.
        servers: To each embedding server.
    """

    trainers: list[bytes]
    servers: list[bytes]

    @property
    def num_bytes(self) -> int:
        """The number of bytes of all messages."""
        return sum(map(len, self.trainers)) + sum(map(len, self.servers))


@dataclass(frozen=True)
class SnapshotOrders:
    """The orders to all ranks to save the state after an iteration.

    Args:
        num_trained: Training iterations that are part of the state.
        is_full: As in SnapshotOrder.
        residents: What the trainers' caches hold.
        num_servers: S.
    """

    num_trained: int
    is_full: bool
    residents: Residents
    num_servers: int

    @property
    def row_ends(self) -> Int64Array:
        """int64, shape (T + S + 1,): rank r saves residents row_ends[r] to row_ends[r + 1]. Servers save none."""
        ends = self.residents.owner_ends
        return np.concatenate([ends, np.full(self.num_servers, ends[-1])])


def encode_plan(plan: IterationPlan) -> PlanMessages:
    """Return the messages to all ranks with their parts of an iteration."""
    num_trainers, num_servers = plan.fetches.counts.shape
    trainers = _encode(_TRAINER_PLAN, plan, num_trainers)
    return PlanMessages(trainers, _encode(_SERVER_PLAN, plan, num_servers))


def encode_snapshot(snapshots: SnapshotOrders) -> PlanMessages:
    """Return the messages that order all ranks to save their state."""
    num_ranks = len(snapshots.row_ends) - 1
    messages = _encode(_SNAPSHOT, snapshots, num_ranks)
    num_trainers = num_ranks - snapshots.num_servers
    return PlanMessages(messages[:num_trainers], messages[num_trainers:])


def encode_end() -> bytes:
    """Return the message that follows the last plan."""
    return _HEADER.pack(_MAGIC, _VERSION, _END, 0, *[0] * _NUM_SCALARS)


# -- content of the messages ------------------------------------------------------------------------------------------
# Encoding and decoding both read these tables. Scalars and arrays travel in the order of the tables.


@dataclass(frozen=True)
class _Scalar(Generic[P]):
    """A number in every message.

    Args:
        name: Of the field that it fills on arrival.
        of: Makes it from the plan: one number for all ranks, or integers of shape (num_ranks,).
        kind: Its type on arrival.
    """

    name: str
    of: Callable[[P], Any]
    kind: type[int] = int


@dataclass(frozen=True)
class _Array(Generic[P]):
    """An array in every message.

    Args:
        name: Of the field that it fills on arrival.
        dtype: Its type on arrival.
        of: Makes the array of all ranks from the plan, and the ends, int64, shape (num_ranks + 1,), that cut it.
        narrows: Whether the array travels in the narrowest type that holds the values of all ranks; otherwise it
            travels in the type that `of` makes.
    """

    name: str
    dtype: np.dtype[Any]
    of: Callable[[P], tuple[NDArray[Any], Int64Array]]
    narrows: bool = True


@dataclass(frozen=True)
class _Kind(Generic[P]):
    """A kind of message.

    Args:
        becomes: Type of the object that a message becomes on arrival.
        scalars: Its numbers; at most 8.
        arrays: Its arrays.
    """

    becomes: type
    scalars: tuple[_Scalar[P], ...]
    arrays: tuple[_Array[P], ...]


def _even(array: NDArray[Any]) -> tuple[NDArray[Any], Int64Array]:
    """Make the arrays of all ranks from an array with one row per rank; a row has 1 or 2 dimensions."""
    num_ranks, length = array.shape[:2]
    return array.reshape(num_ranks * length, *array.shape[2:]), np.arange(num_ranks + 1, dtype=np.int64) * length


def _of_samples(plan: IterationPlan, column: NDArray[Any]) -> tuple[NDArray[Any], Int64Array]:
    """Make the arrays of all trainers from a column with one element per sample, or with none."""
    return column, plan.samples.ends_of(column)


def _of_born(plan: IterationPlan, name: str) -> tuple[NDArray[Any], Int64Array]:
    """Make the arrays of all trainers from an array with one element per row that begins anew."""
    if plan.born is None:
        return np.empty(0, np.int64), np.zeros(plan.num_ids.shape[0] + 1, np.int64)
    return getattr(plan.born, name), plan.born.owner_ends


def _to_all_trainers(plan: IterationPlan, array: NDArray[Any]) -> tuple[NDArray[Any], Int64Array]:
    """Make the arrays of all trainers, which are the same."""
    return _even(np.broadcast_to(array, (plan.num_ids.shape[0], len(array))))


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
        _Array("integers", _INT64, lambda p: (p.samples.bags.integers, p.samples.bags.integer_ends), narrows=False),
        _Array("sample_weights", _FLOAT32, lambda plan: _of_samples(plan, plan.samples.sample_weights), narrows=False),
        _Array("groups", _INT64, lambda plan: _of_samples(plan, plan.samples.groups), narrows=False),
        _Array("born_slots", _INT32, lambda plan: _of_born(plan, "slots")),
        _Array("born_tables", _INT32, lambda plan: _of_born(plan, "tables")),
        _Array("born_ids", _INT64, lambda plan: _of_born(plan, "ids"), narrows=False),
        _Array(
            "loss_divisors", _FLOAT64, lambda plan: _to_all_trainers(plan, plan.samples.loss_divisors), narrows=False
        ),
        _Array("item_counts", _INT64, lambda plan: _of_samples(plan, plan.samples.item_counts)),
        _Array("positive_weights", _FLOAT64, lambda p: _to_all_trainers(p, p.samples.positive_weights), narrows=False),
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
    """Return the messages of one kind to all ranks.

    Args:
        number: Of the kind.
        source: What the messages are made from.
        num_ranks: Number of ranks that get such a message.
    """
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
    """Cut the bytes of an array; rank r gets those from byte_ends[r] to byte_ends[r + 1].

    Returns:
        The part of each rank, and the padding that follows it.
    """
    content = array.reshape(-1).view(np.uint8).data
    pieces = [content[start:stop] for start, stop in itertools.pairwise(byte_ends)]
    return pieces, [_PADDING[len(piece) % 8] for piece in pieces]


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Convert an array to the narrowest integer type that travels; values are not negative."""
    limit = int(array.max(initial=0))
    if limit < 2**16:
        return array.astype(_WIRE_DTYPES[0])
    return array.astype(_INT32 if limit < 2**31 else _INT64, copy=False)


def decode_plan(message: bytes | bytearray | memoryview) -> Item | None:
    """Return what a message holds; None for the message that follows the last plan.

    Raises:
        ProtocolError: the message is truncated or damaged, or another version of the package made it.
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
    """Return the position of the row of each id, int32, shape (num_ids.sum(),); arguments as in TrainerPlan's message.

    Raises:
        ProtocolError: the arrays do not fit together.
    """
    try:
        rows: NDArray[Any] = unique_rows.take(inverse + np.repeat(ends(num_uniques)[:-1], num_ids))
    except (IndexError, ValueError, MemoryError) as error:
        raise _damaged(view, str(error)) from None
    return rows


def _read_array(view: memoryview, entry: int, position: int) -> tuple[NDArray[Any], int]:
    """Return the array that an entry describes and the position behind it. The array is a view of the message."""
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
