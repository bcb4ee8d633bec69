"""Nested values and arrays (state of an optimizer or of a random number generator) in an HDF5 group, without pickle.

Arrays are datasets `0`, `1`, ... Dataset `tree` is UTF-8 JSON, in which `{"array": "0"}` stands for an array.
Containers are `{"dict": [[key, value], ...]}`, `{"list": [...]}` and `{"tuple": [...]}`, so keys keep their types and
order. `{"float": "nan"}`, `{"float": "inf"}` and `{"float": "-inf"}` are the numbers that JSON lacks.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.bounded_json import dump_json, load_json
from bagpipe_hpc.checkpoint.hdf5 import load_array, store_array
from bagpipe_hpc.errors import CheckpointError

Tree: TypeAlias = Any
"""None, bool, int, float, str, an array of numbers, or a dict (keys: int or str), list or tuple of trees."""

_SKELETON = "tree"
_SPECIAL_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def store_tree(group: h5py.Group, tree: Tree) -> None:
    """Write a tree into an empty group.

    Raises:
        CheckpointError: A value has a type that a tree cannot hold; names the type.
    """
    arrays: list[NDArray[Any]] = []
    skeleton = dump_json(_encode(tree, arrays), indent=None)
    for index, array in enumerate(arrays):
        store_array(group, str(index), array)
    store_array(group, _SKELETON, np.frombuffer(skeleton, dtype=np.uint8))


def load_tree(group: h5py.Group) -> Tree:
    """Return what `store_tree` wrote. Raises errors of HDF5, ValueError, KeyError or TypeError if it is damaged."""
    skeleton = load_array(group, _SKELETON)
    if skeleton.dtype != np.uint8 or skeleton.ndim != 1:
        raise ValueError(f"{group.name}/{_SKELETON} is {skeleton.dtype} of shape {skeleton.shape}, not bytes")
    return _decode(load_json(skeleton.tobytes()), group)


def _encode(tree: Tree, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": repr(tree)}  # JSON has no NaN and no infinities
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return {"array": str(len(arrays) - 1)}
    if isinstance(tree, dict) and all(isinstance(key, int | str) for key in tree):
        return {"dict": [[key, _encode(value, arrays)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list" if isinstance(tree, list) else "tuple": [_encode(value, arrays) for value in tree]}
    raise CheckpointError(f"a {type(tree).__name__} cannot be saved; convert it to numbers, text, arrays or containers")


def _decode(node: Any, group: h5py.Group) -> Tree:
    if not isinstance(node, dict):
        return node
    [(kind, content)] = node.items()
    if kind == "array" and isinstance(content, str):
        return load_array(group, content)
    if kind == "float":
        return _SPECIAL_FLOATS[content]
    if not isinstance(content, list):
        raise ValueError(f"{group.name}/{_SKELETON}: {kind} of {type(content).__name__}")
    if kind == "dict":
        pairs = {_key(key): _decode(value, group) for key, value in content}
        if len(pairs) < len(content):
            raise ValueError(f"{group.name}/{_SKELETON}: a key is given twice")
        return pairs
    values = (_decode(value, group) for value in content)
    return {"list": list, "tuple": tuple}[kind](values)


def _key(key: Any) -> int | str:
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise TypeError(f"{key!r} cannot be a key of a tree")
    return key
