"""What models ask about the place of their tensors."""

from __future__ import annotations

import torch

from bagpipe_hpc.trainer.device.placement import Precision, is_in_host_memory


def test_is_in_host_memory() -> None:
    assert is_in_host_memory(torch.zeros(1))
    assert not is_in_host_memory(torch.zeros(1, device="meta"))


def test_a_precision_can_be_had_again() -> None:
    values = torch.ones(2, 2)
    whole = Precision(values)
    with torch.autocast("cpu", torch.bfloat16):
        half = Precision(values)
        with whole.again():
            assert (values @ values).dtype == torch.float32
    with half.again():
        assert (values @ values).dtype == torch.bfloat16
    assert (values @ values).dtype == torch.float32
