"""--help of every command: plain text that says what its author wrote."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from bagpipe_hpc.cli import main
from bagpipe_hpc.cli.main import app
from tests.launch import REPO_ROOT

COMMAND = typer.main.get_command(app)


def commands(command: object = COMMAND, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


ALL = dict(commands())


def help_of(words: tuple[str, ...]) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_there_are_commands() -> None:
    assert {
        ("train",),
        ("import", "table"),
        ("checkpoint", "verify"),
        ("bench", "rma"),
        ("jobs", "render"),
    } <= ALL.keys()


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_says_what_its_author_wrote(words: tuple[str, ...]) -> None:
    shown = help_of(words)
    assert shown.isascii(), [character for character in shown if not character.isascii()]
    for parameter in ALL[words].params:
        written = " ".join((getattr(parameter, "help", None) or "").split())
        assert written.replace("- ", "-") in shown.replace("- ", "-"), parameter.name


def test_durations_are_no_pictures() -> None:
    assert "M:S, H:M:S, D-H:M:S" in help_of(("train",))


def test_every_console_takes_names_as_they_are() -> None:
    """Rich would make styles of [brackets] and pictures of `:m:` in the paths that users choose."""
    careless = []
    for path in (REPO_ROOT / "bagpipe_hpc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console":
                off = {
                    word.arg
                    for word in node.keywords
                    if isinstance(word.value, ast.Constant) and word.value.value is False
                }
                if not {"markup", "emoji"} <= off:
                    careless.append(f"{path.name}:{node.lineno}")
    assert not careless


PROGRAM = f"""#!{sys.executable}
from bagpipe_hpc.cli.main import main
main()
"""
BASH = """
eval "$(bagpipe --show-completion bash)"
completed() { COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _bagpipe_completion bagpipe; echo "${COMPREPLY[*]}"; }
completed bagpipe tr
completed bagpipe checkpoint p
completed bagpipe train --resu
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `bagpipe` is a program."""
    program = tmp_path / "bagpipe"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    settings = {"PYTHONPATH": f"{REPO_ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    return os.environ | settings | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_and_options(environment: dict[str, str]) -> None:
    known_shell = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        ["bash", "-c", BASH], capture_output=True, text=True, timeout=60, check=False, env=environment | known_shell
    )
    assert done.stdout.split() == ["train", "prune", "--resume"], done.stderr


def test_zsh_completes_commands(environment: dict[str, str]) -> None:
    asked = {"_BAGPIPE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "bagpipe tr"}
    done = subprocess.run(["bagpipe"], capture_output=True, text=True, timeout=60, check=False, env=environment | asked)
    assert '"train":"Train a model."' in done.stdout, done.stderr


def test_memory_that_runs_out_is_an_error_of_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs_out(standalone_mode: bool) -> None:
        np.zeros(2**52)

    monkeypatch.setattr(main, "app", runs_out)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bagpipe: error: out of memory: Unable to allocate 32.0 PiB")
    assert line.endswith("ask for less, or take a machine with more memory")
