"""Counters of interfaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.bench.peers.network import bytes_between, interface_towards, sent_bytes


def test_loopback_and_ports_of_bonds_do_not_count(tmp_path: Path) -> None:
    for name, sent in {"lo": 1, "e0": 10, "bond0": 100, "e1": 100}.items():
        (tmp_path / name / "statistics").mkdir(parents=True)
        (tmp_path / name / "statistics" / "tx_bytes").write_text(f"{sent}\n")
    (tmp_path / "e1" / "master").mkdir()
    assert sent_bytes(tmp_path) == 110


@pytest.mark.parametrize(("begin", "end", "sent"), [(1.0, 2.0, 10), (1.5, 3.0, 25), (0.0, 9.0, 30)])
def test_bytes_between_samples_lie_on_a_line(begin: float, end: float, sent: float) -> None:
    assert bytes_between([(1.0, 0), (2.0, 10), (3.0, 30)], begin, end) == sent


def test_the_loopback_leads_to_its_own_address() -> None:
    assert interface_towards("127.0.0.1") == "lo"
