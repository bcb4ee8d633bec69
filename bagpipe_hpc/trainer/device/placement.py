"""What a model may ask about the place of its tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import partial

import torch


def is_in_host_memory(tensor: torch.Tensor) -> bool:
    """Return whether the host can read a tensor without waiting for a device."""
    return tensor.device.type == "cpu"


class Precision:
    """The precision in which torch computes now on the device of a tensor, to compute in it again later.

    `again` returns the context in which torch does so.

    Args:
        tensor: A tensor on the device.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        kind = tensor.device.type
        self._context = partial(
            torch.autocast, kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind), cache_enabled=False
        )

    def again(self) -> AbstractContextManager[object]:
        """Return a new context. Inside it, torch computes in the precision of then."""
        return self._context()
