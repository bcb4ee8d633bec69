"""Exported tables are complete, and other programs read them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from bagpipe_hpc.bounded_json import load_json
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.export import complete_rows, export
from bagpipe_hpc.cli.main import app
from bagpipe_hpc.errors import CheckpointError
from bagpipe_hpc.initial_rows import RowInitializer
from tests.small_disk import small_disk
from tests.unit.checkpoint.job import DENSE, MODEL, Job, Row


def expected_tensors(job: Job) -> dict[str, Row]:
    embeddings = np.empty((MODEL.key_space.num_keys, MODEL.embedding_dim), np.float32)
    keys = np.arange(len(embeddings))
    RowInitializer(MODEL.key_space, MODEL.embedding_dim, MODEL.seed).fill(keys, embeddings)
    for key, row in job.current.items():
        embeddings[key] = row[: MODEL.embedding_dim]
    return {
        "embeddings.ad.weight": embeddings[:40],
        "embeddings.site.weight": embeddings[40:],
        **DENSE.parameters,
    }


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path / "checkpoints")
    job.train(2)
    job.save(servers=2, trainers=2)
    job.train(2)
    job.save(servers=3, increment=True)
    return job


def read_safetensors(path: Path) -> dict[str, Row]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert (metadata["format"], metadata["iteration"]) == ("pt", "4")
    assert length % 8 == 0
    assert max(place["data_offsets"][1] for place in header.values()) == len(content) - 8 - length
    tensors = {}
    for name, place in header.items():
        start, end = (8 + length + offset for offset in place["data_offsets"])
        tensors[name] = np.frombuffer(content[start:end], "<f4").reshape(place["shape"])
    return tensors


def test_safetensors(job: Job, tmp_path: Path) -> None:
    export(Checkpoint.open(job.root), tmp_path / "model.safetensors", "safetensors")
    found, expected = read_safetensors(tmp_path / "model.safetensors"), expected_tensors(job)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_metadata_say_what_the_tensors_are_of(job: Job, tmp_path: Path) -> None:
    export(Checkpoint.open(job.root), tmp_path / "model.safetensors", "safetensors")
    with safe_open(str(tmp_path / "model.safetensors"), framework="pt") as file:
        about = load_json(file.metadata()["bagpipe_hpc"].encode())
        assert set(file.keys()) == expected_tensors(job).keys()
    one_hot = {"pooling": None, "weighted": False, "sequence": None}
    assert about == {
        "export_version": 1,
        "model": "dlrm",
        "settings": {},
        "num_dense": 2,
        "labels": [],
        "embedding_dim": 3,
        "first_order_columns": 0,
        "tables": [
            {"name": "ad", "num_embeddings": 40, "embedding_dim": 3},
            {"name": "site", "num_embeddings": 7, "embedding_dim": 3},
        ],
        "features": [{"name": "ad", "table": "ad", **one_hot}, {"name": "site", "table": "site", **one_hot}],
        "precision": "float32",
        "iteration": 4,
    }


@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_a_full_disk(job: Job, tmp_path: Path, form: str) -> None:
    """At every size: one line that names the file, and nothing is left."""
    for num_bytes in (4096, 8192):
        with small_disk(tmp_path / f"disk-{num_bytes}", num_bytes) as disk:
            (disk.path / "filler").write_bytes(b"0" * 4096)
            output = disk.path / "model"
            done = CliRunner().invoke(app, ["export", str(job.root), "--output", str(output), "--format", form])
            if num_bytes == 4096 or form == "torch":
                assert isinstance(done.exception, CheckpointError)
                assert f"{output} cannot be written: No space left on device" in str(done.exception)
                assert disk.names() == ["filler"]


def test_torch(job: Job, tmp_path: Path) -> None:
    export(Checkpoint.open(job.root), tmp_path / "model.pt", "torch")
    found, expected = torch.load(tmp_path / "model.pt", weights_only=True), expected_tensors(job)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name].numpy(), values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "model.pt"]


@pytest.mark.parametrize("rows_per_piece", [1, 6, 40, 1000])
def test_pieces_of_any_size_make_the_same_tables(job: Job, rows_per_piece: int) -> None:
    pieces = list(complete_rows(Checkpoint.open(job.root), rows_per_piece))
    found = np.concatenate([rows for name, rows in pieces if name == "ad"])
    np.testing.assert_array_equal(found, expected_tensors(job)["embeddings.ad.weight"])


def test_the_first_rows_of_a_table(job: Job) -> None:
    last = max((key for key in job.current if key < 40), default=0)
    pieces = list(complete_rows(Checkpoint.open(job.root), 6, num_rows={"ad": last + 1}))
    for name in ("ad", "site"):
        found = np.concatenate([rows for each, rows in pieces if each == name])
        expected = expected_tensors(job)[f"embeddings.{name}.weight"]
        np.testing.assert_array_equal(found, expected[: last + 1] if name == "ad" else expected)


def test_an_existing_output_is_kept(job: Job, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(CheckpointError, match="model exists; choose another --output"):
        export(Checkpoint.open(job.root), tmp_path / "model", "torch")
    assert (tmp_path / "model").read_text() == "mine"


def test_a_failed_export_leaves_nothing(job: Job, tmp_path: Path) -> None:
    (job.root / "iteration-000000000004" / "server-00001.h5").write_bytes(b"")
    checkpoint = Checkpoint(tuple(Checkpoint.open(job.root / "iteration-000000000002").chain))
    (checkpoint.path / "server-00001.h5").unlink()
    with pytest.raises(CheckpointError, match=r"server-00001.h5 is missing"):
        export(checkpoint, tmp_path / "model.pt", "torch")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_the_commands(job: Job, tmp_path: Path) -> None:
    runner, root = CliRunner(), str(job.root)
    assert runner.invoke(app, ["checkpoint", "digest", root]).stdout.strip() == job.digest()
    listed = runner.invoke(app, ["checkpoint", "list", root]).output
    assert "full" in listed
    assert " on 2 " in listed
    verified = runner.invoke(app, ["checkpoint", "verify", root])
    assert (verified.exit_code, verified.stdout.count("good     ")) == (0, 2)
    assert f"reading {job.root}/iteration-000000000004" in verified.stderr
    exported = runner.invoke(app, ["export", root, "--output", str(tmp_path / "m"), "--format", "torch"])
    assert exported.exit_code == 0
    assert "writing tables" in exported.stderr
    assert runner.invoke(app, ["checkpoint", "prune", root, "--keep-last", "1"]).output == ""  # the parent is needed
    (job.root / "iteration-000000000002" / "dense.h5").write_bytes(b"")
    verified = runner.invoke(app, ["checkpoint", "verify", root])
    assert (verified.exit_code, verified.output.count("damaged  ")) == (1, 2)
    assert isinstance(runner.invoke(app, ["checkpoint", "list", str(tmp_path / "none")]).exception, CheckpointError)
