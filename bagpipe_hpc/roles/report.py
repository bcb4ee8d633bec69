"""What trainer 0 tells the oracle after each iteration."""

from __future__ import annotations

import struct

REPORT = struct.Struct("<qd?")  # iteration, loss over the global batch (float64), read-only
