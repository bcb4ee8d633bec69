"""The model digest."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.digest import ModelDigest, merge_rows

DENSE = {"b": np.array([1.0, -0.0], dtype=np.float32), "a": np.array([[2.0], [3.0]], dtype=np.float32)}
KEYS = np.array([0, 5, 6, 2**40], dtype=np.int64)
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def digest_of(dense: dict[str, np.ndarray], keys: np.ndarray, rows: np.ndarray, cuts: list[int]) -> str:
    digest = ModelDigest()
    digest.add_dense(dense)
    for piece in np.split(np.arange(len(keys)), cuts):
        digest.add_rows(keys[piece], rows[piece])
    return digest.hexdigest()


def test_it_is_the_documented_sha256() -> None:
    content = b"a\0" + DENSE["a"].tobytes() + b"b\0" + DENSE["b"].tobytes()
    for key, row in zip(KEYS, ROWS, strict=True):
        content += int(key).to_bytes(8, "little") + row.tobytes()
    assert digest_of(DENSE, KEYS, ROWS, []) == hashlib.sha256(content).hexdigest()


def test_golden_value() -> None:
    assert digest_of(DENSE, KEYS, ROWS, []) == "d96f6b39a34f388d7ea07157fdeec5e075b66996880dab3610b9aeacb690346e"


@given(st.lists(st.integers(0, 4), max_size=6).map(sorted))
def test_pieces_do_not_matter(cuts: list[int]) -> None:
    assert digest_of(DENSE, KEYS, ROWS, cuts) == digest_of(DENSE, KEYS, ROWS, [])


def test_layout_in_memory_does_not_matter() -> None:
    fortran = {name: np.asfortranarray(array) for name, array in reversed(DENSE.items())}
    wide = np.repeat(ROWS, 2, axis=1)[:, ::2]
    assert digest_of(fortran, np.repeat(KEYS, 2)[::2], wide, []) == digest_of(DENSE, KEYS, ROWS, [])


@pytest.mark.parametrize("bit", range(0, 32))
def test_any_bit_of_a_row_or_parameter_matters(bit: int) -> None:
    rows = ROWS.copy()
    rows.view(np.uint32)[2, 1] ^= np.uint32(1 << bit)
    dense = DENSE | {"a": DENSE["a"].copy()}
    dense["a"].view(np.uint32)[1, 0] ^= np.uint32(1 << bit)
    keys = KEYS.copy()
    keys[3] ^= 1 << (2 * bit)
    plain = digest_of(DENSE, KEYS, ROWS, [])
    assert len({plain, digest_of(DENSE, KEYS, rows, []), digest_of(dense, KEYS, ROWS, [])}) == 3
    assert digest_of(DENSE, keys, ROWS, []) != plain


def test_merged_rows_are_in_key_order() -> None:
    pieces = [(KEYS[1::2], ROWS[1::2]), (KEYS[:0], ROWS[:0]), (KEYS[::2], ROWS[::2])]
    keys, rows = merge_rows(pieces)
    np.testing.assert_array_equal(keys, KEYS)
    np.testing.assert_array_equal(rows, ROWS)
