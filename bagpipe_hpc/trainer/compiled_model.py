"""A model in code that torch.compile makes (training.execution=compiled), and where this code is kept.

torch keeps the code, so that the next start and the other trainers of the host need not make it again. It unpickles and
runs what it finds there. So the directory is one that only this user can write to: TORCHINDUCTOR_CACHE_DIR if that is
set, else TMPDIR/bagpipe_hpc-<user id>/torch, else a new directory that is removed at the end of the process.
"""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bagpipe_hpc.compiled import private_directory
from bagpipe_hpc.trainer.device.base import Forward

CACHE = "TORCHINDUCTOR_CACHE_DIR"
OWN_CHOICE = "torchinductor_"  # how the directory begins that torch names in CACHE when parts of it are imported

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
    """Tell torch where to keep code, unless the user does."""
    temporary = Path(tempfile.gettempdir())
    named = Path(os.environ.get(CACHE) or temporary / OWN_CHOICE)
    if named.parent != temporary or not named.name.startswith(OWN_CHOICE):
        return
    private = private_directory(os.environ, temporary)
    if private is None:
        directory = tempfile.mkdtemp(prefix="bagpipe_hpc-torch-")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
    else:
        directory = str(private / "torch")
    os.environ[CACHE] = directory
    # torch keeps compiled header files elsewhere, in a directory whose name others can guess.
    code_cache = importlib.import_module("torch._inductor.codecache")
    for name, place in {"_HEADER_DIR": "headers", "_HEADER_LOCK_DIR": "headers/locks"}.items():
        if hasattr(code_cache, name):
            setattr(code_cache, name, os.path.join(directory, place))
