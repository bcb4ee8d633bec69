"""Plans as bytes: a fixed header, a table of arrays, the arrays. Decoding copies nothing it need not.

    magic "BPPL" | uint8 version | uint8 kind | uint16 number of arrays | int64 scalars[8]
    per array: uint8 dtype code | uint8 ndim | padding to 8 | int64 shape[2]
    the arrays, each padded to 8 bytes

Integer arrays travel in the narrowest of uint16, int32, int64 that holds their values and are widened on arrival.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import PlanCodecError
from bagpipe_hpc.lookahead.plan import ServerPlan, TrainerPlan

_MAGIC = b"BPPL"
_VERSION = 1
_HEADER = struct.Struct("<4sBBH8q")
_ARRAY = struct.Struct("<BB6x2q")
_WIRE_DTYPES = (np.dtype("<u2"), np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4"))
_END = 2

_INT32, _INT64, _FLOAT32 = np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f4")
_RINGS = ("fetch_ring_rows", "write_back_ring_rows")
_KINDS: tuple[tuple[type, tuple[str, ...], tuple[tuple[str, np.dtype[Any]], ...]], ...] = (
    (
        TrainerPlan,
        ("iteration", "read_only", "num_samples", "num_global_samples", "num_own", *_RINGS),
        (
            ("labels", _FLOAT32),
            ("dense", _FLOAT32),
            ("sample_rows", _INT32),
            ("fetch_slots", _INT32),
            ("fetch_counts", _INT32),
            ("fetch_offsets", _INT64),
            ("update_slots", _INT32),
            ("push_index", _INT32),
            ("push_counts", _INT32),
            ("push_cuts", _INT32),
            ("replica_counts", _INT32),
            ("replica_cuts", _INT32),
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
)


def encode_plan(plan: TrainerPlan | ServerPlan) -> bytes:
    """One rank's plan as bytes."""
    kind = 0 if isinstance(plan, TrainerPlan) else 1
    _, scalar_names, array_names = _KINDS[kind]
    scalars = [int(getattr(plan, name)) for name in scalar_names]
    arrays = [_narrow(getattr(plan, name), dtype) for name, dtype in array_names]
    parts = [_HEADER.pack(_MAGIC, _VERSION, kind, len(arrays), *scalars, *[0] * (8 - len(scalars)))]
    for array in arrays:
        shape = (*array.shape, 1)[:2]
        parts.append(_ARRAY.pack(_WIRE_DTYPES.index(array.dtype), array.ndim, *shape))
    for array in arrays:
        parts.append(array.tobytes())
        parts.append(bytes(-array.nbytes % 8))
    return b"".join(parts)


def encode_end() -> bytes:
    """The message that follows the last plan."""
    return _HEADER.pack(_MAGIC, _VERSION, _END, 0, *[0] * 8)


def decode_plan(message: bytes | bytearray | memoryview) -> TrainerPlan | ServerPlan | None:
    """Inverse of `encode_plan`; None for the end message.

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
    if "read_only" in fields:
        fields["read_only"] = bool(fields["read_only"])
    position = _HEADER.size + num_arrays * _ARRAY.size
    for index, (name, dtype) in enumerate(array_names):
        array, position = _read_array(view, _HEADER.size + index * _ARRAY.size, position)
        fields[name] = array.astype(dtype, copy=False)
    if position != len(view):
        raise PlanCodecError(f"plan message of {len(view)} bytes is damaged or truncated: {position} bytes were due")
    plan: TrainerPlan | ServerPlan = plan_type(**fields)
    return plan


def _read_array(view: memoryview, entry: int, position: int) -> tuple[NDArray[Any], int]:
    try:
        code, ndim, *shape = _ARRAY.unpack_from(view, entry)
        if ndim not in (1, 2) or min(shape) < 0:
            raise ValueError(f"an array of {ndim} dimensions, shape {shape}")
        dtype = _WIRE_DTYPES[code]
        count = shape[0] * (shape[1] if ndim == 2 else 1)
        array = np.frombuffer(view, dtype, count, position).reshape(shape[:ndim])
    except (struct.error, IndexError, ValueError) as error:
        raise PlanCodecError(f"plan message of {len(view)} bytes is damaged or truncated: {error}") from None
    return array, position + array.nbytes + -array.nbytes % 8


def _narrow(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(array, dtype=dtype)
    if dtype == _FLOAT32 or array.size == 0:
        return array
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high < 2**16:
        return array.astype(_WIRE_DTYPES[0])
    if low >= -(2**31) and high < 2**31:
        return array.astype(_INT32, copy=False)
    return array
