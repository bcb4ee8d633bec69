"""manifest.json, and jobs that contradict it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bagpipe_hpc.bounded_json import dump_json, with_checksum
from bagpipe_hpc.checkpoint.file_names import MANIFEST, files_of
from bagpipe_hpc.checkpoint.manifest import (
    FeatureEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    ParentEntry,
    SequenceEntry,
    TableEntry,
    read_manifest,
    require_same_model,
    require_same_values,
)
from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import CheckpointError
from tests.unit.checkpoint.job import MODEL, manifest_of

FILES = tuple(FileEntry(name=name, num_bytes=1, sha256="0" * 64) for name in files_of(1, 1))
JSON: dict[str, Any] = json.loads(manifest_of(FILES).to_json())


def written(directory: Path, content: dict[str, Any]) -> Manifest:
    """Write a manifest with the checksum that it should have, and read it."""
    (directory / MANIFEST).write_bytes(dump_json(with_checksum(content)))
    return read_manifest(directory)[0]


def test_a_manifest_round_trips(tmp_path: Path) -> None:
    manifest = manifest_of(FILES, config={"mode": "cached"}, versions={"torch": "2"})
    assert written(tmp_path, json.loads(manifest.to_json())) == manifest
    settings = load_config(None, ["training.learning_rate=1e-30"]).model_dump(mode="json")
    manifest = manifest_of(FILES, config=settings)
    assert written(tmp_path, json.loads(manifest.to_json())) == manifest


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"files": FILES[1:]}, "files lacks server-00000.h5"),
        ({"files": FILES + FILES[:1]}, "listed twice"),
        ({"depth": 1}, "depth must be 0 if there is no parent"),
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
        ({"iteration": True}, "iteration"),
        ({"iteration": "10"}, "iteration"),
        ({"iteration": 10**18}, "iteration"),
        ({"generation": 2**60}, "generation"),
        ({"unknown": 1}, "unknown"),
        ({"cache_rows": 2**31}, "cache_rows"),
        ({"topology": {"servers": 10**6, "trainers": 1}}, "files lacks those of some servers"),
        ({"position": {"epoch": 2**61, "sample": 0}}, "position.epoch"),
        ({"position": {"epoch": 0.0, "sample": 0}}, "position.epoch"),
        ({"model": {**JSON["model"], "row_optimizer": 3}}, "model.row_optimizer"),
        ({"model": {**JSON["model"], "embedding_dim": 2**30}}, "model.embedding_dim"),
        ({"model": {**JSON["model"], "tables": [{"name": "a", "num_embeddings": 2**48}] * 2}}, "listed twice"),
        ({"created": 12}, "created"),
    ],
)
def test_a_foreign_manifest_is_named_with_its_fault(tmp_path: Path, change: dict[str, Any], place: str) -> None:
    with pytest.raises(CheckpointError, match=rf"manifest.json is damaged, or has another version .*\(.*{place}"):
        written(tmp_path, JSON | change)


def test_every_changed_value_is_found(tmp_path: Path) -> None:
    """Bit by bit, in every byte; what changes only the layout, such as a space, leaves no JSON."""
    content = manifest_of(FILES).to_json()
    for index in range(len(content) - 1):
        for bit in (index % 8, (index + 3) % 8):
            flipped = bytearray(content)
            flipped[index] ^= 1 << bit
            (tmp_path / MANIFEST).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=r"manifest\.json"):
                read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not valid JSON"),
        (b"[" * 1000 + b"]" * 1000, "nested more than 64 deep"),
        (b'{"iteration": ' + b"9" * 30 + b"}", "is an integer of more than 64 bits"),
        (b'{"iteration": 1e999}', "is not a finite number"),
        (b'{"iteration": NaN}', "is not a finite number"),
        (b'{"iteration": 1, "iteration": 2}', "'iteration' is given twice"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has no checksum"),
        (b"\xff", "is not valid JSON"),
    ],
)
def test_hostile_content_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"manifest.json: .*{said}.*; use another checkpoint"):
        read_manifest(tmp_path)


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="is, or links to, a device"):
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


def test_a_setting_that_a_checkpoint_does_not_know_has_its_default() -> None:
    known = {"top_mlp": [4]}
    saved = MODEL.model_copy(update={"settings": known})
    require_same_model(saved, MODEL.model_copy(update={"settings": {**known, "temperature": 0.05}}))
    with pytest.raises(CheckpointError, match=r"settings.temperature is None in the checkpoint, 0.1 in the job"):
        require_same_model(saved, MODEL.model_copy(update={"settings": {**known, "temperature": 0.1}}))


def history(**sequence: Any) -> ModelEntry:
    """A model that reads a sequence; with no fields, as an earlier version has saved it."""
    entry = SequenceEntry(**sequence) if sequence else None
    return MODEL.model_copy(update={"features": (FeatureEntry(name="seen", table="site", sequence=entry),)})


def test_a_checkpoint_that_does_not_describe_its_sequences_goes_on() -> None:
    content = manifest_of(FILES, model=history()).model_dump(mode="json")
    del content["model"]["features"][0]["sequence"]
    saved = Manifest.model_validate_json(json.dumps(content), strict=True).model
    require_same_model(saved, history(along="clicked"))
    require_same_model(history(max_length=7), history(max_length=9))
    with pytest.raises(CheckpointError, match=r"features\[0\].sequence.along is None in the checkpoint, 'clicked' in"):
        require_same_model(history(max_length=7), history(along="clicked"))


@pytest.mark.parametrize(("saved", "wanted"), [(None, None), ("a" * 64, None), (None, "b" * 64), ("a" * 64, "a" * 64)])
def test_a_vocabulary_that_may_be_the_same_goes_on(saved: str | None, wanted: str | None) -> None:
    models = [MODEL.model_copy(update={"vocabulary_sha256": digest}) for digest in (saved, wanted)]
    require_same_model(models[0], models[1])
    require_same_values(models[0], models[1], Path("clicks"))


def test_another_vocabulary_is_refused() -> None:
    models = [MODEL.model_copy(update={"vocabulary_sha256": digit * 64}) for digit in "ab"]
    require_same_model(models[0], models[1])
    with pytest.raises(CheckpointError, match=r"clicks: has another vocabulary .*`bagpipe import --vocabulary DIR`"):
        require_same_values(models[0], models[1], Path("clicks"))


def of_ids(id_type: str | None) -> ModelEntry:
    table = TableEntry.model_validate({"name": "user", "num_embeddings": 4, "dynamic": {"capacity": 3}})
    return MODEL.model_copy(update={"tables": (table.model_copy(update={"id_type": id_type}),)})


@pytest.mark.parametrize(("saved", "wanted"), [(None, "text"), ("integer", None), ("integer", "integer")])
def test_ids_that_may_be_of_the_same_type_go_on(saved: str | None, wanted: str | None) -> None:
    require_same_model(of_ids(saved), of_ids(wanted))
    require_same_values(of_ids(saved), of_ids(wanted), Path("clicks"))


def test_a_checkpoint_that_does_not_say_what_ids_are_can_be_read() -> None:
    content = manifest_of(FILES, model=of_ids("text")).model_dump(mode="json")
    del content["model"]["tables"][0]["id_type"]
    assert Manifest.model_validate_json(json.dumps(content), strict=True).model == of_ids(None)


def test_ids_of_another_type_are_refused() -> None:
    said = r"clicks: ids of table user are of type text, but of type integer in .* has `type: integer`"
    with pytest.raises(CheckpointError, match=said):
        require_same_values(of_ids("integer"), of_ids("text"), Path("clicks"))
