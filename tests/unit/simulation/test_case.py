"""What may be simulated, and what the messages about the rest say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.case import (
    DESIGNS,
    CacheSize,
    Case,
    parse_designs,
    parse_factors,
    parse_numbers,
    parse_sizes,
)
from bagpipe_hpc.simulation.network import Compute


def case(**changes: Any) -> Case:
    return Case(Path("data"), (), **changes)


def test_sizes() -> None:
    assert parse_sizes("--cache-rows", "50, 2.5%") == (CacheSize(50), CacheSize(share=0.025))
    assert [size.of(1000) for size in parse_sizes("--cache-rows", "50,2.5%,0.001%")] == [50, 25, 1]
    for wrong in ("0", "101%", "2.5", "x", "-1"):
        with pytest.raises(ConfigError, match=f"--cache-rows has '{wrong}'; write numbers of rows from 1 on"):
            parse_sizes("--cache-rows", wrong)
    with pytest.raises(ConfigError, match="is empty"):
        parse_sizes("--cache-rows", "")


def test_lists_of_numbers() -> None:
    assert parse_numbers("--trainers", "4, 1,4", 1) == (1, 4)
    assert parse_factors("--refresh", "1.5,2") == (1.5, 2.0)
    with pytest.raises(ConfigError, match="--trainers has '0'; write whole numbers from 1 on"):
        parse_numbers("--trainers", "0", 1)
    with pytest.raises(ConfigError, match="--staleness is empty"):
        parse_numbers("--staleness", "", 0)
    assert parse_designs("no-cache, lookahead") == ("lookahead", "no-cache")
    assert parse_designs("locality, lookahead") == ("lookahead", "locality")
    assert parse_designs("") == DESIGNS
    with pytest.raises(ConfigError, match="--designs has 'x'; allowed: lookahead, replicated"):
        parse_designs("x")
    with pytest.raises(ConfigError, match="--refresh is 'x'"):
        parse_factors("--refresh", "x")


def test_batches_and_servers() -> None:
    strong, weak = case(batch=2048, trainers_per_server=4), case(batch=16, is_weak=True)
    assert [strong.batch_size(8), weak.batch_size(8), strong.num_servers(5), strong.row_bytes] == [2048, 128, 2, 256]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "--batch is 0; at least 1"),
        ({"samples": 0}, "--samples is 0; at least 1"),
        ({"window": -1}, "--window is -1; at least 0"),
        ({"trainers_per_server": 0}, "--trainers-per-server is 0; at least 1"),
        ({"batch": 512}, "--trainers has 1,024, but a batch has 512 samples.*--scaling weak"),
        ({"refresh": (0.5,)}, "--refresh has 0.5; factors must lie between 1 and 1000"),
        ({"compute": Compute(0.0)}, "--compute-microseconds must be above 0"),
    ],
)
def test_numbers_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        case(**changes)
