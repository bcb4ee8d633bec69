"""Which types of Parquet columns have which use, and conversion of their values to the types that text files give.

docs/data.md has the table of rules. A type without a rule is refused by name before a row is read.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bagpipe_hpc.data.importing.description import Kind

_TEXT = "text, binary values, integers, decimals without fraction or booleans"
_NUMBERS = "integers, floats, decimals or booleans"


def fault_of(column: pa.DataType, kind: Kind, *, is_list: bool) -> str:
    """Return why a column cannot have a use, and what to do; empty if it can.

    Args:
        kind: What the values are used as.
        is_list: Whether a row has any number of values.
    """
    given = _plain_type(column)
    if is_list:
        value = _plain_type(given.value_type) if _is_list(given) else given
        if _is_text(value) or (kind == "element" and _is_number(value)):
            return ""
        if kind == "element":
            return f"is {column}, but values of elements are lists of {_NUMBERS}; cast it where the file is written"
        return f"is {column}, but a list takes lists of {_TEXT}, or one of these with a separator; cast it"
    if kind == "text":
        if _is_text(given):
            return ""
        hint = "; give a category under `lists`, or" if _is_list(given) else ";"
        return f"is {column}, but a category or group takes {_TEXT}{hint} cast it where the file is written"
    if kind == "time":
        if _is_text(given) or _is_date(given):
            return ""
        return f"is {column}, but times are integers, timestamps, dates or text; cast it where the file is written"
    if kind == "hexadecimal":
        if _is_bytes(given) or pa.types.is_null(given):
            return ""
        return f"is {column}, but hexadecimal digits are text; remove `type: hexadecimal`, or cast the column to text"
    if _is_number(given) or pa.types.is_null(given) or (kind == "moment" and _is_date(given)):
        return ""
    if kind == "moment":
        return f"is {column}, but a history takes {_NUMBERS}, timestamps or dates; cast it where the file is written"
    return f"is {column}, but a label, weight or dense feature takes {_NUMBERS}; cast it where the file is written"


def as_numbers(column: pa.Array) -> pa.Array:
    """Return float64 values. Null and not-a-number, which pandas writes for a missing value, become null.

    Timestamps and dates become seconds since 1970.
    """
    column = _seconds(_plain(column))
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    column = column.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)


def as_text(column: pa.Array, missing: Collection[str]) -> pa.Array:
    """Return binary values: bytes of text, digits of integers, 0 and 1 for booleans; missing values become null."""
    column = _plain(column)
    given = column.type
    if pa.types.is_null(given):
        return pa.nulls(len(column), pa.binary())
    if pa.types.is_boolean(given):
        column = column.cast(pa.int8())
    if not _is_bytes(given):
        column = column.cast(pa.string())
    if pa.types.is_string_view(given):
        column = column.cast(pa.binary_view())
    elif pa.types.is_large_string(given):
        column = column.cast(pa.large_binary())
    return without_missing(column.cast(pa.binary()), missing)


def as_times(column: pa.Array, missing: Collection[str]) -> pa.Array:
    """Return the seconds since 1970 of timestamps and dates, int64; other values as `as_text` does."""
    column = _plain(column)
    return _seconds(column) if _is_date(column.type) else as_text(column, missing)


def as_lists(column: pa.Array, missing: Collection[str]) -> pa.Array:
    """Return lists of binary values. Text is returned unchanged, because the caller knows the separator."""
    column = _plain(column)
    if not _is_list(column.type):
        return as_text(column, missing)
    lengths = np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), as_text(pc.list_flatten(column), missing))


def without_missing(column: pa.Array, missing: Collection[str]) -> pa.Array:
    """Return the column with null in place of texts that stand for a missing value."""
    if not missing:
        return column
    texts = pa.array([text.encode() for text in missing], pa.binary())
    return pc.if_else(pc.is_in(column, value_set=texts), pa.scalar(None, pa.binary()), column)


def num_leaves(column: pa.DataType) -> int:
    """Return how many Parquet columns store a column of Arrow."""
    column = _plain_type(column)
    return max(1, sum(num_leaves(column.field(i).type) for i in range(column.num_fields)))


def _plain_type(given: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries and extension types."""
    if isinstance(given, pa.BaseExtensionType):
        return _plain_type(given.storage_type)
    return _plain_type(given.value_type) if pa.types.is_dictionary(given) else given


def _plain(column: pa.Array) -> pa.Array:
    while isinstance(column, pa.ExtensionArray | pa.DictionaryArray):
        column = column.storage if isinstance(column, pa.ExtensionArray) else column.dictionary_decode()
    return column


def _seconds(column: pa.Array) -> pa.Array:
    """Return the seconds since 1970 of timestamps and dates; other values as they are."""
    return column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()) if _is_date(column.type) else column


def _is_list(given: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(given)
        or pa.types.is_large_list(given)
        or pa.types.is_fixed_size_list(given)
        or pa.types.is_list_view(given)
        or pa.types.is_large_list_view(given)
    )


def _is_text(given: pa.DataType) -> bool:
    is_digits = pa.types.is_decimal(given) and given.scale <= 0
    is_small = pa.types.is_null(given) or pa.types.is_boolean(given)
    return bool(_is_bytes(given) or is_small or pa.types.is_integer(given) or is_digits)


def _is_bytes(given: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(given)
        or pa.types.is_large_string(given)
        or pa.types.is_string_view(given)
        or pa.types.is_binary(given)
        or pa.types.is_large_binary(given)
        or pa.types.is_binary_view(given)
        or pa.types.is_fixed_size_binary(given)
    )


def _is_date(given: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(given) or pa.types.is_date(given))


def _is_number(given: pa.DataType) -> bool:
    is_exact = pa.types.is_integer(given) or pa.types.is_decimal(given)
    return bool(is_exact or pa.types.is_floating(given) or pa.types.is_boolean(given))
