"""The way of messages to the oracle. Every rank has an outbox, and the oracle has the one inbox."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, SimpleQueue

from bagpipe_hpc.protocol.messages import Message, StopRequest, decode_message, encode_message
from bagpipe_hpc.protocol.ports import Mailbox


class Outbox:
    """Sends messages to the oracle, from any thread of a rank.

    Args:
        mailbox: Carries the messages.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    def send(self, message: Message) -> None:
        """Send a message. Communication: sends to the oracle, without waiting for it."""
        self._mailbox.send(encode_message(message))

    def finish(self) -> None:
        """Wait until all messages of this rank have left it. Communication: waits for the oracle."""
        self._mailbox.finish()


class Inbox:
    """The messages of all ranks, at the oracle.

    Args:
        mailbox: Carries the messages.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._own: SimpleQueue[StopRequest] = SimpleQueue()

    def send(self, message: StopRequest) -> None:
        """Put a message into the inbox. The oracle's own threads call this. Communication: none."""
        self._own.put(message)

    def poll(self) -> Iterator[Message]:
        """Yield the messages that have arrived. This never waits.

        Raises:
            ProtocolError: a message is damaged, or from another version of bagpipe_hpc.
        Communication: receives from all ranks.
        """
        while (content := self._mailbox.take()) is not None:
            yield decode_message(content)
        while True:
            try:
                message = self._own.get_nowait()
            except Empty:
                return
            yield message
