"""Importing under a launcher: the same data set as alone; a bad line on one rank ends all."""

from __future__ import annotations

import gzip
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.launch import run_python, run_ranks, start_ranks
from tests.small_disk import small_disk

SCHEMA = """
label: click
dense: [price]
categorical: [user, {column: item, hash_rows: 40}]
lists: [tags]
"""
HISTORY = """
history: {of: item, by: user, order: price, max_length: 20, where: click, elements: [price]}
"""
NUM_LINES = 30_000  # of 25 bytes
TIMEOUT = 120  # of a run of seconds, on a machine that others load


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments that import two files, one of them gzip."""
    folder = tmp_path_factory.mktemp("clicks")
    (folder / "schema.yaml").write_text(SCHEMA)
    lines = [f"{i % 3 // 2},{i // 99},user{i * i % 977},item{i % 53},t{i % 7}|t{i % 5}\n" for i in range(NUM_LINES)]
    header = "click,price,user,item,tags\n"
    (folder / "0.csv").write_text(header + "".join(lines[: NUM_LINES // 2]))
    (folder / "1.csv.gz").write_bytes(gzip.compress((header + "".join(lines[NUM_LINES // 2 :])).encode()))
    return command(folder / "0.csv", folder / "1.csv.gz", schema=folder / "schema.yaml")


def command(*files: Path, schema: Path) -> list[str]:
    return ["-m", "bagpipe_hpc", "import", "table", *map(str, files), "--schema", str(schema)]


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_gives_the_same_files(clicks: list[str], tmp_path: Path, num_ranks: int) -> None:
    """With histories, ranks exchange what lines leave behind for lines of later ranks."""
    (tmp_path / "schema.yaml").write_text(SCHEMA + HISTORY)
    options = ["--schema", str(tmp_path / "schema.yaml"), "--samples-per-shard", "4000", "--output"]
    alone = run_python([*clicks, *options, str(tmp_path / "alone")], timeout=TIMEOUT)
    assert alone.returncode == 0, alone.stderr
    together = run_ranks(num_ranks, [*clicks, *options, str(tmp_path / "together")], timeout=TIMEOUT)
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("27,000 training and 3,000 validation samples") == 1
    assert files_of(tmp_path / "together") == files_of(tmp_path / "alone")


def test_without_a_launcher_there_is_no_mpi(clicks: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from bagpipe_hpc.cli.main import app; app(standalone_mode=False); print('mpi4py' in sys.modules)"
    )
    done = run_python(["-c", program, *clicks[2:], "--output", str(tmp_path / "clicks")], timeout=TIMEOUT)
    assert done.stdout.split()[-1] == "False", done.stderr


@pytest.mark.parametrize(("bad_line", "hashing"), [(7, []), (14_000, ["--hash-rows", "40"])])
def test_a_bad_line_on_one_rank_ends_all(clicks: list[str], tmp_path: Path, bad_line: int, hashing: list[str]) -> None:
    lines = Path(clicks[4]).read_text().splitlines(keepends=True)
    lines[bad_line - 1] = "0,many,user,item,\n"
    (tmp_path / "bad.csv").write_text("".join(lines))
    args = command(tmp_path / "bad.csv", schema=Path(clicks[-1]))
    output = ["--output", str(tmp_path / "clicks"), "--samples-per-shard", "2000", *hashing]
    done = run_ranks(3, [*args, *output], timeout=TIMEOUT)
    assert done.returncode == 2, done.stderr
    reason = f"bad.csv: line {bad_line}: column 2 (price) is 'many', but must be empty or a number below 1e37; correct"
    assert done.stderr.count(reason) == done.stderr.count("bagpipe: error:") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.csv"], "nothing is left"

    allowed = run_ranks(3, [*args, *output, "--max-bad-lines", "1"], timeout=TIMEOUT)
    assert allowed.returncode == 0, allowed.stderr
    assert "skipped 1 bad line" in allowed.stderr
    assert f"line {bad_line}" in allowed.stderr
    origin = json.loads((tmp_path / "clicks" / "dataset.json").read_text())["origin"]
    assert origin["bad_lines"]["count"] == 1


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_sigterm_leaves_nothing(clicks: list[str], tmp_path: Path, num_ranks: int) -> None:
    line = Path(clicks[4]).read_text().splitlines(keepends=True)[1]
    (tmp_path / "many.csv").write_text(Path(clicks[4]).read_text() + 3_000_000 * line)
    args = command(tmp_path / "many.csv", schema=Path(clicks[-1]))
    # Small shards take long enough: Open MPI 4's mpirun tells the ranks after a second.
    with start_ranks(num_ranks, [*args, "--output", str(tmp_path / "clicks"), "--samples-per-shard", "2000"]) as run:
        deadline = time.monotonic() + TIMEOUT
        while not list(tmp_path.glob(".clicks.partial-*/train/*.h5")):
            assert run.process.poll() is None, run.output()
            assert time.monotonic() < deadline, run.output()
            time.sleep(0.01)
        os.killpg(run.process.pid, signal.SIGTERM)
        done = run.wait(TIMEOUT)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["many.csv"], done.stderr


def test_a_known_vocabulary_on_all_ranks(clicks: list[str], tmp_path: Path) -> None:
    first, again = str(tmp_path / "first"), str(tmp_path / "again")
    assert run_python([*clicks, "--output", first], timeout=TIMEOUT).returncode == 0
    later = command(Path(clicks[5]), schema=Path(clicks[-1]))
    for ranks, output in ((1, again), (3, again + "3")):
        done = run_ranks(ranks, [*later, "--vocabulary", first, "--output", output], timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr
    assert files_of(Path(again)) == files_of(Path(again + "3"))
    assert files_of(Path(again))["vocabulary.h5"] == files_of(Path(first))["vocabulary.h5"]

    wrong = run_ranks(3, [*later, "--vocabulary", str(tmp_path), "--output", str(tmp_path / "none")], timeout=TIMEOUT)
    assert wrong.stderr.count("has no vocabulary.h5") == wrong.stderr.count("bagpipe: error:") == 1, wrong.stderr


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--output", "."], "already exists and is not empty"),
        (["--output", "out", "--min-count", "0"], "the minimum count is 0"),
        (["--output", "out", "--schema", "none.yaml"], "none.yaml: is missing; check the path of the schema"),
    ],
)
def test_a_mistake_is_told_once(clicks: list[str], change: list[str], reason: str) -> None:
    done = run_ranks(3, [*clicks, *change], timeout=TIMEOUT)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(reason) == done.stderr.count("bagpipe: error:") == 1, done.stderr


def test_a_full_disk_ends_all_ranks_with_one_line(clicks: list[str], tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 600_000) as disk:
        options = ["--samples-per-shard", "2000", "--output", str(disk.path / "clicks")]
        done = run_ranks(3, [*clicks, *options], timeout=TIMEOUT)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("No space left on device") == done.stderr.count("bagpipe: error:") == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert disk.names() == []
