"""Durations, and how long a job may run."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.launch.time_limit import parse_time_limit, seconds_left


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("2:30", 150),
        ("1:00:00", 3600),
        ("1-02", 93600),
        ("1-02:03", 93780),
        ("1-02:03:04", 93784),
        (" 10 ", 600),
        ("90s", 90),
        ("1.5 s", 1.5),
        ("30min", 1800),
        ("2h", 7200),
        ("1d", 86400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "-5", "1.5", "0s", "1 week", "1:2:3:4", "00:00", "nan", "1-", "9" * 400, "1:" + "9" * 400, "٣"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="Give it as Slurm does: minutes"):
        parse_time_limit(text)


def test_the_batch_system_sets_the_budget() -> None:
    assert seconds_left(None, {"SLURM_JOB_END_TIME": "1600"}, now=1000.0) == 600.0
    assert seconds_left(None, {"SLURM_JOB_END_TIME": "900"}, now=1000.0) == 0.0
    assert seconds_left("30s", {"SLURM_JOB_END_TIME": "1600"}, now=1000.0) == 30.0
    assert seconds_left(None, {}, now=1000.0) is None
    assert seconds_left(None, {"SLURM_JOB_END_TIME": "soon"}, now=1000.0) is None


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"time_limit = 5 is not text: .*'30' for 30 minutes"):
        seconds_left(5, {}, now=0.0)  # type: ignore[arg-type]
