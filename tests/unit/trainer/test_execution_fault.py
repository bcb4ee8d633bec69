"""What a trainer needs to compile or record the model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from bagpipe_hpc.trainer.execution_fault import CURES, fault_of_execution
from tests.stand_ins import executable


def test_graphs_need_a_gpu() -> None:
    assert fault_of_execution("eager", has_gpu=False) == fault_of_execution("graph", has_gpu=True) == ""
    assert "only GPUs replay graphs" in fault_of_execution("graph", has_gpu=False)
    assert CURES.keys() == {"compiled", "graph"}


def test_compiling_needs_a_compiler_and_the_headers_of_python(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    fault = fault_of_execution("compiled", has_gpu=False, environment=environment, headers=tmp_path)
    assert fault == "torch.compile needs a compiler, and PATH has no g++ (CXX may name another one)"
    environment["CXX"] = "my-compiler"
    fault = fault_of_execution("compiled", has_gpu=False, environment=environment, headers=tmp_path)
    assert "PATH has no my-compiler" in fault
    executable(tmp_path / "my-compiler", "exit 0")
    fault = fault_of_execution("compiled", has_gpu=False, environment=environment, headers=tmp_path)
    assert f"there is no {tmp_path / 'Python.h'}" in fault
    (tmp_path / "Python.h").touch()
    assert fault_of_execution("compiled", has_gpu=False, environment=environment, headers=tmp_path) == ""


def test_compiling_for_a_gpu_needs_triton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "cc", "exit 0")
    (tmp_path / "Python.h").touch()
    environment = {"PATH": str(tmp_path)}
    for found, words in ((None, "needs the package triton"), (object(), "")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _, found=found: found)
        fault = fault_of_execution("compiled", has_gpu=True, environment=environment, headers=tmp_path)
        assert words in fault
        assert bool(fault) == bool(words)
