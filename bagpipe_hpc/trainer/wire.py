"""How rows and gradients travel between trainers: as they are, or rounded to 16 bits.

Who owns a row depends on the lookahead window, the prefetch depth and the cache size, and the result must not. So with
16 bits *every* use is rounded, the owner's too: all trainers compute with the row as it travels, and add up gradients
as they travel. The owner sums in float32 in ascending trainer order and updates the full-precision row, so what is lost
does not pile up in the rows.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

WireDtype = Literal["float32", "float16", "bfloat16"]
WireArray = NDArray[np.float32 | np.int16]


class Wire:
    """Turns float32 values into what travels, and back.

    What travels is float32 itself or, for 16 bits, their bits as int16 (numpy has no bfloat16).

    Args:
        name: float32: nothing is changed. float16: 11 significant bits, values from 6e-8 to 65,504. bfloat16: 8
            significant bits, the range of float32.
    """

    def __init__(self, name: WireDtype) -> None:
        self._dtype: torch.dtype = getattr(torch, name)
        self.is_exact = name == "float32"
        self.array_dtype = np.dtype(np.float32 if self.is_exact else np.int16)

    def pack(self, values: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """float32 values as they travel, of the same shape: times scale, then rounded to nearest.

        What is too large, infinities too, becomes the largest finite value; nan stays nan.
        """
        if self.is_exact:
            return values
        largest = torch.finfo(self._dtype).max
        return (values * scale).clamp_(-largest, largest).to(self._dtype).view(torch.int16)

    def unpack(self, packed: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        """float32 values of what `pack` made with the same scale."""
        if self.is_exact:
            return packed
        return packed.view(self._dtype).float().div_(scale)


def gradient_scale(num_global_samples: int) -> float:
    """What gradients are multiplied with for the wire: the power of two at or above the batch size.

    The loss is a mean, so gradients shrink with the batch size, and small ones would underflow in float16. Times this
    they are those of a summed loss: about 1 for a row that one sample uses, and hundreds of times that fit. A power of
    two changes no significant bit.
    """
    return float(1 << (num_global_samples - 1).bit_length())
