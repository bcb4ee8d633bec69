"""manifest.json, and jobs that contradict it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bagpipe_hpc.checkpoint.layout import files_of
from bagpipe_hpc.checkpoint.manifest import (
    FileEntry,
    Manifest,
    ParentEntry,
    TableEntry,
    read_manifest,
    require_same_model,
)
from bagpipe_hpc.errors import CheckpointError
from tests.unit.checkpoint.job import MODEL, manifest_of

FILES = tuple(FileEntry(name=name, num_bytes=1, sha256="0" * 64) for name in files_of(1, 1))


def test_a_manifest_round_trips() -> None:
    manifest = manifest_of(FILES, config={"mode": "cached"}, versions={"torch": "2"})
    assert Manifest.model_validate_json(manifest.to_json()) == manifest


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"files": FILES[1:]}, "files lacks server-00000.h5"),
        ({"files": FILES + FILES[:1]}, "listed twice"),
        ({"depth": 1}, "depth must be 0 exactly where there is no parent"),
        (
            {"depth": 1, "parent": ParentEntry(name="iteration-000000000010", manifest_sha256="0" * 64)},
            "earlier iteration",
        ),
        ({"depth": 1, "parent": ParentEntry(name="../elsewhere", manifest_sha256="0" * 64)}, "earlier iteration"),
    ],
)
def test_an_inconsistent_manifest_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        manifest_of(fields.pop("files", FILES), **fields)


@pytest.mark.parametrize("name", ["../server-00000.h5", "/etc/passwd", ".hidden", "a/b"])
def test_a_file_name_stays_within_the_directory(name: str) -> None:
    with pytest.raises(ValidationError):
        FileEntry(name=name, num_bytes=1, sha256="0" * 64)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"format_version": 2}, "format_version"),
        ({"format": "other"}, "format"),
        ({"iteration": -1}, "iteration"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_foreign_manifest_is_named_with_its_fault(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    content = json.loads(manifest_of(FILES).to_json()) | change
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=rf"manifest.json is damaged, or not of this version .*\({place}: "):
        read_manifest(tmp_path)


def test_the_same_model_may_go_on() -> None:
    require_same_model(MODEL, MODEL.model_copy())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embedding_dim": 4}, "model.embedding_dim is 3 in the checkpoint, 4 in the job"),
        ({"row_optimizer": "sgd"}, "model.row_optimizer is 'adagrad' in the checkpoint, 'sgd' in the job"),
        ({"row_state": ()}, r"model.row_state has 1 entries in the checkpoint, 0 in the job"),
        ({"tables": MODEL.tables[:1]}, "model.tables has 2 entries in the checkpoint, 1 in the job"),
        (
            {"tables": (MODEL.tables[0], TableEntry(name="site", num_embeddings=8))},
            r"model.tables\[1\].num_embeddings is 7 in the checkpoint, 8 in the job",
        ),
        ({"seed": 1}, "model.seed is 5 in the checkpoint, 1 in the job"),
    ],
)
def test_a_contradiction_names_the_field(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        require_same_model(MODEL, MODEL.model_copy(update=change))
