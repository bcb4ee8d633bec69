"""A model in code that torch.compile makes (training.execution=compiled), and where this code is kept.

torch keeps the code, so that the next start and the other trainers of the host need not make it again. It unpickles and
runs what it finds there. So the directory is one that only this user can write to (code_directory.py).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import torch

from bagpipe_hpc.errors import ExecutionError
from bagpipe_hpc.trainer.code_directory import CACHE, is_own, name_directory
from bagpipe_hpc.trainer.device.base import Forward

OPTIONS: dict[str, str | int | bool | Callable[..., Any]] = {
    "fallback_random": True,  # random numbers are those of eager, from torch's generators, which checkpoints keep
    "deterministic": True,  # code depends on shapes, and not on which variant was faster when it was made
    "compile_threads": 1,  # no worker processes: launchers wait for all children of a rank
}


def compiled_model(model: torch.nn.Module, backend: str | Callable[..., Any] = "inductor") -> Forward:
    """Return a function that compiles the model when it gets inputs of a new size, and then runs that code.

    The module itself does not change. Sizes are constants in the code. The code uses deterministic algorithms only, and
    as many threads as torch has now.

    Args:
        model: The model, on its device.
        backend: What compiles; tests name others.
    """
    choose_directory()  # first: parts of torch choose one when they are imported
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # Code of an earlier job of this process would count among the versions of this model that torch allows.
    torch.compiler.reset()
    if backend != "inductor":
        other: Forward = torch.compile(model, dynamic=False, backend=backend)
        return other
    known = importlib.import_module("torch._inductor.config")
    options = {name: value for name, value in OPTIONS.items() if hasattr(known, name)}
    compiled: Forward = torch.compile(model, dynamic=False, options=options)
    return compiled


def choose_directory() -> None:
    """Tell torch where to keep code, unless the user does, and make that directory.

    Raises:
        ExecutionError: the directory that the user names cannot be made.
    """
    directory = name_directory()
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise ExecutionError(
            f"training.execution = 'compiled': {CACHE} is {directory!r}, which cannot be made a directory "
            f"({error.strerror}); name another one, or remove the variable"
        ) from error
    # torch keeps compiled header files elsewhere, in a directory whose name others can guess.
    code_cache = importlib.import_module("torch._inductor.codecache")
    if is_own(directory):
        for name, place in {"_HEADER_DIR": "headers", "_HEADER_LOCK_DIR": "headers/locks"}.items():
            if hasattr(code_cache, name):
                setattr(code_cache, name, os.path.join(directory, place))
