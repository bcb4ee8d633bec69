"""What users name is printed as it is, whatever it is and wherever it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.launch import run_python

TIMEOUT = 120
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
TABLE = "label,höhe\n0,a\n1,b\n"
SCHEMA = "label: label\ncategorical: [höhe]\n"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "clicks.csv").write_text(TABLE, encoding="utf-8")
    (folder / "schema.yaml").write_text(SCHEMA, encoding="utf-8")
    return folder


def bagpipe(*arguments: str | bytes | Path, env: dict[str, str]) -> str:
    words = [os.fsdecode(argument) for argument in arguments]
    done = run_python(["-m", "bagpipe_hpc", *words], timeout=TIMEOUT, env=env)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 2), done.stderr
    return done.stdout + done.stderr


def test_names_that_are_not_utf_8_on_a_terminal_that_knows_ascii_only(table: Path, tmp_path: Path) -> None:
    env = ASCII
    odd = os.fsencode(tmp_path) + b"/h\xf6he[red]:m:"
    os.mkdir(odd)
    file, output = odd + b"/clicks.csv", odd + b"/out"
    with open(file, "wb") as stream:
        stream.write(TABLE.encode())
    schema = ("--schema", table / "schema.yaml", "--min-count", "1")
    assert "1 training" in bagpipe(
        "import", "table", file, *schema, "--validation-fraction", "0.5", "--output", output, env=env
    )
    report = bagpipe("inspect", output, env=env)
    assert "he[red]:m:/out" in report
    assert "files: ['clicks.csv']" in report
    assert "good " in bagpipe("inspect", "--verify", output, env=env)
    assert "is missing" in bagpipe("import", "table", odd + b"/no\xff", *schema, "--output", odd + b"/no", env=env)
    assert "he[red]:m:/none: is not a directory" in bagpipe("inspect", odd + b"/none", env=env)
    assert "Usage" in bagpipe("import", "table", "--help", env=env)


def test_an_input_whose_name_is_not_utf_8(table: Path, tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/\xff.csv"
    with open(file, "wb") as stream:
        stream.write(TABLE.encode())
    output = tmp_path / "out"
    bagpipe("import", "table", file, "--schema", table / "schema.yaml", "--output", output, env={})
    assert r"files: ['\\xff.csv']" in bagpipe("inspect", output, env={})
