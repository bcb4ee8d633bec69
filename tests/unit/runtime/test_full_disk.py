"""Files of a run directory on a full disk: one line that names the file and the cause, and nothing half done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.errors import BagpipeError
from bagpipe_hpc.launch.run_settings import write_run_settings
from bagpipe_hpc.oracle.evaluation import Evaluation
from bagpipe_hpc.oracle.metrics import EvaluationResult, LabelMetrics, save_predictions
from bagpipe_hpc.oracle.progress import METRICS_EVERY, History, Progress
from bagpipe_hpc.runtime.run_directory import DONE, write_at_once, writing_to
from bagpipe_hpc.runtime.run_lock import Ownership
from bagpipe_hpc.topology import Topology
from bagpipe_hpc.trace import write_trace
from tests.launch import run_python
from tests.small_disk import SmallDisk, small_disk

CONFIG = load_config(None, ["training.batch_size=100"])
FULL = "cannot be written: No space left on device; free space"
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of four pages, and three of them in use."""
    with small_disk(tmp_path / "disk", 4 * PAGE) as disk:
        (disk.path / "filler").write_bytes(b"0" * 3 * PAGE)
        yield disk


def fill_up(disk: SmallDisk) -> None:
    """Take every page that is left."""
    with (disk.path / "more").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"0" * PAGE)


def fill(disk: SmallDisk) -> None:
    (disk.path / "filler").write_bytes(b"0" * 4 * PAGE)


def test_the_lock(disk: SmallDisk) -> None:
    fill(disk)
    with pytest.raises(BagpipeError, match=FULL):
        Ownership([disk.path])
    assert disk.names() == ["filler"]


def test_a_lock_that_is_given_back(disk: SmallDisk) -> None:
    ownership = Ownership([disk.path])
    (disk.path / "more").write_bytes(b"")
    fill_up(disk)
    ownership.release()
    assert not [name for name in disk.names() if name.startswith(".owner-")]


def test_settings_summary_and_done(disk: SmallDisk) -> None:
    fill(disk)
    with pytest.raises(BagpipeError, match=rf"{disk.path}/config.yaml {FULL}"):
        write_run_settings(disk.path, CONFIG)
    with pytest.raises(BagpipeError, match=rf"{disk.path}/DONE {FULL}"):
        write_at_once(disk.path / DONE, b"60\n")
    assert disk.names() == ["filler"]


def train_on(path: Path) -> None:
    with Progress(path, 10_000, CONFIG, Topology(4, 1)) as progress:
        for iteration in range(10_000):
            progress.advance(iteration + 1, 0.5, 100)


def test_metrics(disk: SmallDisk) -> None:
    """What fits stays; the error comes once, also where the block of the progress is left by it."""
    with pytest.raises(BagpipeError, match=rf"{disk.path}/metrics.jsonl {FULL}"):
        train_on(disk.path)
    assert len((disk.path / "metrics.jsonl").read_bytes().splitlines()) > 10


def test_metrics_of_a_job_that_goes_on(disk: SmallDisk) -> None:
    fill(disk)
    line = b'{"iteration": 20, "loss": 0.5, "samples_per_second": 1.0}\n'
    with pytest.raises(BagpipeError, match=rf"{disk.path}/metrics.jsonl {FULL}"):
        Progress(disk.path, 10_000, CONFIG, Topology(4, 1), start=METRICS_EVERY, history=History(line))


def test_evaluations(disk: SmallDisk) -> None:
    fill(disk)
    evaluation = Evaluation(20, EvaluationResult(100, LabelMetrics(0.5, 0.6, 1.0, 1.0)))
    with (
        pytest.raises(BagpipeError, match=rf"{disk.path}/evaluations.jsonl {FULL}"),
        Progress(disk.path, 10_000, CONFIG, Topology(4, 1)) as progress,
    ):
        progress.evaluated(evaluation, is_best=True)


def test_traces(disk: SmallDisk) -> None:
    events = ({"ph": "X", "name": "compute", "ts": n, "dur": 1, "pid": 0, "tid": 0} for n in range(1000))
    path = disk.path / "rank0.json"
    with pytest.raises(BagpipeError, match=rf"rank0.json {FULL}"), writing_to(path):
        write_trace(path, events, {})
    assert disk.names() == ["filler"]


def test_predictions(disk: SmallDisk) -> None:
    path = disk.path / "clicks.npy"
    schema = Schema(tables=(TableSchema(name="item", num_embeddings=1),))
    with pytest.raises(BagpipeError, match=rf"clicks.npy {FULL}"):
        save_predictions(path, np.zeros(100_000, np.float32), schema)
    assert disk.names() == ["filler"]


def test_tensorboard_ends_and_the_job_goes_on(disk: SmallDisk) -> None:
    """In a process of its own: nothing else is printed, also at its end."""
    fill(disk)
    program = (
        "import sys; from pathlib import Path; from bagpipe_hpc.oracle.tensorboard import TensorBoard\n"
        "from bagpipe_hpc.log import printing_records\n"
        "with printing_records():\n"
        "    board = TensorBoard(Path(sys.argv[1]), 0)\n"
        "    for i in range(9): board.add(i, {'loss': 0.5})\n"
        "    board.close()\n"
    )
    done = run_python(["-c", program, str(disk.path / "tensorboard")], timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{disk.path}/tensorboard cannot be written: No space left on device; training goes on" in done.stdout
