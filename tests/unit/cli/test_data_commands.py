from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app, main
from bagpipe_hpc.data.dataset import open_dataset


def bagpipe(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_synth_and_inspect(tmp_path):
    path = tmp_path / "clicks"
    summary = bagpipe("synth", "--output", path, "--samples", 1000, "--profile", "avazu", "--scale", 0.001)
    assert "900 training and 100 validation samples" in summary
    assert "0 dense features, 22 tables" in summary
    report = bagpipe("inspect", path)
    for expected in ("profile: avazu", "device_ip", "6,730", "22,000", "chunks of 8,192 samples, compression: none"):
        assert expected in report


def test_import_and_inspect(tmp_path):
    lines = ["\t".join(["1", *["5"] * 13, *["c0ffee"] * 26]) + "\n"] * 20
    (tmp_path / "clicks.txt").write_text("".join(lines))
    path = tmp_path / "clicks"
    options = ("--min-count", 2, "--validation-fraction", 0.25, "--samples-per-shard", 4, "--compression", "gzip")
    summary = bagpipe("import", "criteo", tmp_path / "clicks.txt", "--output", path, *options)
    assert "15 training and 5 validation samples" in summary
    assert "6 shards" in summary
    assert open_dataset(path).schema.num_embeddings == (2,) * 26
    assert "compression: gzip" in bagpipe("inspect", path, "--max-samples", 0)


def test_hashing(tmp_path):
    (tmp_path / "clicks.txt").write_text("1" + "\t" * 39 + "\n")
    bagpipe("import", "criteo", tmp_path / "clicks.txt", "--output", tmp_path / "clicks", "--hash-rows", 10)
    assert open_dataset(tmp_path / "clicks").schema.num_embeddings == (10,) * 26


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "none"], "none: is not a directory; give the output directory of"),
        (["import", "criteo", "none.txt", "--output", "out"], "none.txt: is missing; check the path of the input"),
        (["synth", "--output", "out", "--samples", "0"], "the number of samples is 0, but must be at least 1"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bagpipe", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith(f"bagpipe: error: {message}")
    assert not list(tmp_path.iterdir())


def test_help_imports_nothing_heavy():
    code = (
        "import sys, bagpipe_hpc.cli.main; "
        "print(sorted({'torch', 'mpi4py', 'h5py', 'numba', 'numpy', 'pyarrow', 'pydantic'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
