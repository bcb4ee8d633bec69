"""Whole jobs on a GPU: cached and synchronous jobs end with the same bits, and with almost those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.trainer.device.cuda import CudaDevice
from tests.integration.conftest import make_dataset
from tests.integration.jobs import summary_of
from tests.launch import run_ranks

PROGRAM = str(Path(__file__).parents[1] / "integration" / "programs" / "train_many.py")
COMMON = ["training.epochs=2", "training.batch_size=37", "training.learning_rate=0.5", "training.threads=1"]
COMMON += ["model.embedding_dim=8", "evaluation.batch_size=40", "dense.backend=mpi"]


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
    jobs: list[dict[str, Any]] = [{"set": [*COMMON, *settings], "run": name} for name, settings in runs.items()]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    done = run_ranks(2 + num_trainers, [PROGRAM, str(data), str(tmp_path), str(tmp_path / "jobs.json")], timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    summaries = {name: summary_of(tmp_path / name) for name in runs}
    for name in ("cached", "resident", "again", "through the host"):
        assert summaries[name]["model_digest"] == summaries["synchronous"]["model_digest"], name
        assert summaries[name]["devices"] == summaries["synchronous"]["devices"] != ["cpu"]
    print(f"exchange: {summaries['resident']['exchange']}")
    assert summaries["through the host"]["exchange"] == ("host" if num_trainers > 1 else "none")
    assert summaries["cpu"]["validation_auc"] == pytest.approx(summaries["cached"]["validation_auc"], abs=0.02)
