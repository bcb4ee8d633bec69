from __future__ import annotations

import csv
import io
import math
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.grammar import Grammar, header_of

HEADER = ("y", "price", "age", "item", "other")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=6)
NUMBERS = st.one_of(
    st.floats(-9e36, 9e36).map(repr),
    st.integers(-(10**18) + 1, 10**18 - 1).map(str),
    st.sampled_from(["5.", ".5", "-.5e3"]),
)


def grammar(**changes: object) -> Grammar:
    given = {"label": "y", "dense": ["price", {"column": "age", "type": "integer"}], "categorical": ["item"]}
    description = TableDescription.model_validate({**given, **changes})
    return Grammar(description, HEADER, description.kinds(HEADER))


def parse(grammar: Grammar, text: bytes) -> tuple[dict[str, list[Any]], list[tuple[int, str]]]:
    good, faults = grammar.good_lines(text)
    return grammar.parse(good, range(4)).to_pydict(), faults


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from("01"),
            st.one_of(NUMBERS, st.sampled_from(["", "NA", "-"])),
            st.one_of(st.integers(-99, 99).map(str), st.sampled_from(["", "NA", "-"])),
            TEXTS,
            TEXTS,
        ),
        min_size=1,
        max_size=5,
    ),
    delimiter=st.sampled_from([",", "\t", ";", "|", "^", "]"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    line_end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_pythons_csv_writes_is_read(
    rows: list[tuple[str, ...]], delimiter: str, quoting: Literal[0, 1, 2, 3], line_end: str
) -> None:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=line_end).writerows(rows)
    columns, faults = parse(grammar(delimiter=delimiter, missing=["NA", "-"]), stream.getvalue().encode())
    assert faults == []
    missing = ("", "NA", "-")
    assert columns["0"] == [float(row[0]) for row in rows]
    for position in (1, 2):
        assert columns[str(position)] == [None if row[position] in missing else float(row[position]) for row in rows]
    assert [value or b"" for value in columns["3"]] == [b"" if r[3] in missing else r[3].encode() for r in rows]


@given(text=st.text(st.sampled_from('01,"a\r.e-'), max_size=15))
def test_a_line_is_good_or_explained(text: str) -> None:
    good, faults = grammar().good_lines(text.encode() + b"\n")
    assert bool(good) != bool(faults)
    if good:
        columns, _ = parse(grammar(), good)
        assert columns["0"][0] in (0, 1)
        assert all(value is None or abs(value) < 1e38 for value in columns["1"])


@given(number=st.one_of(NUMBERS, st.text(st.sampled_from("0123456789.eE-+"), max_size=9)))
def test_numbers_that_are_let_in_are_numbers_of_float32(number: str) -> None:
    columns, faults = parse(grammar(quoting=False), f"0,{number},,,\n".encode())
    if not faults:
        assert columns["1"] == [float(number) if number else None]
        assert columns["1"] == [None] or (math.isfinite(columns["1"][0]) and abs(columns["1"][0]) < 3e38)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2,3,a", "has 4 comma-separated columns, but 5 are needed"),
        (b"1,2,3,a,b,c", "has 6 comma-separated columns"),
        (b"", "has 1 comma-separated column"),
        (b",2,3,a,b", "column 1 (y) is '', but must be 0 or 1"),
        (b"2,2,3,a,b", "column 1 (y) is '2', but must be 0 or 1"),
        (b"1,x,3,a,b", "column 2 (price) is 'x', but must be empty or a number below 1e37"),
        (b"1,nan,3,a,b", "column 2 (price) is 'nan'"),
        (b"1,1e39,3,a,b", "column 2 (price) is '1e39'"),
        (b"1,2,3.5,a,b", "column 3 (age) is '3.5', but must be empty or an integer"),
        (b'1,2,3,"a,b', "has a quoted field that does not end"),
        (b'1,2,3,"a"x,b', "has a quoted field that does not end, text beside it"),
        (b"1,2,3,a\rb,c", "or a line end in it"),
    ],
)
def test_faults(line: bytes, reason: str) -> None:
    text = b"1,2,3,a,b\n" + line + b"\n0,,,,\n"
    columns, [(number, fault)] = parse(grammar(), text)
    assert number == 1
    assert reason in fault
    assert columns["0"] == [1, 0]
    assert parse(grammar(), line + b"\n")[1] == [(0, fault)]


def test_many_bad_lines_among_good_ones() -> None:
    text = b"".join(b"1,2,3,a,b\n" if number % 3 else b"bad\n" for number in range(100))
    columns, faults = parse(grammar(), text)
    assert [number for number, _ in faults] == list(range(0, 100, 3))
    assert len(columns["0"]) == 66


def test_quotes_mean_nothing_without_quoting() -> None:
    columns, faults = parse(grammar(quoting=False), b'1,2,3,5" screen,"\n')
    assert (columns["3"], faults) == ([b'5" screen'], [])


def test_header() -> None:
    description = TableDescription.model_validate({"label": "y", "categorical": ["c"]})
    assert header_of(b'y,"a ""b""",c', description) == ["y", 'a "b"', "c"]
    assert header_of(b'y,"a', description) is None


@pytest.mark.parametrize(
    ("value", "missing", "cure"),
    [
        ("NA", [], "write `missing: [NA]` in the schema"),
        ('"NaN"', ["NA"], "write `missing: [NA, NaN]` in the schema"),
        ("null", [], 'write `missing: ["null"]` in the schema'),
        (r"\N", [], r'write `missing: ["\\N"]` in the schema'),
    ],
)
def test_what_often_says_that_a_value_is_missing_gets_the_cure(value: str, missing: list[str], cure: str) -> None:
    _, [(_, fault)] = parse(grammar(missing=missing), f"1,{value},3,a,b\n".encode())
    assert fault.endswith(f"but must be empty or a number below 1e37 (if this means a missing value, {cure})")
    given = yaml.safe_load(cure.split("`")[1])
    assert parse(grammar(**given), f"1,{value},3,a,b\n".encode())[1] == []


def test_a_label_is_never_missing() -> None:
    _, [(_, fault)] = parse(grammar(), b"NA,2,3,a,b\n")
    assert fault.startswith("column 1 (y) is 'NA', but must be 0 or 1")
    assert "schema" not in fault


@pytest.mark.parametrize(
    ("columns", "lines_before", "fault"),
    [
        (None, 0, "is a header in the middle of the file"),
        (HEADER, 7, "is a header in the middle of the file"),
        (HEADER, 0, "is a header, but the schema names `columns`"),
    ],
)
def test_a_header_among_the_lines(columns: tuple[str, ...] | None, lines_before: int, fault: str) -> None:
    _, [(_, found)] = grammar(columns=columns).good_lines(b",".join(map(str.encode, HEADER)) + b"\n", lines_before)
    assert found.startswith(fault)
