"""Loads the Triton kernels so that they run in Triton's interpreter, on the CPU, and nothing else does."""

from __future__ import annotations

import importlib
from types import ModuleType
from unittest import mock

MODULE = "bagpipe_hpc.trainer.device.kernels"


def load_interpreted_kernels() -> ModuleType:
    """Return the kernels module. Its functions take tensors in host memory.

    Triton decides when a function is decorated whether it is interpreted. Triton's own functions are decorated when
    Triton is imported, which happens here without the variable. So only the functions of this package are interpreted.
    """
    importlib.import_module("triton")
    with mock.patch.dict("os.environ", TRITON_INTERPRET="1"):
        kernels = importlib.import_module(MODULE)
    assert kernels.IS_INTERPRETED, f"{MODULE} was imported before, without TRITON_INTERPRET=1"
    return kernels
