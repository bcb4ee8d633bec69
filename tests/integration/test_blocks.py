"""With `training.blocks`, one model to the bit on any number of trainers and servers, cached or synchronous."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.programs import own_models
from tests.integration.test_equality import train

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
