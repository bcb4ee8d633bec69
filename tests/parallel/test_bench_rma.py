"""`bagpipe bench rma` as a user runs it. Its figures say nothing here; that it checks rows, does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.launch import run_ranks

BENCH = ["-m", "bagpipe_hpc", "bench", "rma"]
TINY = ["--table-rows", "500", "--iterations", "3", "--warm-up", "2", "--rounds", "2"]
GIB = 2**30
LIMIT = 120.0


def test_two_servers_and_two_trainers_print_one_table_and_write_json(tmp_path: Path) -> None:
    written = tmp_path / "rma.json"
    arguments = [*BENCH, *TINY, "--rows", "60", "--servers", "2", "--dim", "5", "--json", str(written)]
    done = run_ranks(4, arguments, timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("60 rows of 20 bytes per trainer and iteration") == 1
    assert "4 ranks on 1 host(s)" in done.stdout
    figures = json.loads(written.read_text(encoding="utf-8"))
    assert len(figures["rounds_rows_per_second"]) == 2
    for direction in ("fetch", "write_back"):
        measured = figures["median"][direction]
        assert list(measured) == ["memcpy", "server", "contiguous", "bound", "staged", "direct", "per-row"]
        rates = {name: figures["rows_per_second"] for name, figures in measured.items()}
        assert rates["bound"] <= min(rates["server"], rates["contiguous"])  # each round has its own


def test_a_table_of_more_than_2_to_the_31_elements() -> None:
    # 12 GiB, lazily: in private memory for staged transfer, in an RMA window for direct.
    if shutil.disk_usage("/dev/shm").free < 13 * GIB:
        pytest.skip(f"an RMA window of 12 GiB needs 13 GiB of /dev/shm, {shutil.disk_usage('/dev/shm').free} bytes are")
    large = ["--table-rows", "12600000", "--dim", "256", "--rows", "64", "--transport", "staged,direct"]
    done = run_ranks(2, [*BENCH, *TINY, *large], timeout=LIMIT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("num_ranks", "options", "message"),
    [
        (1, [], "start with `mpirun -n 2` or more"),
        (2, ["--device", "tpu"], "--device is 'tpu'; give auto, cpu, gpu"),
        (3, ["--transport", "fast"], "allowed, separated by commas: staged, direct, per-row"),
    ],
)
def test_options_that_do_not_fit_are_said_once(num_ranks: int, options: list[str], message: str) -> None:
    done = run_ranks(num_ranks, [*BENCH, *options], timeout=LIMIT)
    assert done.returncode == 2
    assert done.stderr.count("bagpipe: error: ") == 1
    assert message in done.stderr
