"""Checkpoints, and chains of increments over changing topologies, against dictionaries."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.row_file import RowOptions
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.initial_rows import RowInitializer
from bagpipe_hpc.server.row_store import RowStore
from bagpipe_hpc.sharding import Sharding
from tests.unit.checkpoint.job import DENSE, Job, Row

TOPOLOGIES = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4)


def load_servers(checkpoint: Checkpoint, num_servers: int) -> list[RowStore]:
    """What the servers of a job that resumes do."""
    model = checkpoint.manifest.model
    sharding = Sharding(model.key_space.num_keys, num_servers)
    stores = []
    for server in range(num_servers):
        memory = np.zeros((sharding.num_local_rows(server), model.row_width), np.float32)
        initializer = RowInitializer(model.key_space, model.embedding_dim, model.seed)
        store = RowStore(sharding, server, initializer, memory)
        for keys, rows in checkpoint.server_rows(server, num_servers):
            store.scatter(sharding.local_row_of(keys), rows)
        stores.append(store)
    return stores


@given(seed=st.integers(0, 1000), topologies=TOPOLOGIES, num_servers=st.integers(1, 5))
@settings(max_examples=20)
def test_every_row_comes_back_as_it_was_on_any_number_of_servers(
    seed: int, topologies: list[tuple[int, int]], num_servers: int
) -> None:
    with tempfile.TemporaryDirectory() as root:
        job = Job(Path(root), seed)
        for number, (servers, trainers) in enumerate(topologies):
            job.train(2)
            path = job.save(servers, trainers, increment=number > 0)
        checkpoint = Checkpoint.open(path)
        assert checkpoint.digest() == job.digest()
        restored: dict[int, Row] = {}
        for store in load_servers(checkpoint, num_servers):
            keys, rows = store.touched(0, len(store.rows))
            restored |= dict(zip(keys.tolist(), rows, strict=True))
        assert restored.keys() == job.current.keys()
        assert all(np.array_equal(restored[key], job.current[key]) for key in restored)


def test_an_increment_has_only_what_changed(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train(20)
    job.save()
    job.train(1, rows=2)
    num_changed = len(job.changed)
    checkpoint = Checkpoint.open(job.save(increment=True))
    [file] = checkpoint.chain[-1].server_files([0])
    assert file.num_rows() == num_changed < len(job.on_servers)
    assert len(checkpoint.chain) == 2


def test_the_cache_comes_back(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train(3)
    checkpoint = Checkpoint.open(job.save(servers=2, trainers=2))
    cached = [piece for trainer in range(2) for piece in checkpoint.cached_rows(trainer)]
    found = {key: dirty for piece in cached for key, dirty in zip(piece.keys.tolist(), piece.dirty, strict=True)}
    assert found == job.cached
    assert cached[0].slots.dtype == np.int32
    assert checkpoint.trainer_state(1)["rng"].tolist() == [0, 1]


def test_the_dense_state_and_extra_files_come_back(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train()
    checkpoint = Checkpoint.open(job.save())
    dense = checkpoint.dense()
    assert {name: values.tolist() for name, values in dense.parameters.items()} == {
        name: values.tolist() for name, values in DENSE.parameters.items()
    }
    assert dense.state["state"][0]["step"] == 3.0
    assert dense.state["param_groups"] == [{"lr": 0.1}]
    assert checkpoint.extra("metrics.jsonl") == b"{}\n"
    with pytest.raises(CheckpointError, match="has no file nothing"):
        checkpoint.extra("nothing")


@pytest.mark.parametrize(
    "options", [RowOptions("bfloat16"), RowOptions(compression="lzf"), RowOptions("bfloat16", "gzip")]
)
def test_increments_may_be_rounded_and_compressed(tmp_path: Path, options: RowOptions) -> None:
    job = Job(tmp_path)
    job.train(3)
    job.save()
    job.options = options
    job.train(3)
    checkpoint = Checkpoint.open(job.save(servers=2, increment=True))
    for keys, rows in checkpoint.merged_rows():
        expected = np.array([job.current[key] for key in keys.tolist()])
        np.testing.assert_allclose(rows, expected, rtol=2**-8 if options.encoding == "bfloat16" else 0)


def test_a_replaced_parent_is_found(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train()
    full = job.save()
    job.train()
    increment = job.save(increment=True)
    job.iteration = 1  # as a job that went back and took another way
    assert job.save() == full
    with pytest.raises(CheckpointError, match=r"increment on another iteration-000000000001 than the one beside it"):
        Checkpoint.open(increment)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train()
    full = job.save()
    job.train()
    increment = job.save(increment=True)
    full.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"iteration-000000000001/manifest.json does not exist"):
        Checkpoint.open(increment)
