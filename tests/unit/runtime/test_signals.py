"""What a rank does about signals."""

from __future__ import annotations

import signal

from bagpipe_hpc.early_signals import GRACEFUL, REPEAT_SECONDS
from bagpipe_hpc.runtime.signals import _SignalHandler, listening_for_signals


def test_one_signal_stops_and_another_one_later_ends() -> None:
    """Launchers and batch systems may both pass on the same one."""
    reasons: list[str] = []
    ended: list[signal.Signals] = []
    now = 0.0
    hearing = _SignalHandler(reasons.append, "server 0", prints=False, end_at_once=ended.append, clock=lambda: now)
    hearing.take(signal.SIGHUP)
    now = 0.9
    hearing.take(signal.SIGTERM)
    assert (reasons, ended) == (["server 0 got SIGHUP"], [])
    now = REPEAT_SECONDS
    hearing.take(signal.SIGINT)
    assert (len(reasons), ended) == (1, [signal.SIGINT])


def test_what_the_user_has_set_to_be_ignored_is_ignored() -> None:
    before = {signum: signal.getsignal(signum) for signum in GRACEFUL}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        reasons: list[str] = []
        with listening_for_signals(reasons.append, "server 0", prints=False):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert reasons == ["server 0 got SIGTERM"]
    finally:
        signal.signal(signal.SIGHUP, before[signal.SIGHUP])
    assert {signum: signal.getsignal(signum) for signum in GRACEFUL} == before
