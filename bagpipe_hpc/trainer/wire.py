"""The format of rows and gradients on their way between trainers: float32, or rounded to 16 bits.

The owner of a row depends on the lookahead window, the prefetch depth and the cache size, but the result must not
depend on them. So with 16 bits the owner rounds too: all trainers compute with the rounded row, and all gradients are
rounded before they are added. The owner adds them in float32 in ascending trainer order and updates the
full-precision row, so rounding errors do not accumulate in the rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

WireDtype = Literal["float32", "float16", "bfloat16"]
WireArray = NDArray[np.float32 | np.int16]


class Wire:
    """Packs float32 values into the format of the wire, and unpacks them. `name` is that of the format.

    Packed values are float32 or, with 16 bits, the bits of the rounded values as int16, because numpy has no bfloat16.

    Args:
        name: float32 changes nothing. float16 has 11 significant bits and values from 6e-8 to 65,504. bfloat16 has 8
            significant bits and the range of float32.
    """

    def __init__(self, name: WireDtype) -> None:
        self.name = name
        self._dtype: torch.dtype = getattr(torch, name)
        self.is_exact = name == "float32"
        self.array_dtype = np.dtype(np.float32 if self.is_exact else np.int16)

    def pack(self, values: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Return values in the format of the wire: multiplied by scale, then rounded to nearest.

        Values that are too large, also infinities, become the largest finite value. nan stays nan. With float32 the
        values stay as they are.

        Args:
            values: float32, any shape.
            scale: A power of two.
        Returns:
            float32 or int16, the same shape.
        """
        if self.is_exact:
            return values
        largest = torch.finfo(self._dtype).max
        return (values * scale).clamp_(-largest, largest).to(self._dtype).view(torch.int16)

    def unpack(self, packed: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """Return the float32 values, of the same shape, of what `pack` returned for the same scale."""
        if self.is_exact:
            return packed
        return packed.view(self._dtype).float().div_(scale)


FLOAT32 = Wire("float32")


def gradient_scale(num_global_samples: int) -> float:
    """Return the scale of gradients on the wire: the smallest power of two that is at least the batch size.

    The loss is a mean, so gradients shrink as the batch size grows, and small gradients would underflow in float16.
    Scaled gradients are about those of a summed loss: about 1 for a row that one sample uses. float16 also holds
    gradients that are hundreds of times larger. A power of two changes no significant bit.

    Args:
        num_global_samples: The number of samples in the shares of all trainers.
    """
    return float(1 << (num_global_samples - 1).bit_length())
