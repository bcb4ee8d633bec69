"""Options, cells and the settings of jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bagpipe_hpc.bench.gpu.case import CPU_CASE, Cell, GpuCase, case_of, model_config, numbers_of
from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError


def test_the_target_comes_first_and_the_largest_last() -> None:
    cells = GpuCase().cells
    assert len(cells) == 9
    assert cells[0] == Cell(16_384, 48)
    assert cells[-1] in (Cell(65_536, 16), Cell(4_096, 16))


def test_defaults_depend_on_the_device() -> None:
    assert case_of({"dims": None}, on_gpu=True) == GpuCase()
    assert case_of({"dims": (8,)}, on_gpu=False).batch_sizes == CPU_CASE.batch_sizes
    assert case_of({"dims": (8,)}, on_gpu=False).dims == (8,)


@pytest.mark.parametrize("window", [4, 10, 16])
def test_the_data_set_is_longer_than_a_window(window: int) -> None:
    case = GpuCase(batch_sizes=(100, 200), window=window)
    assert (window + 4) * 200 < case.num_samples <= 1.25 * (window + 4) * 200


def test_settings_are_valid_and_leave_caches_time_to_fill_and_to_empty() -> None:
    case = GpuCase(batch_sizes=(64,), dims=(8,), window=8, iterations=5)
    config = load_config(None, case.settings(Cell(64, 8), 2, 1000))
    assert config.training.iterations is not None
    assert case.begin > config.lookahead.window + config.lookahead.prefetch_depth
    assert case.end - case.begin == 5
    assert config.training.iterations == case.end + config.lookahead.window
    assert (config.cache.rows, config.dense.backend) == (1000, "mpi")
    assert load_config(None, case.settings(Cell(64, 8), 1, 1000)).dense.backend is None
    assert config.model == model_config(Cell(64, 8)).model


def test_options_survive_a_message() -> None:
    case = GpuCase(dims=(8,), scale=0.5)
    assert GpuCase.of_json(json.loads(json.dumps(case.to_json()))) == case


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": ()}, "--dims is ''"),
        ({"batch_sizes": (4, 4)}, "--batch-sizes is '4,4'; give different numbers"),
        ({"trainers": (0,)}, "--trainers is '0'"),
        ({"repeats": 0}, "--repeats is 0; give 1 or more"),
        ({"window": 3}, "--window is 3; give 4 or more"),
        ({"scale": 0.0}, "--scale is 0"),
        ({"minutes": float("nan")}, "--minutes is nan"),
        ({"batch_sizes": (1,)}, "at least one sample for each trainer"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GpuCase(**options)


def test_lists_of_numbers() -> None:
    assert numbers_of("--dims", None) is None
    assert numbers_of("--dims", "16, 4_096") == (16, 4096)
    with pytest.raises(ConfigError, match=r"--dims is '1,x'; give whole numbers"):
        numbers_of("--dims", "1,x")
