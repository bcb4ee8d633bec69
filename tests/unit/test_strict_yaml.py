"""YAML that is refused at once, by line; and what a file says, with the line of everything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.strict_yaml import MAX_BYTES, parse_yaml, read_yaml_file

BOMB = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


def test_values_and_lines() -> None:
    document = parse_yaml("base: &base {p: 1}\nc:\n  <<: *base\n  q:\n  - 1\n  - x: 2\n", "a file")
    assert document.value == {"base": {"p": 1}, "c": {"p": 1, "q": [1, {"x": 2}]}}
    assert document.lines["c", "q"] == 4
    assert document.lines["c", "q", 1, "x"] == 6
    assert parse_yaml("", "a file").value is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r"line 5: there are more than 30,000 values when aliases are written out"),
        ("[" * 20_000, r"line 1: nested too deeply"),
        ("mode: cached\na: " + "{a: " * 20_000, r"line 2: nested too deeply"),
        ("- " * 20_000, r"line 1: nested too deeply"),
        ("a: 1\nb: 2\na: 3\n", r"line 3: 'a' is given twice, first in line 1"),
        ("x:\n  b: {a: 1, a: 1}\n", r"line 2: 'a' is given twice"),
        ("a: &a\n  b: *a\n", r"line 2: an alias stands for a value that contains it"),
        ("&a [*a]", r"line 1: an alias stands for a value that contains it"),
        ("a: " + "1" * 5000, r"is not valid YAML: Exceeds the limit"),
        ("? [a, b]\n: c", r"is not valid YAML: while constructing a mapping in line 1, column 1: .* found"),
        ("a: 1\n---\nb: 2\n", r"is not valid YAML: expected a single document"),
        ("a: !" + "x" * 100_000, r"is not valid YAML: could not determine a constructor"),
        ('a: 1\nb: "\\ud800"', r"line 2: .* is not valid Unicode text"),
        ("a: \udcff", r"special characters|is not valid Unicode text"),
        ("a: \x00", r"is not valid YAML: .*special characters are not allowed at position 3;"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^the file.*{said}") as error:
        parse_yaml(text, "the file")
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigError, match=r"job\.yaml: has more than 524,288 bytes"):
        read_yaml_file(path, "configuration")
    os.mkfifo(tmp_path / "pipe")
    for name in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="is, or links to, a device, pipe or socket"):
            read_yaml_file(name, "configuration")
