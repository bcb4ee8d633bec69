"""Whole jobs on a GPU: cached and synchronous jobs end with the same bits, and with almost those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.trainer.device.cuda import CudaDevice
from bagpipe_hpc.trainer.execution_fault import fault_of_execution
from tests.integration.conftest import make_dataset
from tests.integration.jobs import summary_of
from tests.integration.programs import own_models
from tests.launch import run_ranks

PROGRAM = str(Path(__file__).parents[1] / "integration" / "programs" / "train_many.py")
COMMON = ["training.epochs=2", "training.batch_size=37", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", "evaluation.batch_size=40", "dense.backend=mpi"]


def play(data: Path, out: Path, num_trainers: int, runs: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Play jobs; returns their summaries."""
    jobs: list[dict[str, Any]] = [{"set": [*COMMON, *settings], "run": name} for name, settings in runs.items()]
    (out / "jobs.json").write_text(json.dumps(jobs))
    done = run_ranks(2 + num_trainers, [PROGRAM, str(data), str(out), str(out / "jobs.json")], timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: summary_of(out / name) for name in runs}


@pytest.mark.parametrize("num_trainers", [1, 2])
def test_cached_equals_synchronous(gpu: CudaDevice, tmp_path: Path, num_trainers: int) -> None:
    """Several trainers share the GPU if there is only one."""
    data = make_dataset(tmp_path / "data")
    on_gpu = ["training.device=gpu"]
    runs: dict[str, list[str]] = {
        "synchronous": [*on_gpu, "mode=synchronous"],
        "cached": [*on_gpu, "lookahead.window=8", "lookahead.prefetch_depth=2", "cache.rows=400"],
        "resident": [*on_gpu, "lookahead.window=64", "lookahead.prefetch_depth=4"],
        "again": [*on_gpu, "lookahead.window=64", "lookahead.prefetch_depth=4", "checkpoint.every=9"],
        "through the host": [*on_gpu, "lookahead.window=64", "lookahead.prefetch_depth=4", "training.exchange=host"],
        "cpu": ["training.device=cpu"],
    }
    summaries = play(data, tmp_path, num_trainers, runs)
    for name in ("cached", "resident", "again", "through the host"):
        assert summaries[name]["model_digest"] == summaries["synchronous"]["model_digest"], name
        assert summaries[name]["devices"] == summaries["synchronous"]["devices"] != ["cpu"]
    print(f"exchange: {summaries['resident']['exchange']}")
    assert summaries["through the host"]["exchange"] == ("host" if num_trainers > 1 else "none")
    assert summaries["cpu"]["validation_auc"] == pytest.approx(summaries["cached"]["validation_auc"], abs=0.02)


SYNCHRONOUS, CACHED = ["mode=synchronous"], ["lookahead.window=8", "lookahead.prefetch_depth=2", "cache.rows=400"]


@pytest.mark.parametrize("num_trainers", [1, 2])
def test_graphs_give_the_digests_of_eager_execution(gpu: CudaDevice, tmp_path: Path, num_trainers: int) -> None:
    """With dropout, in bfloat16 and in blocks too."""
    data = make_dataset(tmp_path / "data")
    kinds = {
        "plain": [],
        "bfloat16": ["training.precision=bfloat16"],
        "dropout": [f"model.factory={own_models.__name__}:noisy"],
        "dropout in blocks": [f"model.factory={own_models.__name__}:noisy", "training.blocks=8"],
    }
    ways = {"eager": SYNCHRONOUS, "graph": CACHED}
    runs = {
        f"{kind}-{way}": ["training.device=gpu", f"training.execution={way}", *settings, *mode]
        for kind, settings in kinds.items()
        for way, mode in ways.items()
    }
    summaries = play(data, tmp_path, num_trainers, runs)
    for kind in kinds:
        eager, graph = (summaries[f"{kind}-{way}"]["model_digest"] for way in ways)
        assert graph == eager, kind


def test_compiled_jobs_are_equal_to_each_other(gpu: CudaDevice, tmp_path: Path) -> None:
    if fault := fault_of_execution("compiled", has_gpu=True):
        pytest.skip(fault)
    data = make_dataset(tmp_path / "data")
    compiled = ["training.device=gpu", "training.execution=compiled"]
    runs = {"synchronous": [*compiled, *SYNCHRONOUS], "cached": [*compiled, *CACHED], "eager": ["training.device=gpu"]}
    summaries = play(data, tmp_path, 2, runs)
    assert summaries["cached"]["model_digest"] == summaries["synchronous"]["model_digest"]
    auc = summaries["eager"]["validation_auc"]
    assert summaries["cached"]["validation_auc"] == pytest.approx(auc, abs=0.02)
