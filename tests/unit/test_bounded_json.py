from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bagpipe_hpc.bounded_json import (
    MAX_DEPTH,
    dump_json,
    parse_json,
    read_bounded,
    read_json,
    require_checksum,
    with_checksum,
)
from bagpipe_hpc.errors import DatasetError

TREE = {"name": "höhe", "list": [1, -2.5, None, True, {"deep": '[\\"{'}], "large": 2**63}


def parsed(content: bytes) -> object:
    return parse_json(content, Path("x.json"), error=DatasetError, mend="make it again")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(dump_json(TREE))
    assert read_json(tmp_path / "x.json", max_bytes=1000, error=DatasetError, mend="") == TREE


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b'{"a": 1} x', "Extra data"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b'{"a": %s}' % (b"1" * 30), "is an integer of more than 64 bits"),
        (b'{"a": %s}' % (b"1" * 1_000_000), "111... is an integer of more than 64 bits"),
        (b'{"a": 18446744073709551616}', "more than 64 bits"),
        (b'{"a": -9223372036854775809}', "more than 64 bits"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        (b"[" * 100_000, f"nested more than {MAX_DEPTH} deep at character {MAX_DEPTH}"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "nested more than"),
        (b'"' + b"\\" * 100_001, "Unterminated|Invalid"),
    ],
)
def test_what_is_not_strict_json_or_beyond_bounds_is_refused(content: bytes, fault: str) -> None:
    with pytest.raises(DatasetError, match=rf"x\.json: is not valid JSON \(.*(?:{fault}).*\); make it again"):
        parsed(content)


def test_brackets_in_strings_are_no_nesting() -> None:
    texts = ["[" * 1000, '\\"[[', "]" * 1000]
    assert parsed(json.dumps(texts * 100).encode()) == texts * 100


def test_the_deepest_tree_that_is_allowed_is_read() -> None:
    parsed(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, fault in [
        ("pipe", "pipe"),
        ("device", "device"),
        (".", "is a directory"),
        ("loop", "cannot be read"),
        ("none", "is missing"),
    ]:
        with pytest.raises(DatasetError, match=rf"{fault}.*; make it again"):
            read_bounded(tmp_path / name, max_bytes=10, error=DatasetError, mend="make it again")


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"[1,2,3]")
    assert read_bounded(tmp_path / "x.json", max_bytes=7, error=DatasetError, mend="") == b"[1,2,3]"
    with pytest.raises(DatasetError, match=r"x\.json: has more than 6 bytes"):
        read_json(tmp_path / "x.json", max_bytes=6, error=DatasetError, mend="")


def test_a_number_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        dump_json({"loss": float("nan")})


def test_the_checksum_covers_values_and_not_layout() -> None:
    summed = with_checksum(TREE)
    shuffled = json.dumps(dict(reversed(summed.items())), indent=7).encode()
    assert require_checksum(parsed(shuffled), Path("x.json"), error=DatasetError, mend="") == TREE
    assert with_checksum(summed) == summed


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({**with_checksum(TREE), "name": "other"}, "does not match its own checksum"),
        ({**with_checksum(TREE), "checksum": 5}, "does not match its own checksum"),
        (TREE, "has no checksum"),
        ([1], "is not a JSON object"),
    ],
)
def test_a_tree_that_contradicts_its_checksum_is_refused(tree: object, fault: str) -> None:
    with pytest.raises(DatasetError, match=rf"x\.json: {fault}.*; make it again"):
        require_checksum(tree, Path("x.json"), error=DatasetError, mend="make it again")


def test_every_changed_value_changes_the_checksum() -> None:
    trees: list[dict[str, object]] = [
        {"a": 1},
        {"a": 1.0},
        {"a": "1"},
        {"a": True},
        {"a": None},
        {"a": [1]},
        {"b": 1},
        {},
    ]
    assert len({with_checksum(tree)["checksum"] for tree in trees}) == len(trees)
