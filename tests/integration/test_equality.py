"""The promise: cached, prefetched, sharded training gives the numbers of plain synchronous training, to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.config import ModelConfig
from tests.integration.plain_training import plain_digest
from tests.launch import run_ranks

PROGRAM = str(Path(__file__).parent / "programs" / "train_many.py")
EPOCHS, BATCH_SIZE = 3, 37  # 27 full batches and one of a single sample per epoch: some shares are empty
COMMON = [f"training.epochs={EPOCHS}", f"training.batch_size={BATCH_SIZE}", "training.learning_rate=0.5"]
COMMON += ["training.threads=1", "model.embedding_dim=8", "evaluation.batch_size=40"]
WINDOWS = [(1, 1), (8, 1), (8, 4), (64, 1), (64, 4)]  # (L, P); P = 4 does not fit into L = 1


def train(dataset: Path, out: Path, num_trainers: int, num_servers: int, runs: list[list[str]]) -> list[dict[str, Any]]:
    settings = out / "settings.json"
    settings.write_text(json.dumps([{"set": [*COMMON, f"roles.servers={num_servers}", *run]} for run in runs]))
    result = run_ranks(1 + num_servers + num_trainers, [PROGRAM, str(dataset), str(out), str(settings)], timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads((out / str(index) / "summary.json").read_text()) for index in range(len(runs))]


def expected_digest(dataset: Path, num_trainers: int, name: str) -> str:
    config = ModelConfig.model_validate({"name": name, "embedding_dim": 8})
    return plain_digest(dataset, num_trainers, EPOCHS, BATCH_SIZE, learning_rate=0.5, config=config)


@pytest.mark.parametrize("num_servers", [1, 2])
@pytest.mark.parametrize("num_trainers", [1, 2, 3])
def test_cached_equals_synchronous(small_dataset: Path, tmp_path: Path, num_trainers: int, num_servers: int) -> None:
    runs = [["mode=synchronous"]]
    runs += [[f"lookahead.window={window}", f"lookahead.prefetch_depth={depth}"] for window, depth in WINDOWS]
    runs += [["cache.rows=260", "lookahead.prefetch_depth=1"], ["transport=direct"]]
    if num_trainers < 3:  # with two, every backend makes the same single addition
        runs += [["dense.backend=mpi"]]
    synchronous, *others = train(small_dataset, tmp_path, num_trainers, num_servers, runs)
    for run, summary in zip(runs[1:], others, strict=True):
        assert summary["model_digest"] == synchronous["model_digest"], run
        assert summary["validation_auc"] == synchronous["validation_auc"], run
        assert summary["rows_touched"] == synchronous["rows_touched"], run
        assert summary["rows_fetched"] < synchronous["rows_fetched"], run
    assert synchronous["samples"] == EPOCHS * 1_000
    if num_servers == 1 and num_trainers < 3:
        assert synchronous["model_digest"] == expected_digest(small_dataset, num_trainers, "dlrm")


def test_models_with_other_rows(small_dataset: Path, tmp_path: Path) -> None:
    """Rows with a first-order weight, rows with two embeddings."""
    names = ["deepfm", "fgcnn"]
    summaries = train(small_dataset, tmp_path, 2, 1, [[f"model.name={name}"] for name in names])
    for name, summary in zip(names, summaries, strict=True):
        assert summary["model_digest"] == expected_digest(small_dataset, 2, name)


def test_locality_placement_is_the_same_cached_and_synchronous(small_dataset: Path, tmp_path: Path) -> None:
    locality = ["oracle.placement=locality"]
    runs = [
        [*locality, "mode=synchronous"],
        [*locality],
        [*locality, "lookahead.window=8", "lookahead.prefetch_depth=1", "cache.rows=260", "oracle.threads=1"],
        [*locality, "oracle.max_dense_keys=0", "oracle.threads=4"],
        [],
    ]
    synchronous, *others, contiguous = train(small_dataset, tmp_path, 3, 1, runs)
    for run, summary in zip(runs[1:], others, strict=False):
        assert summary["model_digest"] == synchronous["model_digest"], run
        assert summary["validation_auc"] == synchronous["validation_auc"], run
        assert summary["rows_pushed"] < contiguous["rows_pushed"], run


def test_16_bits_halve_the_exchange_and_depend_on_nothing_else(small_dataset: Path, tmp_path: Path) -> None:
    rounded = ["training.wire_dtype=float16"]
    runs = [
        [],
        [*rounded, "mode=synchronous"],
        rounded,
        rounded,
        [*rounded, "lookahead.window=8", "lookahead.prefetch_depth=1", "cache.rows=260"],
        [*rounded, "transport=direct", "lookahead.delayed_synchronisation=false"],
        ["training.wire_dtype=bfloat16"],
    ]
    exact, synchronous, *others, bfloat = train(small_dataset, tmp_path, 3, 1, runs)
    for run, summary in zip(runs[2:], others, strict=False):
        assert summary["model_digest"] == synchronous["model_digest"], run
        assert summary["validation_auc"] == synchronous["validation_auc"], run
    assert 2 * others[0]["bytes_exchanged"] == exact["bytes_exchanged"] == 2 * bfloat["bytes_exchanged"]
    assert others[0]["rows_pushed"] == exact["rows_pushed"]
    assert len({summary["model_digest"] for summary in (exact, synchronous, bfloat)}) == 3
    for summary in (synchronous, bfloat):
        assert abs(summary["validation_log_loss"] - exact["validation_log_loss"]) < 0.01


def test_a_small_cache_evicts_and_changes_nothing(small_dataset: Path, tmp_path: Path) -> None:
    runs = [["cache.rows=260", "lookahead.prefetch_depth=1"], ["lookahead.prefetch_depth=1"]]
    small, large = train(small_dataset, tmp_path, 1, 1, runs)
    assert small["rows_fetched"] > large["rows_fetched"]  # rows were evicted before their next use
    assert small["model_digest"] == large["model_digest"]


def test_digests_do_not_depend_on_the_number_of_servers(small_dataset: Path, tmp_path: Path) -> None:
    runs = [[], ["training.wire_dtype=float16"]]
    digests = set()
    for num_servers in (1, 3):
        out = tmp_path / str(num_servers)
        out.mkdir()
        digests |= {summary["model_digest"] for summary in train(small_dataset, out, 2, num_servers, runs)}
    assert len(digests) == len(runs)


def test_run_directory(small_dataset: Path, tmp_path: Path) -> None:
    (summary,) = train(small_dataset, tmp_path, 1, 1, [["training.seed=5"]])
    run = tmp_path / "0"
    assert "seed: 5" in (run / "config.yaml").read_text()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["iteration"] == summary["iterations"] == 84
    assert lines[-1]["loss"] == summary["loss"]
    assert len(summary["model_digest"]) == 64
