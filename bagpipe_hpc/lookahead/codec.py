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
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import PlanCodecError
from bagpipe_hpc.lookahead.plan import Int64Array, IterationPlan, ServerPlan, Snapshot, TrainerPlan, ends
from bagpipe_hpc.lookahead.residents import Residents

_MAGIC = b"BPPL"
_VERSION = 4
_HEADER = struct.Struct("<4sBBH8q")
_ARRAY = struct.Struct("<BB6x2q")
_WIRE_DTYPES = (np.dtype("<u2"), np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4"))
_END = 3

_INT32, _INT64, _FLOAT32 = np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4")
_RINGS = ("fetch_ring_rows", "write_back_ring_rows")
_KINDS: tuple[tuple[type, tuple[str, ...], tuple[tuple[str, np.dtype[Any]], ...]], ...] = (
    (
        TrainerPlan,
        ("iteration", "read_only", "num_trained", "num_samples", "num_global_samples", "num_own", *_RINGS),
        (
            ("labels", _FLOAT32),
            ("dense", _FLOAT32),
            ("bag_lengths", _INT32),
            ("weights", _FLOAT32),
            ("inverse", _INT32),
            ("num_ids", _INT32),
            ("num_uniques", _INT32),
            ("unique_rows", _INT32),
            ("fetch_slots", _INT32),
            ("fetch_counts", _INT32),
            ("fetch_offsets", _INT64),
            ("update_slots", _INT32),
            ("push_index", _INT32),
            ("push_counts", _INT32),
            ("replica_counts", _INT32),
            ("write_back_slots", _INT32),
            ("write_back_counts", _INT32),
            ("forced_counts", _INT32),
            ("write_back_offsets", _INT64),
        ),
    ),
    (
        ServerPlan,
        ("iteration", *_RINGS),
        (
            ("fetch_rows", _INT64),
            ("fetch_counts", _INT32),
            ("fetch_offsets", _INT64),
            ("write_back_rows", _INT64),
            ("write_back_counts", _INT32),
            ("write_back_offsets", _INT64),
        ),
    ),
    (Snapshot, ("iteration", "is_full"), (("keys", _INT64), ("slots", _INT32), ("dirty", _INT32))),
)

Item = TrainerPlan | ServerPlan | Snapshot
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


def encode_plan(plan: IterationPlan) -> PlanMessages:
    """Everybody's plan of one iteration."""
    return PlanMessages(_encode_trainers(plan), _encode_servers(plan))


def encode_snapshot(iteration: int, is_full: bool, residents: Residents, num_servers: int) -> PlanMessages:
    """Everybody's order to save the state after an iteration."""
    none = np.zeros(num_servers, dtype=np.int64)
    row_ends = np.concatenate([residents.owner_ends, residents.owner_ends[-1] + none])
    columns = [
        _Column(_narrow(array), row_ends)
        for array in (residents.keys, residents.slots, residents.dirty.astype(np.int32))
    ]
    messages = _messages(2, _scalars(len(row_ends) - 1, iteration, is_full), columns)
    num_trainers = len(row_ends) - 1 - num_servers
    return PlanMessages(messages[:num_trainers], messages[num_trainers:])


def encode_end() -> bytes:
    """The message that follows the last plan."""
    return _HEADER.pack(_MAGIC, _VERSION, _END, 0, *[0] * 8)


class _Column:
    """One array of every rank, cut from an array of all: rank r has [ends[r], ends[r + 1])."""

    def __init__(self, array: NDArray[Any], ends: Int64Array) -> None:
        array = np.ascontiguousarray(array)
        width = 1 if array.ndim == 1 else array.shape[1]
        self.entries = np.empty((len(ends) - 1, 3), dtype="<i8")  # as in _ARRAY
        self.entries[:, 0] = _WIRE_DTYPES.index(array.dtype) | array.ndim << 8
        self.entries[:, 1] = np.diff(ends)
        self.entries[:, 2] = width
        flat = array.reshape(-1).view(np.uint8).data
        byte_ends = (ends * (width * array.itemsize)).tolist()
        self.pieces = [flat[start:stop] for start, stop in itertools.pairwise(byte_ends)]
        self.paddings = [_PADDING[len(piece) % 8] for piece in self.pieces]


_PADDING = [bytes(-length % 8) for length in range(8)]


def _encode_trainers(plan: IterationPlan) -> list[bytes]:
    exchange, fetches, write_backs = plan.exchange, plan.fetches, plan.write_backs
    num_trainers, num_servers = fetches.counts.shape
    num_tables = plan.num_ids.shape[1]
    per_server, per_trainer = _regular(num_trainers, num_servers), _regular(num_trainers, num_trainers)
    scalars = _scalars(
        num_trainers, plan.iteration, plan.read_only, plan.num_trained, np.diff(plan.sample_ends), len(plan.labels),
        exchange.num_own, plan.fetch_ring_rows, plan.write_back_ring_rows,
    )  # fmt: skip
    columns = [
        _Column(plan.labels, plan.sample_ends),
        _Column(plan.dense, plan.sample_ends),
        _Column(_narrow(plan.bags.lengths), plan.bags.length_ends),
        _Column(plan.bags.weights, plan.bags.weight_ends),
        _Column(plan.inverse, ends(plan.num_ids.sum(axis=1))),
        _Column(_narrow(plan.num_ids).reshape(-1), _regular(num_trainers, num_tables)),
        _Column(_narrow(plan.num_uniques).reshape(-1), _regular(num_trainers, num_tables)),
        _Column(_narrow(exchange.unique_rows), exchange.unique_ends),
        _Column(_narrow(fetches.slots), ends(fetches.counts.sum(axis=1))),
        _Column(_narrow(fetches.counts).reshape(-1), per_server),
        _Column(plan.fetch_offsets.reshape(-1), per_server),
        _Column(_narrow(exchange.update_slots), exchange.update_ends),
        _Column(_narrow(exchange.push_index), exchange.push_ends),
        _Column(_narrow(exchange.replica_counts.transpose(1, 0, 2)).reshape(-1, 4), per_trainer),
        _Column(_narrow(exchange.replica_counts).reshape(-1, 4), per_trainer),
        _Column(_narrow(write_backs.slots), ends(write_backs.counts.sum(axis=1))),
        _Column(_narrow(write_backs.counts).reshape(-1), per_server),
        _Column(_narrow(plan.forced_counts).reshape(-1), per_server),
        _Column(plan.write_back_offsets.reshape(-1), per_server),
    ]
    return _messages(0, scalars, columns)


def _encode_servers(plan: IterationPlan) -> list[bytes]:
    fetches, write_backs = plan.fetches, plan.write_backs
    num_trainers, num_servers = fetches.counts.shape
    per_trainer = _regular(num_servers, num_trainers)
    columns = [
        _Column(_narrow(fetches.local_rows), ends(fetches.counts.sum(axis=0))),
        _Column(_narrow(fetches.counts.T).reshape(-1), per_trainer),
        _Column(plan.fetch_offsets.T.reshape(-1), per_trainer),
        _Column(_narrow(write_backs.local_rows), ends(write_backs.counts.sum(axis=0))),
        _Column(_narrow(write_backs.counts.T).reshape(-1), per_trainer),
        _Column(plan.write_back_offsets.T.reshape(-1), per_trainer),
    ]
    scalars = _scalars(num_servers, plan.iteration, plan.fetch_ring_rows, plan.write_back_ring_rows)
    return _messages(1, scalars, columns)


def _messages(kind: int, scalars: Int64Array, columns: list[_Column]) -> list[bytes]:
    prefix = _HEADER.pack(_MAGIC, _VERSION, kind, len(columns), *[0] * 8)[: -8 * 8]
    heads = np.concatenate([scalars, *(column.entries for column in columns)], axis=1)
    parts = [[prefix] * len(heads), [head.tobytes() for head in heads]]
    for column in columns:
        parts += column.pieces, column.paddings
    return [b"".join(message) for message in zip(*parts, strict=True)]


def _scalars(num_ranks: int, *values: Any) -> Int64Array:
    """The header's scalars of every rank; each value is one for all ranks, or an array of one per rank."""
    table = np.zeros((num_ranks, 8), dtype=np.int64)
    for index, value in enumerate(values):
        table[:, index] = value
    return table


def _regular(num_ranks: int, count: int) -> Int64Array:
    return np.arange(num_ranks + 1, dtype=np.int64) * count


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """In the narrowest type that travels; values are not negative."""
    limit = int(array.max(initial=0))
    if limit < 2**16:
        return array.astype(_WIRE_DTYPES[0])
    return array.astype(_INT32 if limit < 2**31 else _INT64, copy=False)


def decode_plan(message: bytes | bytearray | memoryview) -> Item | None:
    """One rank's plan, or a snapshot between two; None for the end message.

    Raises:
        PlanCodecError: truncated, foreign or of another version.
    """
    view = memoryview(message)
    if len(view) < _HEADER.size:
        raise PlanCodecError(f"plan message of {len(view)} bytes is shorter than its header ({_HEADER.size} bytes)")
    magic, version, kind, num_arrays, *scalars = _HEADER.unpack_from(view)
    if magic != _MAGIC or version != _VERSION or kind > _END:
        raise PlanCodecError(
            f"plan message has magic {magic!r}, version {version}, kind {kind}; expected {_MAGIC!r}, version "
            f"{_VERSION}: do all ranks run the same bagpipe_hpc?"
        )
    if kind == _END:
        return None
    plan_type, scalar_names, array_names = _KINDS[kind]
    if num_arrays != len(array_names):
        raise PlanCodecError(f"plan message has {num_arrays} arrays; {plan_type.__name__} has {len(array_names)}")
    fields: dict[str, Any] = dict(zip(scalar_names, scalars, strict=False))
    position = _HEADER.size + num_arrays * _ARRAY.size
    for index, (name, dtype) in enumerate(array_names):
        array, position = _read_array(view, _HEADER.size + index * _ARRAY.size, position)
        fields[name] = array.astype(dtype, copy=False)
    if position != len(view):
        raise _damaged(view, f"{position} bytes were due")
    if plan_type is TrainerPlan:
        fields["read_only"] = bool(fields["read_only"])
        factors = (fields.pop(name) for name in ("unique_rows", "num_uniques", "num_ids", "inverse"))
        fields["sample_rows"] = _sample_rows(view, *factors)
    if plan_type is Snapshot:
        fields["is_full"] = bool(fields["is_full"])
    plan: Item = plan_type(**fields)
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


def _damaged(view: memoryview, why: str) -> PlanCodecError:
    return PlanCodecError(f"plan message of {len(view)} bytes is damaged or truncated: {why}")
