"""A mailbox in memory, and the ports of ranks that are threads of a test."""

from __future__ import annotations

from collections import deque


class MemoryMailbox:
    """The port Mailbox; all ranks share one."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()

    def send(self, content: bytes) -> None:
        """See Mailbox."""
        self._messages.append(content)

    def take(self) -> bytes | None:
        """See Mailbox."""
        return self._messages.popleft() if self._messages else None

    def finish(self) -> None:
        """See Mailbox."""
