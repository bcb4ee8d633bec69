"""What trainers tell the oracle: trainer 0 the loss of each training iteration, all of them what they predict."""

from __future__ import annotations

import struct

LOSS_TAG, PREDICTIONS_TAG = 1, 2  # on Communicators.reports
REPORT = struct.Struct("<qdq")  # training iteration, loss over the global batch (float64), samples of that batch
