"""What the same model costs in plain PyTorch, with the same number of samples and nothing of a job around it."""

from __future__ import annotations

import copy
import statistics
import time

import torch
from torch.nn import functional

LEARNING_RATE = 0.01


def plain_microseconds(
    model: torch.nn.Module, dense: torch.Tensor, labels: torch.Tensor, num_tables: int, dim: int, iterations: int
) -> float:
    """Return the CPU time of an iteration in microseconds: the median of the middle third of the iterations.

    An iteration looks up the rows of all samples, goes forward and backward, and makes one step of SGD on the rows and
    on the parameters of a copy of the model.

    Args:
        model: Maps (dense, embedded) to logits.
        dense: float32, shape (b, num_dense).
        labels: float32, shape (b,).
        num_tables: The number of rows of a sample.
        dim: The number of columns of a row.
        iterations: 3 or more.
    """
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    device = labels.device
    rows = torch.zeros((len(labels) * num_tables, dim), device=device)
    positions = torch.arange(len(rows), dtype=torch.int32, device=device).view(len(labels), num_tables)
    times = []
    for _ in range(iterations):
        start = time.thread_time_ns()
        optimizer.zero_grad()
        leaf = rows.detach().requires_grad_()
        logits = model(dense, functional.embedding(positions, leaf))
        functional.binary_cross_entropy_with_logits(logits, labels).backward()
        if leaf.grad is not None:
            rows.add_(leaf.grad, alpha=-LEARNING_RATE)
        optimizer.step()
        times.append(time.thread_time_ns() - start)
    third = iterations // 3
    return statistics.median(times[third : iterations - third]) / 1e3
