"""The energy of a job is added up over hosts, and each counter counts once."""

from __future__ import annotations

from typing import Any

from bagpipe_hpc.oracle.energy import energy_of


def test_ranks_of_a_host_read_the_same_counters() -> None:
    readings: list[dict[str, Any]] = [
        {"host": "n1", "node": 100.0, "gpus": {}},
        {"host": "n1", "node": 90.0, "gpus": {"GPU-1": 30.0}},
        {"host": "n1", "node": 90.0, "gpus": {"GPU-2": 20.0}},
        {"host": "n2", "node": None, "gpus": {"GPU-3": 5.0}},
        {"host": "n2", "node": None, "gpus": {"GPU-3": 4.0}},
        {"host": "n3", "node": None, "gpus": {}},
        {},
    ]
    assert energy_of(readings) == {
        "joules": 155.0,
        "source": "RAPL + NVML",
        "hosts": {"n1": {"joules": 150.0, "source": "RAPL + NVML"}, "n2": {"joules": 5.0, "source": "NVML"}},
    }


def test_nothing_can_be_read() -> None:
    assert energy_of([{"host": "n1", "node": None, "gpus": {}}, {}]) is None
