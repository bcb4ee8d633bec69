"""torch keeps code where nobody else can write."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from bagpipe_hpc.trainer.code_directory import CACHE, is_own, name_directory
from tests.launch import run_python


def test_the_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "/somewhere")
    assert name_directory() == os.environ[CACHE] == "/somewhere"
    assert not is_own("/somewhere")


def test_the_choice_of_torch_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(CACHE, str(tmp_path / "torchinductor_somebody"))
    directory = name_directory()
    assert is_own(directory)
    assert directory == os.environ[CACHE] != str(tmp_path / "torchinductor_somebody")
    assert name_directory() == directory


def test_a_file_where_torch_would_make_its_directory_stops_nobody(tmp_path: Path) -> None:
    program = """
import getpass, pathlib, sys, tempfile
pathlib.Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}").touch()
from bagpipe_hpc.trainer.code_directory import name_directory
name_directory()
import torch
torch.use_deterministic_algorithms(True)
torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
"""
    done = run_python(["-c", program], timeout=120, env={"TMPDIR": str(tmp_path), CACHE: ""})
    assert done.returncode == 0, done.stderr
