"""Records as bytes: a dictionary of JSON values and numpy arrays.

    int64 size of the JSON text | the JSON text, padded to 8 bytes | the arrays, each padded to 8 bytes

In the JSON text `{"$array": [dtype, shape]}` stands for the next array.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ProtocolError

_ARRAY = "$array"
_DTYPES = ("<f4", "<f8", "<i4", "<i8")


def encode_record(fields: Mapping[str, Any]) -> bytes:
    """Return a record as bytes.

    Args:
        fields: JSON values, and arrays of float32, float64, int32 or int64 at any depth.
    """
    arrays: list[bytes] = []

    def describe(value: object) -> object:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"a record cannot hold a {type(value).__name__}")
        arrays.append(_padded(np.ascontiguousarray(value).tobytes()))
        return {_ARRAY: [value.dtype.str, value.shape]}

    text = json.dumps(fields, default=describe).encode()
    return b"".join([len(text).to_bytes(8, "little"), _padded(text), *arrays])


def decode_record(content: bytes | bytearray) -> dict[str, Any]:
    """Return the fields of a record. Its arrays are views of the content.

    Raises:
        ProtocolError: the content is damaged, or from another version of bagpipe_hpc.
    """
    position = 0

    def take(size: int) -> memoryview:
        nonlocal position
        piece = memoryview(content)[position : position + size]
        if len(piece) != size:
            raise ValueError(f"{len(content)} bytes are too few")
        position += size + -size % 8
        return piece

    def restore(value: dict[str, Any]) -> Any:
        if value.keys() != {_ARRAY}:
            return value
        dtype, shape = value[_ARRAY]
        if dtype not in _DTYPES:
            raise ValueError(f"a record cannot have the dtype {dtype!r}")
        count = int(np.prod(shape, dtype=np.int64))
        array: NDArray[Any] = np.frombuffer(take(count * np.dtype(dtype).itemsize), dtype=dtype).reshape(shape)
        return array

    try:
        text = bytes(take(int.from_bytes(take(8), "little")))
        fields = json.loads(text, object_hook=restore)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"a message is damaged or from another version of bagpipe_hpc: {error}") from None
    if not isinstance(fields, dict):
        raise ProtocolError("a message is damaged: it is not a record")
    return fields


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 8)
