"""Settings that cannot be: one line that names the setting, what was given, what is allowed and what mends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError


def message_of(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, list(overrides))
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.learning_rte=1", ["training.learning_rte", "mean training.learning_rate?", "training.epochs"]),
        ("trainings.epochs=1", ["'trainings' (did you mean training?)", "valid here: mode, transport, lookahead, "]),
        ("training.epochs", ["'training.epochs'", "section.key=value"]),
        ("mode.epochs=1", ["mode = {'epochs': 1}", "'cached' or 'synchronous'"]),
        ("training.epochs=[1", ["'training.epochs=[1'", "not valid YAML", "mend it"]),
        ("training.epochs=2020-13-45", ["not valid YAML", "month must be in 1..12"]),
        ("training.epochs=" + "[" * 10_000, ["nested too deeply"]),
        ("training.epochs=many", ["training.epochs", "'many'", "valid integer"]),
        ("training.epochs=0", ["training.epochs = 0", "greater than or equal to 1"]),
        ("lookahead.prefetch_depth=65", ["lookahead.prefetch_depth is 65", "lookahead.window is 64", "lower", "raise"]),
    ],
)
def test_an_override(override: str, parts: list[str]) -> None:
    message = message_of(None, override)
    assert [part for part in parts if part not in message] == [], message


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"training: [1, 2\n  epochs: }", ["is not valid YAML", "line 2", "mend it"]),
        (b"- training", ["must be a mapping", "not a list"]),
        (b"\xff\xfe\x00", ["is not valid YAML"]),
        (b"[" * 10_000, ["nested too deeply"]),
        (b"1: 2", ["1"]),
        (b"training: 3", ["training = 3: is a section", "training.epochs"]),
    ],
)
def test_a_file(tmp_path: Path, content: bytes, parts: list[str]) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    message = message_of(path)
    assert [part for part in (str(path), *parts) if part not in message] == [], message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "Is a directory; check the path" in message_of(tmp_path)
    assert "No such file or directory; check the path" in message_of(tmp_path / "job.yaml")
