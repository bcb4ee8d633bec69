"""The case, the figures and the table of `bench ids`."""

from __future__ import annotations

import math

import pytest
from rich.console import Console

from bagpipe_hpc.bench.dynamic_ids import DynamicIdsCase, dynamic_ids_table, measure_dynamic_ids, to_json
from bagpipe_hpc.errors import ConfigError


@pytest.mark.parametrize("skew", [0.0, 1.1])
def test_every_number_of_ids_is_measured(skew: float) -> None:
    case = DynamicIdsCase((100, 1_500), batch=64, rounds=2, skew=skew)
    figures = measure_dynamic_ids(case)
    assert [each.num_ids for each in figures] == [100, 1_500]
    for each in to_json(figures):
        assert min(each["looked_up"], each["used"], each["born"]) > 0
        assert math.isnan(each["bytes_per_id"])
    console = Console(width=140, record=True)
    console.print(dynamic_ids_table(figures, case))
    assert "1,500" in console.export_text()


@pytest.mark.parametrize("sizes", [(), (0,), (10, 10), (20, 10), (2**31,)])
def test_numbers_of_ids_are_checked(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="--ids needs ascending numbers from 1 to"):
        DynamicIdsCase(sizes)


def test_the_batch_is_checked() -> None:
    with pytest.raises(ConfigError, match="--batch is 0, but must be at least 1"):
        DynamicIdsCase((10,), batch=0)
    with pytest.raises(ConfigError, match="--skew is -1, but must be from 0 to 5"):
        DynamicIdsCase((10,), skew=-1)
