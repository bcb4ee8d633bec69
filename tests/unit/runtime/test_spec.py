"""A job is the same on all ranks."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.runtime.data_position import DataPosition
from bagpipe_hpc.runtime.spec import CheckpointSpec, JobSpec

SCHEMA = Schema(dense=("age",), tables=(TableSchema(name="user", num_embeddings=5, ragged=True, weighted=True),))


def test_a_job_travels() -> None:
    settings = [
        "training.learning_rate=0.1234567890123456789",
        "tables.user.pooling=mean",
        "model.factory=mine:build",
        "model.arguments={sizes: [1, 2], limit: 0.1, name: null}",
    ]
    spec = JobSpec(
        load_config(None, settings),
        SCHEMA,
        traced=(3, 2**40),
        start=DataPosition(7, 1, 64),
        checkpoints=CheckpointSpec(Path("/runs/a b/checkpoints"), 3),
        resumed=Path("/runs/a b/checkpoints/iteration-7"),
        keeps_caches=True,
        predictions=Path("p.npy"),
        evaluates_only=True,
        exchange="device",
    )
    assert JobSpec.from_bytes(spec.to_bytes()) == spec


def test_a_job_with_nothing_but_settings_travels() -> None:
    spec = JobSpec(load_config(None, []), SCHEMA)
    assert JobSpec.from_bytes(spec.to_bytes()) == spec
