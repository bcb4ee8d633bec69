"""With `training.blocks`, one model to the bit on any number of trainers and servers, cached or synchronous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.jobs import command, summary_of
from tests.integration.programs import own_models
from tests.integration.test_equality import train
from tests.integration.test_restart import finish_all, job, losses
from tests.launch import run_ranks

BLOCKS = "training.blocks=8"
KINDS = {
    "DLRM, Adagrad, locality": ["row_optimizer.name=adagrad", "oracle.placement=locality"],
    "DeepFM, Adam, shuffled": ["model.name=deepfm", "row_optimizer.name=adam", "training.shuffle_block=64"],
    "own model with dropout": [f"model.factory={own_models.__name__}:noisy", "dense_optimizer.clip_norm=0.1"],
}
SETTINGS = ["training.epochs=1", BLOCKS, "evaluation.every=20", "lookahead.window=8", "lookahead.prefetch_depth=2"]


def digests(dataset: Path, out: Path, num_trainers: int, num_servers: int, modes: list[str]) -> list[Any]:
    out.mkdir()
    runs = [[*SETTINGS, *kind, f"mode={mode}"] for mode in modes for kind in KINDS.values()]
    summaries = train(dataset, out, num_trainers, num_servers, runs)
    return [(summary["model_digest"], summary["validation_auc"]) for summary in summaries]


@pytest.fixture(scope="module")
def expected(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The digests and AUCs of one trainer, synchronous."""
    found = digests(small_dataset, tmp_path_factory.mktemp("blocks") / "one", 1, 1, ["synchronous"])
    assert len({digest for digest, _ in found}) == len(KINDS)
    return found


@pytest.mark.parametrize(("num_trainers", "num_servers"), [(1, 3), (2, 1), (4, 3), (8, 1)])
def test_one_model_on_any_number_of_trainers(
    small_dataset: Path, tmp_path: Path, expected: list[Any], num_trainers: int, num_servers: int
) -> None:
    modes = ["cached", "synchronous"] if num_trainers < 8 else ["cached"]
    found = digests(small_dataset, tmp_path / "many", num_trainers, num_servers, modes)
    assert found == expected * len(modes)


def test_a_job_that_loses_trainers_and_gets_them_back_ends_with_the_same_model(
    small_dataset: Path, tmp_path: Path
) -> None:
    """Every start has another number of trainers and of servers."""
    settings = [BLOCKS, *KINDS["DLRM, Adagrad, locality"], "training.shuffle_block=64", "checkpoint.every=10"]
    settings += ["checkpoint.keep_last=9", "evaluation.every=15"]
    starts = [(4, 1, 20), (1, 3, 35), (2, 1, 60)]
    latest: Path | None = None
    for number, (num_trainers, num_servers, end) in enumerate(starts):
        start = [*settings, f"roles.servers={num_servers}", f"training.iterations={end}"]
        run = f"start {number}"
        finish_all(1 + num_servers + num_trainers, small_dataset, tmp_path, [job(*start, run=run, resume=latest)])
        latest = tmp_path / run / "checkpoints"
    finish_all(4, small_dataset, tmp_path, [job(*settings, "training.iterations=60", run="undisturbed")])
    expected = summary_of(tmp_path / "undisturbed")
    found = summary_of(tmp_path / run)
    for name in ("model_digest", "validation_auc", "validation_log_loss"):
        assert found[name] == expected[name], name
    assert losses(tmp_path, run) == losses(tmp_path, "undisturbed")


@pytest.mark.parametrize(
    ("num_ranks", "setting", "message"),
    [
        (5, "training.blocks=8", "it may be 1, 2, 4, 8, but this job has 3 trainers"),
        (4, "training.blocks=6", "training.blocks is 6; give a power of two, such as 4 or 8"),
        (4, "dense.backend=horovod", "set dense.backend to mpi or leave it out"),
        (4, "training.wire_dtype=float16", "what is rounded between trainers depends on their number"),
    ],
)
def test_what_contradicts_blocks_is_refused(
    small_dataset: Path, tmp_path: Path, num_ranks: int, setting: str, message: str
) -> None:
    arguments = command(small_dataset, tmp_path / "run", BLOCKS, setting)
    done = run_ranks(num_ranks, arguments, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
