"""Checkpoints whose checksums are right and whose content is wrong are refused, by one line that names the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from bagpipe_hpc.bounded_json import dump_json, with_checksum
from bagpipe_hpc.checkpoint.checkpoint import Checkpoint
from bagpipe_hpc.checkpoint.durable import file_entry
from bagpipe_hpc.checkpoint.export import export
from bagpipe_hpc.checkpoint.verify import Verifier
from bagpipe_hpc.cli.main import app
from bagpipe_hpc.errors import CheckpointError
from tests.unit.checkpoint.job import MODEL, Job

Change = Callable[[h5py.File], None]

SECRET = b"root:x:0:0:a file of somebody else" * 40


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of two servers and two trainers."""
    job = Job(tmp_path / "checkpoints")
    job.train(6)
    return job.save(servers=2, trainers=2)


def mend_checksums(checkpoint: Path) -> None:
    """Let the manifest say what the files are like."""
    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text())
    content["files"] = [file_entry(checkpoint / entry["name"]).model_dump() for entry in content["files"]]
    path.write_bytes(dump_json(with_checksum(content)))


def refused(checkpoint: Path, name: str, change: Change) -> str:
    """Change a file, mend the checksums; what is said of the checkpoint."""
    with h5py.File(checkpoint / name, "r+") as file:
        change(file)
    mend_checksums(checkpoint)
    with pytest.raises(CheckpointError) as error:
        Verifier().verify(checkpoint)
    assert str(checkpoint / name) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def set_value(name: str, index: object, value: object) -> Change:
    def change(file: h5py.File) -> None:
        file[name][index] = value

    return change


def replace(name: str, make: Callable[[h5py.Dataset], object]) -> Change:
    def change(file: h5py.File) -> None:
        new = make(file[name])
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = new
        file[name].attrs.update(attributes)

    return change


def set_attribute(name: str, value: object) -> Change:
    def change(file: h5py.File) -> None:
        file.attrs[name] = value

    return change


def delete(name: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def set_skeleton(content: bytes) -> Change:
    def change(file: h5py.File) -> None:
        del file["state/tree"]
        file["state/tree"] = np.frombuffer(content, np.uint8)

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("trainer-00000.h5", set_value("slots", 0, -1), "slot -1 is not one of the 100 slots of a cache"),
        ("trainer-00000.h5", set_value("slots", 0, 100), "slot 100 is not one of the 100"),
        ("trainer-00000.h5", set_value("slots", 0, 1), "two rows have slot 1"),
        ("trainer-00000.h5", delete("slots"), "there is no data set slots"),
        ("trainer-00000.h5", delete("dirty"), "there is no data set dirty"),
        ("trainer-00000.h5", replace("dirty", lambda d: d[()].astype(np.int8)), "/dirty is int8 of shape"),
        ("trainer-00000.h5", set_value("rows", (0, 1), np.nan), "the row of key .* is not finite"),
        ("server-00000.h5", set_value("rows", (2, 0), np.inf), "the row of key .* is not finite"),
        ("server-00000.h5", set_value("rows", (2, 3), -np.inf), "is not finite: training had diverged, or the file"),
        ("server-00000.h5", set_value("keys", 0, 1), "key 1 does not belong to server 0 of 2|do not ascend"),
        ("server-00000.h5", set_value("keys", 1, -2), "do not ascend within"),
        ("server-00000.h5", set_value("keys", 0, 2**60), "do not ascend within"),
        ("server-00000.h5", replace("rows", lambda d: d[()].astype(np.float64)), "/rows is float64 of shape"),
        ("server-00000.h5", replace("rows", lambda d: d[:, :2]), "/rows is float32 of shape"),
        ("server-00000.h5", replace("keys", lambda d: d[()].astype(np.int32)), "/keys is int32 of shape"),
        ("server-00000.h5", replace("keys", lambda d: "text"), "/keys is object of shape"),
        ("server-00000.h5", delete("keys"), "there is no data set keys"),
        ("server-00000.h5", set_attribute("num_rows", -1), "num_rows is .*-1.*, not 0 to 47"),
        ("server-00000.h5", set_attribute("num_rows", 2**62), "num_rows is"),
        ("server-00000.h5", set_attribute("num_rows", "3"), "num_rows is '3', not 0 to 47"),
        ("server-00000.h5", set_attribute("encoding", "float8"), "encoding is 'float8', not one of float32, bfloat16"),
        ("server-00000.h5", set_attribute("encoding", 1), "encoding is"),
        ("server-00000.h5", set_attribute("format", np.arange(3)), "format|truth value"),
        ("dense.h5", set_value("parameters/top.0.bias", 0, np.nan), "dense parameter top.0.bias is not finite"),
        ("dense.h5", replace("parameters/top.0.bias", lambda d: d[()].astype(np.float64)), "is float64, not float32"),
        ("dense.h5", replace("parameters/top.0.bias", lambda d: "text"), "holds object, not numbers"),
        ("dense.h5", delete("parameters"), "there is no group parameters"),
        ("dense.h5", delete("state"), "there is no group state"),
        ("dense.h5", delete("state/0"), "there is no data set 0 in /state"),
        ("dense.h5", set_skeleton(b'{"array": 7}'), "array of int"),
        ("dense.h5", set_skeleton(b'{"array": "../parameters/top.0.bias"}'), "there is no data set"),
        ("dense.h5", set_skeleton(b'{"dict": 1}'), "dict of int"),
        ("dense.h5", set_skeleton(b'{"dict": [[true, 1]]}'), "True cannot be a key of a tree"),
        ("dense.h5", set_skeleton(b'{"dict": [["a", 1], ["a", 2]]}'), "a key is given twice"),
        ("dense.h5", set_skeleton(b'{"pickle": [1]}'), "pickle"),
        ("dense.h5", set_skeleton(b'{"list": [1], "tuple": []}'), "too many values"),
        ("dense.h5", set_skeleton(b"{}"), "not enough values"),
        ("dense.h5", set_skeleton(b"[" * 1000), "nested more than 64 deep"),
        ("dense.h5", set_skeleton(b'{"list": [' + b"9" * 30 + b"]}"), "integer of more than 64 bits"),
        ("dense.h5", set_skeleton(b'{"list": [NaN]}'), "is not a finite number"),
    ],
)
def test_wrong_content_is_named(checkpoint: Path, name: str, change: Change, said: str) -> None:
    message = refused(checkpoint, name, change)
    assert re.search(said, message), message


def test_a_row_in_two_caches(checkpoint: Path) -> None:
    with h5py.File(checkpoint / "trainer-00000.h5", "r") as other:
        keys = other["keys"][()]

    def change(file: h5py.File) -> None:
        file["keys"][0] = keys[keys < file["keys"][1]][-1]

    assert "is also in the cache of trainer 0" in refused(checkpoint, "trainer-00001.h5", change)


def make_external(file: h5py.File, outside: Path) -> None:
    shape = file["rows"].shape
    del file["rows"]
    file.create_dataset("rows", shape, np.float32, external=[(str(outside), 0, h5py.h5f.UNLIMITED)])


def make_virtual(file: h5py.File, outside: Path) -> None:
    shape = file["rows"].shape
    del file["rows"]
    layout = h5py.VirtualLayout(shape, np.float32)
    layout[:] = h5py.VirtualSource(str(outside), "rows", shape)
    file.create_virtual_dataset("rows", layout)


def make_soft_link(file: h5py.File, outside: Path) -> None:
    file["elsewhere"] = file["rows"]
    del file["rows"]
    file["rows"] = h5py.SoftLink("/elsewhere")


def make_external_link(file: h5py.File, outside: Path) -> None:
    del file["rows"]
    file["rows"] = h5py.ExternalLink(str(outside), "rows")


@pytest.mark.parametrize("change", [make_external, make_virtual, make_soft_link, make_external_link])
@pytest.mark.parametrize("name", ["server-00000.h5", "trainer-00001.h5"])
def test_rows_that_lie_elsewhere_are_never_read(
    checkpoint: Path, tmp_path: Path, change: Callable[[h5py.File, Path], None], name: str
) -> None:
    outside = tmp_path / "outside"
    if change is make_external:
        outside.write_bytes(SECRET)
    else:
        with h5py.File(outside, "w") as file:
            file["rows"] = np.ones((40, MODEL.row_width), np.float32)
    message = refused(checkpoint, name, lambda file: change(file, outside))
    assert "is a link to something elsewhere" in message or "has its values in another file" in message
    with pytest.raises(CheckpointError, match=r"elsewhere|another file"):
        export(Checkpoint.open(checkpoint), tmp_path / "model", "safetensors")
    assert not (tmp_path / "model").exists()


def test_dense_parameters_that_lie_elsewhere_are_never_read(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(SECRET)

    def change(file: h5py.File) -> None:
        del file["parameters/top.0.bias"]
        outside = [(str(tmp_path / "outside"), 0, 8)]
        file["parameters"].create_dataset("top.0.bias", (2,), np.float32, external=outside)

    assert "has its values in another file" in refused(checkpoint, "dense.h5", change)


def test_an_array_larger_than_its_file_is_never_allocated(checkpoint: Path) -> None:
    def change(file: h5py.File) -> None:
        del file["parameters/top.0.bias"]
        file["parameters"].create_dataset("top.0.bias", (2**40,), np.float32, chunks=(1024,))

    assert "but the file holds fewer" in refused(checkpoint, "dense.h5", change)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_files_that_never_end(checkpoint: Path, tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = checkpoint / "metrics.jsonl"
    path.unlink()
    path.symlink_to(tmp_path / target)
    content = json.loads((checkpoint / "manifest.json").read_text())
    for entry in content["files"]:
        if entry["name"] == "metrics.jsonl":
            entry["num_bytes"] = 0
    (checkpoint / "manifest.json").write_bytes(dump_json(with_checksum(content)))
    with pytest.raises(CheckpointError, match=r"metrics.jsonl .*device, pipe or socket"):
        Verifier().verify(checkpoint)


def test_a_parent_of_another_model(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.train(3)
    parent = job.save()
    job.train(2)
    increment = job.save(increment=True)
    content = json.loads((parent / "manifest.json").read_text())
    content["model"]["seed"] = 9
    (parent / "manifest.json").write_bytes(dump_json(with_checksum(content)))
    sha256 = Checkpoint.open(parent).chain[0].manifest_sha256
    content = json.loads((increment / "manifest.json").read_text())
    content["parent"]["manifest_sha256"] = sha256
    (increment / "manifest.json").write_bytes(dump_json(with_checksum(content)))
    with pytest.raises(CheckpointError, match="is not of the same model"):
        Verifier().verify(increment)


def test_the_command_says_which_pointer_is_damaged(checkpoint: Path) -> None:
    root = checkpoint.parent
    (root / "best").write_text("nothing")
    verified = CliRunner().invoke(app, ["checkpoint", "verify", str(root)])
    assert verified.exit_code == 1
    assert f"damaged  {root}/best" in verified.output
    assert f"good     {checkpoint}" in verified.output
    assert "best is damaged" in CliRunner().invoke(app, ["checkpoint", "list", str(root)]).output


def test_every_byte_counts(checkpoint: Path) -> None:
    """Bits all over every file; of the manifest and the pointers, others tests flip one in every byte."""
    for path in sorted(checkpoint.iterdir()):
        content = path.read_bytes()
        step = max(1, len(content) // 60)
        for index in range(0, len(content), step):
            flipped = bytearray(content)
            flipped[index] ^= 1 << index % 8
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=path.name):
                Verifier().verify(checkpoint)
        path.write_bytes(content)
    Verifier().verify(checkpoint)
