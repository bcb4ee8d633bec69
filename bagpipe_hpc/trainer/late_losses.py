"""Losses on their way to the oracle. Where the device computes behind the host, each is read one iteration later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bagpipe_hpc.protocol.messages import Loss


class LateLosses:
    """Sends the losses of training iterations in their order.

    Args:
        send: Sends a message to the oracle.
        lag: How many iterations later a loss is read.
    """

    def __init__(self, send: Callable[[Loss], None], lag: int) -> None:
        self._send, self._lag = send, lag
        self._waiting: deque[tuple[int, Callable[[], float], int]] = deque()

    def add(self, num_trained: int, loss: Callable[[], float], num_samples: int) -> None:
        """Take the loss of an iteration, and send those that are old enough.

        Args:
            num_trained: Training iterations up to and including this one.
            loss: Returns the loss. It may wait for the device.
            num_samples: The number of samples of the global batch.
        """
        self._waiting.append((num_trained, loss, num_samples))
        self._send_all_but(self._lag)

    def flush(self) -> None:
        """Send all losses, so that no message about a later event overtakes one."""
        self._send_all_but(0)

    def _send_all_but(self, number: int) -> None:
        while len(self._waiting) > number:
            num_trained, loss, num_samples = self._waiting.popleft()
            self._send(Loss(num_trained, loss(), num_samples))
