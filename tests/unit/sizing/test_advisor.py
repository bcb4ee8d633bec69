from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.network import Network
from bagpipe_hpc.sizing.advisor import Question, advise, read_batches, recommended_settings, render_line, settings_yaml
from tests.unit.conftest import SCHEMA, MakeBatch, WriteDataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_batch: MakeBatch, write_dataset: WriteDataset) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("plan") / "clicks", [make_batch(SCHEMA, 100)])


@pytest.fixture
def question(dataset: Dataset) -> Question:
    config = load_config(None, ["training.epochs=4", "model.embedding_dim=4"])
    network = Network("1Gbit", 125e6)
    return Question(dataset.path, config, (1, 2), (1,), (20,), (2, 4), (1,), network, compute=1e-3)


def ignore(phase: str, done: int, total: int) -> None: ...


def test_advice(question: Question) -> None:
    advice = advise(question, ignore)
    assert [(each.choice.num_trainers, each.choice.window) for each in advice.predictions] == [
        (1, 2),
        (1, 4),
        (2, 2),
        (2, 4),
    ]
    # Computing takes 20 ms with one trainer and 10 ms with two: everything else is faster.
    assert (advice.best.choice.num_trainers, advice.best.choice.window) == (2, 2)
    assert advice.best.cost.bottlenecks[0] == "computing"
    assert advice.notes == ["--compute 0.001 s per sample", "batches of 20 samples are only 20; the steady part of a "
                            "longer job may move fewer rows"]  # fmt: skip
    assert advice.caches[0].rows == advice.best.memory.cache_rows


def test_settings_and_job_script(question: Question) -> None:
    advice = advise(question, ignore)
    settings = recommended_settings(advice)
    shown = yaml.safe_load(settings_yaml(question, advice))
    assert shown["training"] == {"epochs": 4, "batch_size": 20}
    assert (shown["model"], shown["cache"]) == ({"embedding_dim": 4}, settings["cache"])
    config = load_config(shown, [])
    assert (config.lookahead.window, config.lookahead.prefetch_depth, config.roles.servers) == (2, 1, 1)
    rows = settings["cache"]["rows"]
    assert render_line(question, advice, Path("job.yaml")) == (
        f"bagpipe jobs render --nodes 2 --trainers-per-node 1 --gpus-per-node 0 --servers 1 --data {question.data} "
        "--config job.yaml --set training.batch_size=20 --set lookahead.window=2 --set lookahead.prefetch_depth=1 "
        f"--set cache.rows={rows}"
    )
    on_gpus = replace(question, gpu="a100", trainers_per_node=2)
    line = render_line(on_gpus, advice, None, ["model.name=dcn", "training.batch_size=7", "roles.servers=3"])
    assert "--nodes 1 --trainers-per-node 2 --gpus-per-node 2 --servers 1" in line
    assert f"--data {question.data} --set model.name=dcn --set training.batch_size=20 --set lookahead" in line


def test_gpus_are_estimated(question: Question) -> None:
    advice = advise(replace(question, compute=None, gpu="h100"), ignore)
    assert "estimate for h100" in advice.notes[0]


def test_batches_are_those_of_as_many_passes_as_the_job_makes(question: Question, dataset: Dataset) -> None:
    def sizes(*overrides: str, max_samples: int = 1000) -> list[int]:
        found = read_batches(dataset, load_config(None, list(overrides)), 40, max_samples)
        return [batch.num_samples for batch in found]

    assert sizes() == [40, 40, 20]
    assert sizes("training.epochs=2") == [40, 40, 20, 40, 40, 20]
    assert len(sizes("training.epochs=99")) == 30  # enough
    assert sizes("training.epochs=9", "training.iterations=4") == [40, 40, 20, 40]
    assert sizes(max_samples=50) == [40, 10]


def test_an_empty_or_huge_grid_is_refused(question: Question) -> None:
    with pytest.raises(ConfigError, match="the grid is empty: a prefetch depth must not be larger than the window"):
        advise(replace(question, prefetch_depths=(9,)), ignore)
    with pytest.raises(ConfigError, match="the grid has 802 choices; give fewer values, for 500 at most"):
        advise(replace(question, windows=tuple(range(1, 402))), ignore)


def test_a_model_that_does_not_fit_the_data_is_refused(question: Question) -> None:
    with pytest.raises(ConfigError, match="din"):
        advise(replace(question, config=load_config(None, ["model.name=din"])), ignore)
