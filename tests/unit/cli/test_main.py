"""--help of every command: plain text that says what its author wrote."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

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
