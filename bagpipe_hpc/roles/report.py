"""What trainer 0 tells the oracle after each iteration."""

from __future__ import annotations

import struct

REPORT = struct.Struct("<qdq?")  # iteration, loss over the global batch (float64), samples of that batch, read-only
