"""The biases of attention by the difference of positions and of times, without an index for each score.

To look up each bias by an index, and above all to add up its gradients by one, takes longer than all other arithmetic
of attention. But along a diagonal the difference of positions is the same. And times rise, so equal biases stand next
to each other along the keys of a query.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from bagpipe_hpc.trainer.device.placement import is_in_host_memory

TIME_BUCKETS = 64  # of the logarithm of a time difference to base 2


def along_diagonals(values: torch.Tensor, num_rows: int, num_columns: int) -> torch.Tensor:
    """Return a matrix whose diagonals have one value each, shape (num_rows, num_columns).

    Args:
        values: From the lower left to the upper right diagonal reversed: element (i, j) is
            values[num_rows - 1 - i + j], shape (num_rows + num_columns - 1,).
    """
    # Rows of one element more than there are values shift by one from row to row.
    rows = values.expand(num_rows, -1).reshape(-1)
    shifted = functional.pad(rows, (0, num_rows)).view(num_rows, -1)
    return shifted[:, :num_columns].flip(0)


def time_bias(bias: torch.Tensor, query_times: torch.Tensor, key_times: torch.Tensor) -> torch.Tensor:
    """Return the bias of each time difference d: bias[floor(log2(d + 1))], float32, shape (k, c, n).

    A key that is newer than the query counts as d = 0.

    Args:
        bias: float32, shape (TIME_BUCKETS,).
        query_times: int64, shape (k, c).
        key_times: int64, shape (k, n), never falling along n, and n at least 1.
    """
    # Key j has at least bucket b if its time is at most that of the query - (2^b - 1).
    # No difference is in the last bucket. The host knows a bound only if it need not wait for a device.
    num_buckets = TIME_BUCKETS - 1
    if is_in_host_memory(key_times) and key_times.numel():
        longest = int((query_times[:, -1] - key_times[:, 0]).max())
        num_buckets = min(max(1, (longest + 1).bit_length()), num_buckets)
    least = 2 ** torch.arange(num_buckets - 1, 0, -1, device=bias.device) - 1
    limits = (query_times[:, :, None] - least).flatten(1)
    ends = torch.searchsorted(key_times.contiguous(), limits, right=True).view(*query_times.shape, -1)
    ends = functional.pad(functional.pad(ends, (1, 0)), (0, 1), value=key_times.shape[1])
    runs: torch.Tensor = _Runs.apply(bias[:num_buckets].flip(0), ends.diff(), key_times.shape[1])  # type: ignore[no-untyped-call]
    return runs


class _Runs(torch.autograd.Function):
    """Rows of runs of equal values. The gradients of a run are added up in their order."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, lengths: torch.Tensor, num_columns: int) -> torch.Tensor:
        """Return rows of runs of the values, shape (..., num_columns). Lengths have the shape (..., len(values))."""
        ctx.save_for_backward(lengths)
        flat = lengths.reshape(-1)
        num_rows = lengths[..., 0].numel()
        runs = torch.repeat_interleave(values.repeat(num_rows), flat, output_size=num_rows * num_columns)
        return runs.view(*lengths.shape[:-1], num_columns)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Return the gradient of values."""
        (lengths,) = ctx.saved_tensors
        sums = torch.segment_reduce(gradients[0].reshape(-1), "sum", lengths=lengths.reshape(-1), axis=0, unsafe=True)
        return sums.view(-1, lengths.shape[-1]).sum(0), None, None
