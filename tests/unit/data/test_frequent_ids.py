"""Ids that are used often in all training samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from bagpipe_hpc.data.frequent_ids import frequent_ids
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import MISSING, DynamicSchema

RULES = DynamicSchema(capacity=4, admit_after=3, admit_by="future_uses")


def test_frequent_ids(tmp_path: Path) -> None:
    tables = (
        TableSchema(name="item", num_embeddings=5, dynamic=DynamicSchema(capacity=4)),
        TableSchema(name="user", num_embeddings=5, dynamic=RULES),
        TableSchema(name="friends", num_embeddings=5, ragged=True, sequence=True, shares="user"),
    )
    users = np.array([7, -1, -1, 7, MISSING, MISSING])
    friends = Bags(np.array([0, 2, 2, 2, 2, 3, 5]), np.array([-1, 7, 7, 2**63 - 1, 2**63 - 1]))
    ids = np.stack([np.full(6, 3), users], axis=1)
    batch = Batch(np.zeros(6, np.float32), np.zeros((6, 0), np.float32), ids, {"friends": friends})
    with DatasetWriter(tmp_path / "data", Schema(tables=tables)) as writer:
        writer.append("train", batch)
        writer.append("validation", batch)
    dataset = open_dataset(tmp_path / "data")
    for lengths, expected in (({}, [-1, 7]), ({"friends": 2}, [-1, 7]), ({"friends": 1}, [7])):
        found = frequent_ids(dataset, lengths)
        assert {name: each.tolist() for name, each in found.items()} == {"user": expected}
