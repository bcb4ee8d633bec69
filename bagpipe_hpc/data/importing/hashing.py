"""Values of categories as integers: hashes of texts, hexadecimal numbers, and integers. Equal on all machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bagpipe_hpc.compiled import compiled
from bagpipe_hpc.dynamic_rules import MISSING, ValueType
from bagpipe_hpc.sharding import Int64Array
from bagpipe_hpc.splitmix import mix

_LARGEST = 2**63 - 1


def values_of(column: pa.Array, value_type: ValueType) -> Int64Array:
    """Return the values of a category as integers, int64, shape (n,); `are_given` says which are not missing."""
    if value_type == "integer":
        return integers_of(column)
    return hexadecimal(column) if value_type == "hexadecimal" else hashed_texts(column)


def are_given(values: Int64Array, value_type: ValueType) -> NDArray[np.bool_]:
    """Return which values are not missing, shape (n,). A missing one is MISSING among integers, and -1 otherwise."""
    return values != MISSING if value_type == "integer" else values >= 0


def hashed_texts(column: pa.Array) -> Int64Array:
    """Return 63-bit hashes of texts, int64, shape (n,); -1 for null and empty text. Equal on all machines."""
    return _hash_texts(*_buffers(column))


def hexadecimal(column: pa.Array) -> Int64Array:
    """Return integers of at most 8 hexadecimal digits, int64, shape (n,); -1 for null and for empty text."""
    return _from_hexadecimal(*_buffers(column))


def integers_of(column: pa.Array) -> Int64Array:
    """Return the integers that texts are, int64, shape (n,); MISSING where a text is null or no integer."""
    return _from_decimal(*_buffers(column))


def _buffers(column: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return offsets, shape (n + 1,), and bytes of a binary column; null becomes empty."""
    column = column.fill_null(b"") if column.null_count else column
    _, offsets, content = column.buffers()
    every: NDArray[Any] = np.frombuffer(offsets or b"\0\0\0\0", np.int32)
    return every[column.offset : column.offset + len(column) + 1], np.frombuffer(content or b"", np.uint8)


@compiled
def _hash_texts(offsets: NDArray[np.int32], content: NDArray[np.uint8]) -> Int64Array:
    """Hash eight bytes at a time, little-endian, through a bijection, starting with the length."""
    hashes = np.full(len(offsets) - 1, -1, np.int64)
    for i in range(len(hashes)):
        start, stop = offsets[i], offsets[i + 1]
        if start == stop:
            continue
        state = np.uint64(stop - start)
        for word_start in range(start, stop, 8):
            word = np.uint64(0)
            for j in range(min(8, stop - word_start)):
                word |= np.uint64(content[word_start + j]) << np.uint64(8 * j)
            state = mix((state * np.uint64(0x9E3779B97F4A7C15)) ^ word)
        hashes[i] = np.int64(state >> np.uint64(1))
    return hashes


@compiled
def _from_hexadecimal(offsets: NDArray[np.int32], content: NDArray[np.uint8]) -> Int64Array:
    values = np.full(len(offsets) - 1, -1, np.int64)
    for i in range(len(values)):
        if offsets[i] < offsets[i + 1]:
            value = np.int64(0)
            for j in range(offsets[i], offsets[i + 1]):
                digit = np.int64(content[j])
                value = 16 * value + (digit & 15) + 9 * (digit >> 6)  # letters are 0x41.. and 0x61.., digits 0x30..
            values[i] = value
    return values


@compiled
def _from_decimal(offsets: NDArray[np.int32], content: NDArray[np.uint8]) -> Int64Array:
    values = np.full(len(offsets) - 1, MISSING, np.int64)
    for i in range(len(values)):
        start, stop = offsets[i], offsets[i + 1]
        is_negative = start < stop and content[start] == ord("-")
        start += is_negative
        value, is_sound = np.int64(0), start < stop
        for j in range(start, stop):
            digit = np.int64(content[j]) - ord("0")
            if digit < 0 or digit > 9 or value > (_LARGEST - digit) // 10:
                is_sound = False
                break
            value = 10 * value + digit
        if is_sound:
            values[i] = -value if is_negative else value
    return values
