"""What travels between trainers: exactly, or rounded to 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bagpipe_hpc.trainer.wire import Wire, WireDtype, gradient_scale

SIXTEEN_BITS: list[WireDtype] = ["float16", "bfloat16"]
TORCH_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def values() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))


def test_float32_travels_as_it_is() -> None:
    wire, exact = Wire("float32"), values()
    assert wire.pack(exact, 64.0) is exact
    assert wire.unpack(exact, 64.0) is exact
    assert wire.array_dtype.itemsize == 4


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_16_bits_round_to_nearest(name: WireDtype) -> None:
    wire, exact = Wire(name), values()
    packed = wire.pack(exact)
    assert packed.shape == exact.shape
    assert packed.numpy().dtype == wire.array_dtype == np.int16
    assert torch.equal(wire.unpack(packed), exact.to(TORCH_DTYPES[name]).float())
    assert torch.equal(wire.pack(wire.unpack(packed)), packed)


@pytest.mark.parametrize("name", SIXTEEN_BITS)
@pytest.mark.parametrize("scale", [1.0, 64.0, 32768.0])
def test_scaling_changes_no_significant_bit(name: WireDtype, scale: float) -> None:
    wire, exact = Wire(name), values() + 4 * values().sign()
    exact = exact.clamp(-1.9, 1.9)
    assert torch.equal(wire.unpack(wire.pack(exact, scale), scale), wire.unpack(wire.pack(exact)))


@pytest.mark.parametrize("name", SIXTEEN_BITS)
def test_what_is_too_large_becomes_the_largest_and_nan_stays(name: WireDtype) -> None:
    wire, largest = Wire(name), torch.finfo(TORCH_DTYPES[name]).max
    extremes = torch.tensor([3.4e38, -3.4e38, float("inf"), -float("inf"), float("nan"), 0.0, largest])
    arrived = wire.unpack(wire.pack(extremes.clone()))
    assert arrived[:4].tolist() == [largest, -largest, largest, -largest]
    assert torch.isnan(arrived[4])
    assert arrived[5:].tolist() == [0.0, largest]


def test_gradients_of_large_batches_do_not_vanish() -> None:
    """A sample's gradient is about 1 / B: unscaled, small ones are lost."""
    wire, batch_size = Wire("float16"), 65_536
    gradients = values() * 1e-3 / batch_size
    scale = gradient_scale(batch_size)
    np.testing.assert_allclose(wire.unpack(wire.pack(gradients, scale), scale), gradients, rtol=1e-3, atol=1e-12)
    assert (wire.unpack(wire.pack(gradients)) == 0).any()


@pytest.mark.parametrize(("batch_size", "scale"), [(1, 1), (2, 2), (3, 4), (4_096, 4_096), (4_097, 8_192)])
def test_gradients_are_scaled_by_a_power_of_two(batch_size: int, scale: int) -> None:
    assert gradient_scale(batch_size) == scale
