"""Records are the same after they have travelled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.errors import ProtocolError
from bagpipe_hpc.protocol.record import decode_record, encode_record


def test_arrays_stand_where_they_stood() -> None:
    fields: dict[str, Any] = {
        "seconds": 1.5,
        "by_thread": {"main": np.arange(3, dtype=np.float64), "exchange": np.empty(0)},
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "names": ["a", None, True],
        "counts": np.array([2**40]),
    }
    arrived = decode_record(encode_record(fields))
    assert arrived.keys() == fields.keys()
    assert (arrived["seconds"], arrived["names"]) == (1.5, ["a", None, True])
    pairs: list[tuple[Any, Any]] = [
        (arrived["by_thread"]["main"], np.arange(3, dtype=np.float64)),
        (arrived["by_thread"]["exchange"], np.empty(0)),
        (arrived["weight"], np.arange(6, dtype=np.float32).reshape(2, 3)),
        (arrived["counts"], np.array([2**40])),
    ]
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@given(st.floats(allow_nan=False))
def test_numbers_keep_every_bit(value: float) -> None:
    assert decode_record(encode_record({"value": value})) == {"value": value}


def test_what_no_record_can_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="a record cannot hold a set"):
        encode_record({"cores": {1, 2}})


@given(cut=st.integers(0, 79))
def test_a_record_that_is_cut_off_is_refused(cut: int) -> None:
    content = encode_record({"a": np.arange(4), "b": 1})
    with pytest.raises(ProtocolError):
        decode_record(content[: min(cut, len(content) - 1)])


@pytest.mark.parametrize("text", [b"[1]", b"{", b'{"a": {"$array": ["|O", [1]]}}', b'{"a": {"$array": ["<f8", [9]]}}'])
def test_damage_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="damaged"):
        decode_record(len(text).to_bytes(8, "little") + text + bytes(-len(text) % 8))
