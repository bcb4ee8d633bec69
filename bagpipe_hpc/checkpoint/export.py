"""Export of a trained model as plain tensors, for programs that do not know this package.

Dense parameters keep their names. Table `t` is `embeddings.t.weight`, float32, shape (num_embeddings, embedding_dim of
the table). If the model has first-order weights, `first_order.t.weight`, float32, shape (num_embeddings, 1), holds
them. Rows that were never updated have their initial values. Optimizer state is not exported. The metadata
`bagpipe_hpc` says how to compute with the tensors: docs/export.md.

The ids of a dynamic table `t` are `ids.t`, int64, shape (n,), ascending. `rows.t`, of the same type and shape, has the
row of each of them. The tensors of the table end with the last row that was ever in use.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.bounded_json import dump_json
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.durable import sync_directory, writing
from bagpipe_hpc.checkpoint.manifest import FeatureEntry
from bagpipe_hpc.checkpoint.merge import RowStream
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.lookahead.id_map import IdState

Format = Literal["safetensors", "torch"]
Float32Array = NDArray[np.float32]

_PIECE_BYTES = 16 << 20


Progress = Callable[[str, int, int], None]


def export(
    checkpoint: Checkpoint,
    output: Path,
    form: Format,
    progress: Progress = lambda phase, done, total: None,
    ids: Mapping[str, IdState] | None = None,
) -> None:
    """Write the dense parameters and tables of a checkpoint to one file, which gets its name when it is complete.

    Memory does not grow with the tables. The form `torch` needs twice the disk space while it is written.

    Args:
        progress: Called with what is being written, and how many of its rows are complete.
        ids: The ids with rows of each dynamic table, by its name.
    Raises:
        CheckpointError: The output exists or cannot be written, or the checkpoint is damaged.
    """
    if output.exists():
        raise CheckpointError(f"{output} exists; choose another --output or remove it")
    safetensors, archive = (output.with_name(f".{output.name}.partial-{kind}") for kind in ("safetensors", "torch"))
    try:
        with writing(output):
            _write_safetensors(checkpoint, safetensors, progress, ids or {})
            if form == "torch":
                progress("writing the file for torch", 0, 0)
                _write_torch(safetensors, archive)
            os.replace(archive if form == "torch" else safetensors, output)
            sync_directory(output.parent)
    finally:
        for path in (safetensors, archive):
            with suppress(OSError):
                path.unlink()


def complete_rows(
    checkpoint: Checkpoint,
    rows_per_piece: int,
    columns: slice | None = None,
    num_rows: Mapping[str, int] | None = None,
) -> Iterator[tuple[str, Float32Array]]:
    """Yield columns of every row of every table in key order, by default the columns of the table's embedding.

    Args:
        checkpoint: The checkpoint.
        rows_per_piece: How many rows are yielded at a time, at most.
        columns: Which columns.
        num_rows: The first rows of these tables are enough.
    Yields:
        Table name; float32, shape (at most rows_per_piece, number of columns).
    """
    model = checkpoint.manifest.model
    dims = model.embedding_dims
    initializer = RowInitializer(model.key_space, model.embedding_dim, model.seed, dims=dims)
    touched = RowStream(checkpoint.merged_rows())
    offsets = model.key_space.table_offsets.tolist()
    for table, dim, start, stop in zip(model.tables, dims, offsets, offsets[1:], strict=False):
        stop = min(stop, start + (num_rows or {}).get(table.name, stop))
        for first in range(start, stop, rows_per_piece):
            end = min(first + rows_per_piece, stop)
            complete = np.empty((end - first, model.row_width), dtype=np.float32)
            initializer.fill(np.arange(first, end), complete)
            for keys, rows in touched.take_all(end):
                complete[keys - first] = rows
            yield table.name, complete[:, columns or slice(dim)]


def metadata_of(checkpoint: Checkpoint, num_rows: Mapping[str, int]) -> dict[str, str]:
    """Return the description of the tensors. `bagpipe_hpc` is JSON, because safetensors stores only texts.

    Args:
        checkpoint: The checkpoint.
        num_rows: Of each table, as exported.
    """
    manifest = checkpoint.manifest
    model = manifest.model
    training = manifest.config.get("training")
    features = model.features or tuple(FeatureEntry(name=table.name, table=table.name) for table in model.tables)
    described = {
        "export_version": 1,
        "model": model.name,
        "settings": model.settings,
        "num_dense": model.num_dense,
        "labels": [label.model_dump() for label in model.labels],
        "embedding_dim": model.embedding_dim,
        "first_order_columns": model.first_order_columns,
        "tables": [
            {
                "name": table.name,
                "num_embeddings": num_rows[table.name],
                "embedding_dim": dim,
                **({"default_rows": table.dynamic.default_rows} if table.dynamic else {}),
            }
            for table, dim in zip(model.tables, model.embedding_dims, strict=True)
        ],
        "features": [feature.model_dump(mode="json") for feature in features],
        "precision": training.get("precision", "float32") if isinstance(training, dict) else "float32",
        "iteration": manifest.iteration,
    }
    return {
        "format": "pt",
        "iteration": str(manifest.iteration),
        "bagpipe_hpc": dump_json(described, indent=None).decode().rstrip(),
    }


def _write_safetensors(checkpoint: Checkpoint, path: Path, progress: Progress, ids: Mapping[str, IdState]) -> None:
    """Write an 8-byte little-endian length, a JSON header (name, type, shape, offsets of each tensor) and the bytes."""
    model, dense = checkpoint.manifest.model, checkpoint.dense().parameters
    shapes = {name: values.shape for name, values in dense.items()}
    sizes = list(zip(model.tables, model.embedding_dims, strict=True))
    num_rows = {table.name: table.num_embeddings for table in model.tables} | _rows_ever_used(checkpoint, ids)
    shapes |= {f"embeddings.{table.name}.weight": (num_rows[table.name], dim) for table, dim in sizes}
    groups: list[slice | None] = [None]
    if width := model.first_order_columns:
        groups.append(slice(model.embedding_dim, model.embedding_dim + width))
        shapes |= {f"first_order.{table.name}.weight": (num_rows[table.name], width) for table in model.tables}
    integers = _tensors_of_ids(checkpoint, ids)
    header: dict[str, object] = {"__metadata__": metadata_of(checkpoint, num_rows)}
    end = 0
    for name, numbers in integers.items():
        start, end = end, end + numbers.nbytes
        header[name] = {"dtype": "I64", "shape": list(numbers.shape), "data_offsets": [start, end]}
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = dump_json(header, indent=None).rstrip()
    encoded += b" " * (-len(encoded) % 8)
    done = 0
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for numbers in integers.values():
            file.write(numbers.astype("<i8").tobytes())
        for values in dense.values():
            file.write(values.astype("<f4").tobytes())
        for columns in groups:
            for _, rows in complete_rows(checkpoint, max(1, _PIECE_BYTES // (4 * model.row_width)), columns, num_rows):
                file.write(np.ascontiguousarray(rows, dtype="<f4").data)
                progress("writing tables", done := done + len(rows), len(groups) * sum(num_rows.values()))
        _sync(file)


def _rows_ever_used(checkpoint: Checkpoint, ids: Mapping[str, IdState]) -> dict[str, int]:
    """Return how many rows of each dynamic table were ever in use, the default rows included."""
    return {
        table.name: table.dynamic.default_rows + ids[table.name].num_rows
        for table in checkpoint.manifest.model.tables
        if table.dynamic is not None and table.name in ids
    }


def _tensors_of_ids(checkpoint: Checkpoint, ids: Mapping[str, IdState]) -> dict[str, NDArray[np.int64]]:
    """Return the ids of each dynamic table, ascending, and the rows of these ids."""
    tensors = {}
    for table in checkpoint.manifest.model.tables:
        if table.dynamic is not None and table.name in ids:
            state = ids[table.name]
            order = np.argsort(state.ids)
            tensors[f"ids.{table.name}"] = state.ids[order]
            tensors[f"rows.{table.name}"] = state.rows[order].astype(np.int64) + table.dynamic.default_rows
    return tensors


def _write_torch(safetensors: Path, path: Path) -> None:
    """Write a dictionary of tensors for `torch.load`. They are mapped from a safetensors file, not read into memory."""
    import torch

    with open(safetensors, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    del header["__metadata__"]
    tensors = {}
    for name, place in header.items():
        start = 8 + length + place["data_offsets"][0]
        shape, dtype = tuple(place["shape"]), np.dtype("<f4" if place["dtype"] == "F32" else "<i8")
        if not math.prod(shape):
            tensors[name] = torch.from_numpy(np.empty(shape, dtype))
            continue
        # Copy-on-write, because torch has no read-only tensors; nothing is written.
        mapped = np.memmap(safetensors, dtype, "c", offset=start, shape=(math.prod(shape),))
        tensors[name] = torch.from_numpy(mapped).view(shape)
    with open(path, "wb") as file:
        torch.save(tensors, file)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
