"""The command prints records; programs that have configured logging get them instead."""

from __future__ import annotations

import logging

import pytest

from bagpipe_hpc.log import LOGGER, is_printing, printing_records


def test_records_are_printed_inside_the_block_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with printing_records():
        assert is_printing()
        LOGGER.info("50%% of %s", "all")
        LOGGER.warning("a cache is small")
        with printing_records():
            LOGGER.info("once")
    assert not is_printing()
    LOGGER.info("unseen")
    assert capsys.readouterr().out == "50% of all\nbagpipe: note: a cache is small\nonce\n"


def test_a_program_that_has_configured_logging_gets_the_records(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER.name)  # pytest's own handler is what a program configures
    with printing_records(unless_configured=True):
        assert not is_printing()
        LOGGER.info("going on from %s", "here")
    assert capsys.readouterr().out == ""
    assert caplog.messages == ["going on from here"]


def test_a_program_without_handlers_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with printing_records(unless_configured=True):
        LOGGER.info("here")
    assert capsys.readouterr().out == "here\n"
