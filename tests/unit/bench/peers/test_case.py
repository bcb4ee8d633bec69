"""Options of the comparison, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.bench.peers.case import PeersCase
from bagpipe_hpc.bench.peers.systems import SYSTEMS, Crew, why_absent
from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError, TopologyError
from tests.unit.conftest import MakeBatch, WriteDataset


def test_a_case_survives_its_way_through_json() -> None:
    case = PeersCase(Path("clicks"), 4, batch_size=64)
    assert PeersCase.of_json(case.to_json()) == case


@pytest.mark.parametrize("system", [each for each in SYSTEMS if each.crew is Crew.RANKS], ids=lambda each: each.name)
def test_the_settings_of_own_systems_are_valid(system: Any) -> None:
    case = PeersCase(Path("clicks"), 4, warm_up=2, iterations=3)
    config = load_config(None, case.settings(system.settings))
    assert (config.training.iterations, config.model) == (9, case.config().model)


def test_caches_fill_before_the_timed_iterations_and_empty_after_them() -> None:
    case = PeersCase(Path("clicks"), 4, warm_up=2, iterations=3, margin=20)
    assert (case.own_warm_up, case.num_trained, case.num_own_batches - case.num_batches) == (20, 5, 34)
    assert load_config(None, case.settings()).training.iterations == case.num_own_batches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "--repeats is 0; give 1 or more"),
        ({"num_ranks": 5, "batch_size": 64}, "give a multiple of 3"),
        ({"num_ranks": 2}, "leave no trainer"),
        ({"warm_up": 4, "margin": 3}, "--margin is 3, but --warm-up is 4; give 0, or at least as many"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, TopologyError), match=message):
        PeersCase(**{"data": Path("clicks"), "num_ranks": 4, **options})


def test_ragged_features_are_refused(
    tmp_path: Path, make_batch: MakeBatch, write_dataset: WriteDataset, schema: Any
) -> None:
    dataset = write_dataset(tmp_path / "ragged", [make_batch(schema, 4)])
    with pytest.raises(ConfigError, match="give a data set of one-hot features"):
        PeersCase(dataset.path, 4, batch_size=2).check_samples(dataset)


def test_systems_that_cannot_run_say_why() -> None:
    by_name = {system.name: system for system in SYSTEMS}
    assert "2 hosts" in str(why_absent(by_name["plain"], 2))
    assert "pip install --no-deps" in str(why_absent(by_name["torchrec-row"], 1, lambda _: None))
    assert why_absent(by_name["torchrec-row"], 1, lambda _: True) is None
    assert why_absent(by_name["contiguous"], 9, lambda _: None) is None
