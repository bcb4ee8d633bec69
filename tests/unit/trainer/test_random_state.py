"""Random numbers after a restart are those that would have come."""

from __future__ import annotations

import torch

from bagpipe_hpc.trainer.device.cpu import CpuDevice
from bagpipe_hpc.trainer.random_state import keep_random_state, restore_random_state


def test_numbers_go_on_where_they_were_kept() -> None:
    device = CpuDevice()
    states = keep_random_state(device)
    expected = torch.rand(5)
    torch.rand(3)
    restore_random_state(device, states)
    assert torch.equal(torch.rand(5), expected)
