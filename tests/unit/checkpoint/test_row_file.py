"""Files of rows, trees and dense state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bagpipe_hpc.checkpoint.dense_file import load_dense
from bagpipe_hpc.checkpoint.hdf5 import NewHdf5File, reading
from bagpipe_hpc.checkpoint.row_file import (
    CachedRows,
    RowFile,
    RowFileWriter,
    RowOptions,
    from_bfloat16,
    to_bfloat16,
)
from bagpipe_hpc.checkpoint.tree import load_tree, store_tree
from bagpipe_hpc.errors import CheckpointError

EXACT = RowOptions()


@given(arrays(np.uint32, 20))
def test_bfloat16_rounds_as_torch_does(bits: np.ndarray[Any, np.dtype[np.uint32]]) -> None:
    values = bits.view(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected)


def write_server_rows(path: Path, sizes: list[int], options: RowOptions = EXACT) -> tuple[Any, Any]:
    keys = np.arange(sum(sizes)) * 3
    rows = np.random.default_rng(0).standard_normal((len(keys), 4), dtype=np.float32)
    with RowFileWriter(path, 4, options, is_cache=False) as writer:
        start = 0
        for size in sizes:
            writer.append(keys[start : start + size], rows[start : start + size])
            start += size
    return keys, rows


@pytest.mark.parametrize("sizes", [[], [0], [7], [1, 0, 500_000, 3]])
def test_rows_come_back_in_pieces_of_any_size(tmp_path: Path, sizes: list[int]) -> None:
    keys, rows = write_server_rows(tmp_path / "rows.h5", sizes)
    file = RowFile(tmp_path / "rows.h5", 4, 2_000_000)
    pieces = list(file.pieces(100_000))
    assert file.num_rows() == len(keys)
    assert all(len(piece[0]) <= 100_000 for piece in pieces)
    if len(keys):
        np.testing.assert_array_equal(np.concatenate([piece[0] for piece in pieces]), keys)
        np.testing.assert_array_equal(np.concatenate([piece[1] for piece in pieces]), rows)


def test_compression_is_smaller_and_exact(tmp_path: Path) -> None:
    write_server_rows(tmp_path / "plain.h5", [9000])
    _, rows = write_server_rows(tmp_path / "small.h5", [9000], RowOptions(compression="gzip"))
    [(_, found)] = RowFile(tmp_path / "small.h5", 4, 1_000_000).pieces(9000)
    np.testing.assert_array_equal(found, rows)
    assert (tmp_path / "small.h5").stat().st_size < (tmp_path / "plain.h5").stat().st_size


def test_only_dirty_cached_rows_supersede(tmp_path: Path) -> None:
    rows = np.ones((3, 4), np.float32)
    piece = CachedRows(np.array([2, 5, 9]), np.array([8, 0, 3], np.int32), np.array([True, False, True]), rows)
    with RowFileWriter(tmp_path / "rows.h5", 4, EXACT, is_cache=True) as writer:
        writer.append_cached(piece)
        writer.store_state(None)
    file = RowFile(tmp_path / "rows.h5", 4, 10, cache_rows=9)
    assert [keys.tolist() for keys, _ in file.pieces(10)] == [[2, 9]]
    [found] = file.cached_pieces(10)
    assert found.slots.tolist() == [8, 0, 3]
    assert file.state() is None


@pytest.mark.parametrize(
    ("row_width", "num_keys", "fault"),
    [(5, 100, r"/rows is float32 of shape \(3, 4\), not float32 of \(3, 5\)"), (4, 5, r"within \[0, 5\)")],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, row_width: int, num_keys: int, fault: str) -> None:
    write_server_rows(tmp_path / "rows.h5", [3])
    with pytest.raises(CheckpointError, match=rf"rows.h5 is damaged: .*{fault}"):
        list(RowFile(tmp_path / "rows.h5", row_width, num_keys).pieces(10))


def test_a_foreign_hdf5_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["keys"] = np.arange(3)
    with pytest.raises(CheckpointError, match="format and version are"):
        RowFile(tmp_path / "rows.h5", 4, 10).num_rows()
    with pytest.raises(CheckpointError, match="format and version are"):
        load_dense(tmp_path / "rows.h5")


def test_descending_keys_in_a_file_are_refused(tmp_path: Path) -> None:
    write_server_rows(tmp_path / "rows.h5", [3])
    with h5py.File(tmp_path / "rows.h5", "r+") as file:
        file["keys"][1] = 0
    with pytest.raises(CheckpointError, match="do not ascend"):
        list(RowFile(tmp_path / "rows.h5", 4, 100).pieces(10))


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    write_server_rows(tmp_path / "rows.h5", [3])
    with pytest.raises(CheckpointError, match=r"rows.h5 cannot be written: File exists"):
        write_server_rows(tmp_path / "rows.h5", [3])


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text()
    | arrays(
        np.float32, st.sampled_from([(), (0,), (3,), (2, 0), (2, 3)]), elements=st.floats(width=32, allow_nan=False)
    )
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**63), 2**64 - 1), inner, max_size=3)
    ),
    max_leaves=6,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(tree=TREES)
def test_trees_come_back(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.mktemp("trees") / "tree.h5"
    with NewHdf5File(path) as new:
        store_tree(new.h5.create_group("state"), tree)
    with reading(path) as file:
        assert same(load_tree(file["state"]), tree)


@pytest.mark.parametrize("value", [object(), {1.5: 2}, np.array(["text"]), b"bytes"])
def test_what_is_no_tree_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="cannot be saved"), NewHdf5File(tmp_path / "tree.h5") as new:
        store_tree(new.h5.create_group("state"), {"x": value})
