"""Columns of tables as arrays of a batch."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.features import Features
from bagpipe_hpc.data.importing.hashing import hashed_texts


def test_lists_of_text_and_of_parquet_are_alike() -> None:
    description = TableDescription.model_validate({"label": "y", "lists": [{"column": "g", "separator": "/"}]})
    features = Features(description, ["y", "g"])
    text = pa.table({"1": pa.array([b"a/b", b"", b"/b/", None, b"c"], pa.binary())})
    lists = pa.table({"1": pa.array([[b"a", b"b"], [], [None, b"b", b""], None, [b"c"]], pa.list_(pa.binary()))})
    for table in (text, lists, pa.concat_tables([lists.slice(0, 2), lists.slice(2)])):
        found = features.value_lists(table, description.lists[0])
        assert found.offsets.tolist() == [0, 2, 2, 3, 3, 4]
        np.testing.assert_array_equal(found.ids, hashed_texts(pa.array([b"a", b"b", b"b", b"c"])))
