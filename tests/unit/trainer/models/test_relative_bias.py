"""Biases along runs and diagonals against a look-up for each score."""

from __future__ import annotations

import math

import pytest
import torch

from bagpipe_hpc.trainer.models.relative_bias import TIME_BUCKETS, along_diagonals, time_bias


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 4), (3, 5), (5, 3)])
def test_along_diagonals(rows: int, columns: int) -> None:
    values = torch.randn(rows + columns - 1, dtype=torch.float64, requires_grad=True)
    found = along_diagonals(values, rows, columns)
    assert found.tolist() == [[values[rows - 1 - i + j].item() for j in range(columns)] for i in range(rows)]
    assert torch.autograd.gradcheck(lambda values: along_diagonals(values, rows, columns), values)


@pytest.mark.parametrize(
    "times",
    [
        [[0, 0, 1, 3, 10], [5, 6, 7, 7, 7]],
        [[0, 2**25 - 2, 2**25 - 1, 2**48 - 2, 2**48 - 1], [-(2**40), -3, 0, 4, 2**62]],
        [[7], [8]],
    ],
)
def test_time_bias(times: list[list[int]]) -> None:
    keys = torch.tensor(times)
    queries = keys[:, -2:]
    bias = torch.randn(TIME_BUCKETS, dtype=torch.float64, requires_grad=True)
    found = time_bias(bias, queries, keys)
    for sample, rows in enumerate(queries.tolist()):
        for place, time in enumerate(rows):
            expected = [bias[(max(0, time - key) + 1).bit_length() - 1] for key in times[sample]]
            assert found[sample, place].tolist() == [each.item() for each in expected]
    assert torch.autograd.gradcheck(lambda bias: time_bias(bias, queries, keys), bias)


def test_a_bucket_holds_one_power_of_two() -> None:
    bias = torch.arange(float(TIME_BUCKETS))
    times = torch.arange(200)[None]
    found = time_bias(bias, times[:, -1:], times)
    assert found[0, 0].tolist() == [float(int(math.log2(199 - time + 1))) for time in range(200)]
