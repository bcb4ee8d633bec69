"""What stands in a row: `[embedding | first-order weight, where the model has one | optimizer state]`."""

from __future__ import annotations

from bagpipe_hpc.config import Config

SGD_STATE_COLUMNS = 0


def row_width(config: Config) -> int:
    """float32 columns of a row: trained ones and optimizer state."""
    return config.model.row_dim + SGD_STATE_COLUMNS
