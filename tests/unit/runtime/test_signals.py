"""Durations, and when a budget of time is spent."""

from __future__ import annotations

import signal

import pytest

from bagpipe_hpc.early_signals import GRACEFUL, REPEAT_SECONDS
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.runtime.signals import (
    Budget,
    _Hearing,
    listening_for_signals,
    parse_time_limit,
    seconds_left,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("2:30", 150), ("1:00:00", 3600), ("1-02:03:04", 93784), (" 10 ", 10)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_time_limit(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "1h", "1:2:3:4", "00:00", "nan"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ConfigError, match="give seconds"):
        parse_time_limit(text)


def test_the_batch_system_sets_the_budget() -> None:
    assert seconds_left(None, {"SLURM_JOB_END_TIME": "1600"}, now=1000.0) == 600.0
    assert seconds_left(None, {"SLURM_JOB_END_TIME": "900"}, now=1000.0) == 0.0
    assert seconds_left("30", {"SLURM_JOB_END_TIME": "1600"}, now=1000.0) == 30.0
    assert seconds_left(None, {}, now=1000.0) is None
    assert seconds_left(None, {"SLURM_JOB_END_TIME": "soon"}, now=1000.0) is None


def test_a_budget_leaves_time_for_a_checkpoint() -> None:
    budget = Budget(1000.0, start=50.0)
    assert not budget.is_spent(1030.0, iteration_seconds=0.1, write_seconds=0.0)
    assert budget.is_spent(1034.0, iteration_seconds=0.1, write_seconds=0.0)
    assert budget.is_spent(850.0, iteration_seconds=0.1, write_seconds=100.0)
    assert not budget.is_spent(549.0, iteration_seconds=0.1, write_seconds=1e6), "half of it is for training"
    assert not Budget(None, start=0.0).is_spent(1e9, 1.0, 1.0)


class Requests:
    """Takes what is sent to the oracle."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def send(self, reason: str) -> None:
        self.reasons.append(reason)


def test_one_signal_stops_and_another_one_later_ends() -> None:
    """Launchers and batch systems may both pass on the same one."""
    requests, now = Requests(), 0.0
    ended: list[signal.Signals] = []
    hearing = _Hearing(requests, "server 0", speaks=False, end_at_once=ended.append, clock=lambda: now)  # type: ignore[arg-type]
    hearing.take(signal.SIGHUP)
    now = 0.9
    hearing.take(signal.SIGTERM)
    assert (requests.reasons, ended) == (["server 0 got SIGHUP"], [])
    now = REPEAT_SECONDS
    hearing.take(signal.SIGINT)
    assert (len(requests.reasons), ended) == (1, [signal.SIGINT])


def test_what_the_user_has_set_to_be_ignored_is_ignored() -> None:
    before = {signum: signal.getsignal(signum) for signum in GRACEFUL}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        requests = Requests()
        with listening_for_signals(requests, "server 0", speaks=False):  # type: ignore[arg-type]
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert requests.reasons == ["server 0 got SIGTERM"]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {signum: signal.getsignal(signum) for signum in GRACEFUL} == before
