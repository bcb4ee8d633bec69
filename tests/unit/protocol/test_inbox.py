"""What outboxes send comes out of the inbox, in order."""

from __future__ import annotations

import threading

from bagpipe_hpc.protocol.inbox import Inbox, Outbox
from bagpipe_hpc.protocol.messages import FilesSaved, Loss, Message, StopRequest
from bagpipe_hpc.transport.memory_comm import MemoryComm
from bagpipe_hpc.transport.ports import CommMailbox


def mailbox_in_memory() -> CommMailbox:
    """A mailbox that the threads of one process share."""
    (alone,) = MemoryComm.world(1)
    return CommMailbox(alone)  # type: ignore[arg-type]


def test_messages_of_all_ranks_come_in_the_order_of_arrival() -> None:
    mailbox = mailbox_in_memory()
    inbox, server, trainer = Inbox(mailbox), Outbox(mailbox), Outbox(mailbox)
    sent: list[Message] = [Loss(1, 0.5, 8), FilesSaved(1, (), 0, 0.0), Loss(2, 0.25, 8), StopRequest("told to")]
    for message, outbox in zip(sent, [trainer, server, trainer, server], strict=True):
        outbox.send(message)
    assert list(inbox.poll()) == sent
    assert list(inbox.poll()) == []


def test_threads_of_the_oracle_may_ask_it_to_stop() -> None:
    inbox = Inbox(mailbox_in_memory())
    thread = threading.Thread(target=inbox.send, args=[StopRequest("oracle got SIGTERM")])
    thread.start()
    thread.join()
    assert list(inbox.poll()) == [StopRequest("oracle got SIGTERM")]
