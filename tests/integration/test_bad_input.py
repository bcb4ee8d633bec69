"""What a user can get wrong, and what a cluster can do to a job: every rank ends soon, and one message says why."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

import h5py
import numpy as np
import pytest

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.data.dataset import DatasetWriter
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.exit_codes import EXIT_DIVERGED, EXIT_FAILURE, EXIT_INVALID
from tests.integration.jobs import END_SECONDS, START_SECONDS, command, wait_for_training, wait_until
from tests.integration.programs import own_models
from tests.launch import open_mpi_version, run_ranks, start_ranks
from tests.small_disk import small_disk

ERROR = "bagpipe: error: "
LAST_SHARD = "train/shard-00003.h5"

Damage = Callable[[Path], object]


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of the small data set, to be damaged."""
    return Path(shutil.copytree(small_dataset, tmp_path / "dataset"))


def errors(done: CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith(ERROR)]


def assert_refused(args: list[str], *parts: str) -> None:
    """The job ends before it starts: code 2, and one line of one rank that holds all parts (cause and cure)."""
    done = run_ranks(3, args, timeout=START_SECONDS)
    assert done.returncode == 2, done.stderr
    assert len(errors(done)) == 1, done.stderr
    (line,) = errors(done)
    assert [part for part in parts if part not in line] == [], line
    assert "training" not in done.stdout


# Data sets


def truncate(dataset: Path) -> None:
    path = dataset / LAST_SHARD
    path.write_bytes(path.read_bytes()[:-2000])


def replace_by_foreign_hdf5(dataset: Path) -> None:
    with h5py.File(dataset / LAST_SHARD, "w") as file:
        file["weights"] = np.zeros(10)


def change_schema(dataset: Path) -> None:
    with h5py.File(dataset / LAST_SHARD, "r+") as file:
        schema = json.loads(file.attrs["schema"])
        schema["tables"][1]["num_embeddings"] += 1
        file.attrs["schema"] = json.dumps(schema)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (truncate, [LAST_SHARD, "truncated", "copy it again"]),
        (replace_by_foreign_hdf5, [LAST_SHARD, "not a shard", "copy it again"]),
        (change_schema, [LAST_SHARD, "another schema", "401", "make the data set again"]),
        (lambda dataset: (dataset / LAST_SHARD).unlink(), [LAST_SHARD, "is missing", "copy it again"]),
        (shutil.rmtree, ["is not a directory", "bagpipe import"]),
    ],
    ids=["truncated", "foreign HDF5", "wrong schema", "missing shard", "missing data set"],
)
def test_a_data_set_that_is_not_whole_is_refused(
    dataset: Path, tmp_path: Path, damage: Damage, parts: list[str]
) -> None:
    damage(dataset)
    assert_refused(command(dataset, tmp_path / "run"), str(dataset), *parts)
    assert not (tmp_path / "run").exists()


def test_settings_of_tables_that_are_not_there(tmp_path: Path) -> None:
    schema = Schema(
        tables=(TableSchema(name="site", num_embeddings=5), TableSchema(name="tags", num_embeddings=9, ragged=True))
    )
    tags = Bags(np.array([0, 2, 3]), np.array([8, 0, 4]))
    with DatasetWriter(tmp_path / "ragged", schema) as writer:
        writer.append(
            "train", Batch(np.zeros(2, np.float32), np.empty((2, 0), np.float32), np.array([[1], [2]]), {"tags": tags})
        )
    mean = "tables.tag.pooling=mean"
    assert_refused(command(tmp_path / "ragged", tmp_path / "run", mean), "tables.tag", "it has site, tags")
    mean = "tables.site.pooling=mean"
    assert_refused(command(tmp_path / "ragged", tmp_path / "run", mean), "site has one id per sample", "are tags")


# Settings, ranks, run directory


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("training.learning_rte=1", ["training.learning_rte", "mean training.learning_rate?", "training.epochs"]),
        ("training.epochs", ["'training.epochs'", "section.key=value"]),
        ("dense_optimizer.name=adamm", ["torch.optim has no such class; choose one of Adafactor, "]),
        ("roles.servers=2", ["the job has 3 ranks", "need 4", "mpirun -n 4", "lower roles.servers"]),
    ],
    ids=["unknown", "no value", "no such optimizer", "too few ranks"],
)
def test_a_setting_that_cannot_be_is_refused(
    small_dataset: Path, tmp_path: Path, setting: str, parts: list[str]
) -> None:
    assert_refused(command(small_dataset, tmp_path / "run", setting), *parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["is missing", "check the path"]),
        ("training: [1, 2\n  epochs: }", ["not valid YAML", "line 2", "correct it"]),
    ],
    ids=["missing", "not YAML"],
)
def test_a_configuration_that_cannot_be_read_is_refused(
    small_dataset: Path, tmp_path: Path, content: str | None, parts: list[str]
) -> None:
    config = tmp_path / "job.yaml"
    if content is not None:
        config.write_text(content)
    assert_refused(command(small_dataset, tmp_path / "run", options=(str(config),)), str(config), *parts)


def test_a_full_disk_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        (disk.path / "full").write_bytes(b"0" * 4096)
        assert_refused(
            command(small_dataset, disk.path), f"{disk.path} cannot be written", "No space left", "free space"
        )


def test_a_run_directory_that_cannot_be_made_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file in its place")
    args = command(small_dataset, tmp_path / "run")
    assert_refused(args, str(tmp_path / "run"), "File exists", "choose another --run-dir")


def test_a_fault_of_the_program_before_the_start_ends_all_ranks() -> None:
    program = "from pathlib import Path; from bagpipe_hpc.launch import job, validation; "
    program += "validation.read_config = lambda _: 1 / 0; "
    program += "job.run_training(job.Request(None, Path('data'), Path('run'), []))"
    done = run_ranks(3, ["-c", program], timeout=START_SECONDS)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("bagpipe: error: rank 0 on host ") == 1
    assert done.stderr.count("Traceback") == 1


# Found while training


def poison(name: str, value: float) -> Damage:
    def damage(dataset: Path) -> None:
        with h5py.File(dataset / LAST_SHARD, "r+") as file:
            file[name][95, 1] = value

    return damage


def assert_fails(args: list[str], *parts: str, ranks: int = 3, code: int = EXIT_FAILURE) -> None:
    """The job is aborted: one rank says why, in a line that holds all parts."""
    with start_ranks(ranks, args) as run:
        wait_until(lambda: ERROR in run.output(), run)
        done = run.wait(END_SECONDS)
    assert done.returncode == code, done.stderr
    lines = [line for line in errors(done) if " got SIG" not in line]
    assert len(lines) == 1, done.stderr
    (line,) = lines
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (poison("one_hot", 400), ["sample 95: table 't1': row id 400 is outside [0, 400)"]),
        (poison("dense", np.nan), ["sample 95: dense feature 'd1' is nan, but must be finite"]),
    ],
    ids=["id out of range", "NaN"],
)
def test_a_bad_sample_far_into_the_data_ends_training(
    dataset: Path, tmp_path: Path, damage: Damage, parts: list[str]
) -> None:
    damage(dataset)
    args = command(dataset, tmp_path / "run", "training.batch_size=10", "lookahead.window=10")
    assert_fails(args, "oracle (rank 0) on host ", LAST_SHARD, *parts, "make the data set again")
    assert (tmp_path / "run" / "metrics.jsonl").read_text(), "it was to be found while training"
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_cache_too_small_ends_the_job(small_dataset: Path, tmp_path: Path) -> None:
    args = command(small_dataset, tmp_path / "run", "cache.rows=50")
    said = "oracle (rank 0) on host ", "1 trainers x cache.rows 50 are 50", "raise cache.rows, or lower"
    assert_fails(args, *said, code=EXIT_INVALID)


def test_a_run_that_diverges_ends(small_dataset: Path, tmp_path: Path) -> None:
    """Also where nothing but the last update shows it; all ranks end in good order, and one of them says why."""
    rows, dense = (f"model.factory={own_models.__name__}:explosive{of}" for of in ("_rows", ""))
    last, without = ("training.iterations=1", "evaluation.enabled=false"), "checkpoint.enabled=false"
    expected = (
        ((), "the loss is "),
        ((rows, *last), " is not finite after 1 iterations"),
        ((dense, *last), "the dense parameter bias is not finite after 1 iterations"),
        ((rows, *last, without), " is not finite after 1 iterations"),
        ((dense, *last, without), "the dense parameter bias is not finite after 1 iterations"),
        (("training.iterations=2", without), "the prediction for sample 0 of the validation split is "),
    )
    diverging = ["training.batch_size=20", "training.learning_rate=1e6"]
    jobs = [{"set": [*diverging, *settings]} for settings, _ in expected]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    program = str(Path(__file__).parent / "programs" / "train_many.py")
    done = run_ranks(4, [program, str(small_dataset), str(tmp_path), str(tmp_path / "jobs.json")], timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "codes.json").read_text()) == [EXIT_DIVERGED] * len(expected), done.stderr
    for line, (_, found) in zip(errors(done), expected, strict=True):
        assert found in line
        assert "training diverged; lower training.learning_rate" in line
    assert "note:" not in done.stderr
    for number in range(len(expected)):
        left = {str(path.relative_to(tmp_path / str(number))) for path in (tmp_path / str(number)).rglob("*")}
        assert not [
            path for path in left if path in ("DONE", "summary.json") or "iteration-" in path or "partial" in path
        ]


def test_a_disk_that_fills_up_ends_the_job(small_dataset: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2**20) as disk:
        run_dir = disk.path / "run"
        with start_ranks(3, long_job(small_dataset, run_dir)) as run:
            wait_for_training(run, run_dir)
            with (disk.path / "fill").open("wb", buffering=0) as file, suppress(OSError):
                while file.write(b"0" * 4096):
                    pass
            done = run.wait(START_SECONDS)
    assert done.returncode != 0
    (line,) = errors(done)
    assert f"{run_dir}/metrics.jsonl cannot be written" in line
    assert "No space left" in line


# Ranks that die


def long_job(dataset: Path, run_dir: Path) -> list[str]:
    return command(dataset, run_dir, "training.epochs=1000000", "training.batch_size=50")


@pytest.mark.parametrize(
    ("rank", "signum", "witness"),
    [
        (0, signal.SIGKILL, "server 0 (rank 1)"),
        (1, signal.SIGKILL, "oracle (rank 0)"),
        (2, signal.SIGKILL, "oracle (rank 0)"),
        (1, signal.SIGABRT, "oracle (rank 0)"),
    ],
    ids=["kill oracle", "kill server", "kill trainer", "abort server"],
)
def test_a_rank_that_dies_ends_all_ranks(
    small_dataset: Path, tmp_path: Path, rank: int, signum: int, witness: str
) -> None:
    with start_ranks(4, long_job(small_dataset, tmp_path / "run")) as run:
        wait_for_training(run, tmp_path / "run")
        run.kill_rank(rank, signum)
        done = run.wait(END_SECONDS)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    if open_mpi_version() is None:  # MPICH kills the others too: only it can tell
        assert f"RUNNING AT {socket.gethostname()}" in done.stdout
        return
    assert f"bagpipe: note: {witness} on host " in done.stderr
    assert " got SIG" in done.stderr
    assert "lower cache.rows or training.batch_size, or use more nodes" in done.stderr


def test_ctrl_c_ends_all_ranks(small_dataset: Path, tmp_path: Path) -> None:
    with start_ranks(4, long_job(small_dataset, tmp_path / "run")) as run:
        wait_for_training(run, tmp_path / "run")
        run.process.send_signal(signal.SIGINT)
        done = run.wait(END_SECONDS)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_a_library_missing_on_one_rank_ends_all_ranks(small_dataset: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from mpi4py import MPI; sys.modules.update({'yaml': None} if MPI.COMM_WORLD.rank == 2 else {}); "
        f"sys.argv = ['bagpipe', 'train', '--data', {str(small_dataset)!r}, '--run-dir', {str(tmp_path / 'run')!r}]; "
        "from bagpipe_hpc.cli.main import main; main()"
    )
    done = run_ranks(3, ["-c", program], timeout=START_SECONDS)
    assert done.returncode != 0
    assert "bagpipe: error: rank 2 on host " in done.stderr
    assert "yaml" in done.stderr


def test_a_failed_run_leaves_no_summary_of_an_earlier_one(small_dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "summary.json").write_text("{}")
    done = run_ranks(3, command(small_dataset, run_dir, "training.learning_rate=1e6"), timeout=START_SECONDS)
    assert done.returncode != 0
    assert not (run_dir / "summary.json").exists()


def test_one_table_alone_is_refused(tmp_path: Path) -> None:
    schema = Schema(dense=(), tables=(TableSchema(name="only", num_embeddings=10),))
    with DatasetWriter(tmp_path / "one", schema) as writer:
        ids = np.zeros((5, 1), dtype=np.int64)
        writer.append("train", Batch(np.zeros(5, np.float32), np.zeros((5, 0), np.float32), ids, {}))
    assert_refused(command(tmp_path / "one", tmp_path / "run"), "one table", "add a feature")


def test_model_sizes_must_be_positive(small_dataset: Path, tmp_path: Path) -> None:
    assert_refused(command(small_dataset, tmp_path / "run", "model.bottom_mlp=[0]"), "model.bottom_mlp.0 = 0")
