"""Why a trainer cannot run the model as the setting training.execution says. It imports nothing of torch."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

CURES = {
    "compiled": "set training.execution to eager, or install what is missing on the nodes of all trainers",
    "graph": "set training.execution to eager, which gives the same bits, or start trainers where each has a GPU",
}


def fault_of_execution(
    execution: str, has_gpu: bool, environment: Mapping[str, str] = os.environ, headers: Path | None = None
) -> str:
    """Return what this process lacks; empty if it lacks nothing.

    Args:
        execution: The setting training.execution.
        has_gpu: Whether this trainer computes on a GPU.
        environment: The variables of the environment.
        headers: The directory of Python's header files; None: that of this Python.
    """
    if execution == "graph":
        return "" if has_gpu else "only GPUs replay graphs, and a trainer computes on the CPU"
    if execution != "compiled":
        return ""
    if has_gpu and importlib.util.find_spec("triton") is None:
        return "torch.compile needs the package triton, which comes with torch's builds for GPUs"
    variable, compilers = ("CC", ("gcc", "clang", "cc")) if has_gpu else ("CXX", ("g++",))
    named = (environment[variable],) if environment.get(variable) else compilers
    if not any(shutil.which(compiler, path=environment.get("PATH")) for compiler in named):
        return f"torch.compile needs a compiler, and PATH has no {' or '.join(named)} ({variable} may name another one)"
    headers = headers or Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").is_file():
        return f"torch.compile needs the header files of Python, and there is no {headers / 'Python.h'}"
    return ""
