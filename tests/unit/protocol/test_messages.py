"""Messages to the oracle are the same after they have travelled, and what is none is refused."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.errors import ProtocolError
from bagpipe_hpc.protocol.messages import (
    FilesSaved,
    Loss,
    Message,
    Predictions,
    RankFigures,
    SavedFile,
    StopRequest,
    decode_message,
    encode_message,
)

FILES = (SavedFile("server-0.h5", 7, "ab" * 32), SavedFile("dense.h5", 2**40, "cd" * 32))


@pytest.mark.parametrize(
    "message",
    [
        Loss(2**40, 0.1, 2**33),
        FilesSaved(3, FILES, 12, 0.25),
        FilesSaved(3, (), 0, 0.0, "row 3 of table 'site' is not finite"),
        StopRequest("server 0 got SIGTERM"),
        StopRequest(""),
        RankFigures(2**31, {"trainer": 0, "seconds": 0.1, "seconds_by_cause": {"compute": 0.05}, "rows": [1, 2]}),
    ],
)
def test_messages_travel(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(trainer=st.integers(0, 2**31), logits=st.lists(st.floats(width=32), max_size=9))
def test_predictions_travel_bit_by_bit(trainer: int, logits: list[float]) -> None:
    sent = Predictions(trainer, np.array(logits, dtype=np.float32))
    arrived = decode_message(encode_message(sent))
    assert isinstance(arrived, Predictions)
    assert (arrived.trainer, arrived.logits.tobytes()) == (trainer, sent.logits.tobytes())


def test_a_loss_need_not_be_finite() -> None:
    arrived = decode_message(encode_message(Loss(1, math.nan, 2)))
    assert isinstance(arrived, Loss)
    assert math.isnan(arrived.loss)


@given(st.binary(max_size=60))
def test_bytes_are_a_message_or_refused(content: bytes) -> None:
    with suppress(ProtocolError):
        decode_message(content)


@pytest.mark.parametrize("message", [Loss(1, 0.5, 2), FilesSaved(3, FILES, 12, 0.25)])
def test_a_message_that_is_cut_off_is_refused(message: Message) -> None:
    with pytest.raises(ProtocolError, match="damaged"):
        decode_message(encode_message(message)[:-1])


def test_another_version_is_named_as_a_cause() -> None:
    with pytest.raises(ProtocolError, match="do all ranks run the same bagpipe_hpc"):
        decode_message(bytes([77]) + bytes(7))
