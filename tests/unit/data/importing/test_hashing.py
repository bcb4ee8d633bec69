"""Values of categories as integers."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.data.importing.hashing import hashed_texts, hexadecimal, integers_of
from bagpipe_hpc.dynamic_rules import MISSING

TEXTS = st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=20)


@given(texts=TEXTS, start=st.integers(0, 5))
def test_texts_are_told_apart(texts: list[bytes | None], start: int) -> None:
    hashes = hashed_texts(pa.array(texts, pa.binary()).slice(start)).tolist()
    seen = texts[start:]
    assert len(hashes) == len(seen)
    assert all((value == -1) == (not text) for value, text in zip(hashes, seen, strict=True))
    assert len(set(zip(hashes, [text or b"" for text in seen], strict=True))) == len(set(hashes))


def hash_of(text: bytes) -> int:
    """As docs/data.md specifies it."""
    state = len(text)
    for start in range(0, len(text), 8):
        state = mix((state * 0x9E3779B97F4A7C15 % 2**64) ^ int.from_bytes(text[start : start + 8], "little"))
    return state >> 1


def mix(value: int) -> int:
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


@given(st.lists(st.binary(min_size=1, max_size=20)))
def test_hashes_are_as_specified(texts: list[bytes]) -> None:
    assert hashed_texts(pa.array(texts, pa.binary())).tolist() == [hash_of(text) for text in texts]


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_hexadecimal(numbers: list[int]) -> None:
    digits = [b"%x" % number for number in numbers] + [b"%08X" % number for number in numbers]
    assert hexadecimal(pa.array([*digits, b"", None], pa.binary())).tolist() == [*numbers, *numbers, -1, -1]


def test_integers_of_texts() -> None:
    sound = {"0": 0, "-0": 0, "007": 7, "-12": -12, "0" * 30 + "5": 5}
    sound |= {str(each): each for each in (2**63 - 1, -(2**63) + 1, 10**18, -(10**18))}
    bad = [
        str(2**63),
        str(-(2**63)),
        "9" * 19,
        "9" * 20,
        str(2**64 + 1),
        "1.0",
        "x",
        "",
        "-",
        "--1",
        "+1",
        " 1",
        "1-",
        "\xb2",
    ]
    texts = [each.encode() for each in (*sound, *bad)]
    assert integers_of(pa.array([*texts, None], pa.binary())).tolist() == [*sound.values(), *[MISSING] * (len(bad) + 1)]


@given(st.lists(st.integers(-(2**64), 2**64)))
def test_integers_of_any_size(numbers: list[int]) -> None:
    found = integers_of(pa.array([str(each).encode() for each in numbers], pa.binary())).tolist()
    assert found == [each if abs(each) < 2**63 else MISSING for each in numbers]
