"""The file dense.h5: dense parameters by name, and the state of their optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.checkpoint.hdf5 import (
    NewHdf5File,
    damaged,
    group_of,
    load_array,
    not_finite,
    reading,
    store_array,
)
from bagpipe_hpc.checkpoint.tree import Tree, load_tree, store_tree

FORMAT = "bagpipe_hpc.checkpoint.dense"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class DenseState:
    """The state that all trainers have in common.

    Args:
        parameters: Dense parameters by name, float32, any shape.
        state: A tree: the dense optimizer's state and all other state that the trainers have in common.
    """

    parameters: Mapping[str, NDArray[np.float32]]
    state: Tree


def store_dense(path: Path, dense: DenseState) -> None:
    """Write the state to a new file."""
    with NewHdf5File(path) as new:
        new.h5.attrs.update(format=FORMAT, format_version=FORMAT_VERSION)
        parameters = new.h5.create_group("parameters")
        for name, values in dense.parameters.items():
            store_array(parameters, name, np.asarray(values, dtype=np.float32))
        store_tree(new.h5.create_group("state"), dense.state)


def load_dense(path: Path) -> DenseState:
    """Return what `store_dense` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or of another kind; names the file.
    """
    with reading(path) as file:
        found = file.attrs.get("format"), file.attrs.get("format_version")
        if found != (FORMAT, FORMAT_VERSION):
            raise damaged(path, f"format and version are {found}, not {(FORMAT, FORMAT_VERSION)}")
        group = group_of(file, "parameters")
        parameters = {name: load_array(group, name) for name in group}
        for name, values in parameters.items():
            if values.dtype != np.float32:
                raise damaged(path, f"dense parameter {name} is {values.dtype}, not float32")
            if not np.isfinite(values).all():
                raise not_finite(path, f"dense parameter {name}")
        return DenseState(parameters, load_tree(group_of(file, "state")))
