"""Training of deep recommendation models on HPC clusters with a cached embedding table.

`run`, `session`, `ModelInputs` and `JaggedSequence` are the Python API (docs/own_model.md). Importing the package
starts nothing: MPI and torch are imported when one of these names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bagpipe_hpc.version import __version__

if TYPE_CHECKING:
    from bagpipe_hpc.launch.session import Session, run, session
    from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence
    from bagpipe_hpc.trainer.own_model import ModelInputs

_HOMES = {
    "JaggedSequence": "trainer.jagged_sequence",
    "ModelInputs": "trainer.own_model",
    "Session": "launch.session",
    "run": "launch.session",
    "session": "launch.session",
}

__all__ = ["JaggedSequence", "ModelInputs", "Session", "__version__", "run", "session"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
