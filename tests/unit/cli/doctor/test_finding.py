"""Findings as bytes."""

from __future__ import annotations

from bagpipe_hpc.cli.doctor.finding import Finding, Status, decode, encode


def test_findings_survive_the_message() -> None:
    findings = [Finding("RMA", Status.WARN, "0.5 µs", "cure")]
    assert decode(encode(findings)) == findings
