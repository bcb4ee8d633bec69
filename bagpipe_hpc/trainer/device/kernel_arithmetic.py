"""Arithmetic of the kernels: what is fused, what is rounded, and how a row is added up.

The kernels are to give the bits that torch gives on the CPU. There, `add(alpha=)` and `addcmul` are fused: one rounding
for the product and the sum. Nothing else is. So kernels call `fused_multiply_add` in exactly these places, and
kernels.py launches them with enable_fp_fusion off, so that the compiler fuses nothing by itself.

This module imports Triton. If TRITON_INTERPRET=1 is set when it is imported, its functions run in Triton's interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def fused_multiply_add(x: tl.tensor, y: tl.tensor, z: tl.tensor, is_emulated: tl.constexpr) -> tl.tensor:
    """Return x * y + z with one rounding, float32.

    The interpreter computes tl.fma with two roundings, or it rounds through float64, depending on its version. So
    `is_emulated` asks for an emulation, which is exact. The product of two float32 is exact in float64. The sum of the
    product and z is rounded to odd: if it is not exact, its last bit becomes 1. float64 has more than twice as many
    significant bits as float32, and two more. So such a sum, rounded to float32, is the exact sum, rounded to float32.
    """
    if is_emulated:
        product = x.to(tl.float64) * y.to(tl.float64)
        addend = z.to(tl.float64)
        total = product + addend
        taken = total - product
        error = (product - (total - taken)) + (addend - taken)  # exact; nan if the sum is not finite
        bits = total.to(tl.int64, bitcast=True)
        is_even_and_inexact = ((bits & 1) == 0) & ((error > 0) | (error < 0))
        towards_exact = tl.where((error > 0) == (total > 0), 1, -1)
        result = tl.where(is_even_and_inexact, bits + towards_exact, bits).to(tl.float64, bitcast=True).to(tl.float32)
    else:
        result = tl.fma(x, y, z)
    return result


@triton.jit
def to_wire(values: tl.tensor, scale: tl.tensor, wire: tl.constexpr) -> tl.tensor:
    """Return float32 values in the format of the wire, float32 or int16, as Wire.pack does."""
    if wire == "float32":
        packed = values
    elif wire == "float16":
        packed = clamp(values * scale, -65504.0, 65504.0).to(tl.float16).to(tl.int16, bitcast=True)
    else:
        largest = 3.3895313892515355e38
        bits = clamp(values * scale, -largest, largest).to(tl.int32, bitcast=True)
        nearest_even = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        packed = tl.where(values == values, nearest_even, 0x7FC0).to(tl.int16)  # 0x7FC0 is nan
    return packed


@triton.jit
def from_wire(packed: tl.tensor, inverse_scale: tl.tensor, wire: tl.constexpr) -> tl.tensor:
    """Return the float32 values of what `to_wire` returned, as Wire.unpack does.

    The inverse of the scale is a power of two, too. So to multiply by it gives the same as to divide by the scale.
    """
    if wire == "float32":
        values = packed
    elif wire == "float16":
        values = packed.to(tl.float16, bitcast=True).to(tl.float32) * inverse_scale
    else:
        values = (packed.to(tl.int32) << 16).to(tl.float32, bitcast=True) * inverse_scale
    return values


@triton.jit
def clamp(values: tl.tensor, low: tl.tensor, high: tl.tensor) -> tl.tensor:
    """Return values limited to [low, high], as torch.clamp does: nan stays nan, and -0.0 stays -0.0."""
    return tl.where(values > high, high, tl.where(values < low, low, values))


@triton.jit
def larger(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    """Return the larger of two numbers. It is the step of a reduction."""
    return tl.where(x > y, x, y)


@triton.jit
def add_halves(values: tl.tensor, rows: tl.constexpr, width: tl.constexpr) -> tl.tensor:
    """Return the sums of the columns c and c + width / 2, shape (rows, width / 2).

    Args:
        values: float32, shape (rows, width).
        rows: The number of rows.
        width: The number of columns, even.
    """
    halves = tl.permute(tl.reshape(values, (rows, 2, width // 2)), (0, 2, 1))
    first, second = tl.split(halves)
    return first + second
