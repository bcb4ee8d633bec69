"""Attention in pieces is the attention as a whole."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from bagpipe_hpc.trainer.models import pieces
from bagpipe_hpc.trainer.models.pieces import causal
from bagpipe_hpc.trainer.models.transformer import attention_in_pieces


def test_causal() -> None:
    assert causal(2, 4, torch.device("cpu")).tolist() == [[True, True, True, False], [True, True, True, True]]


@pytest.mark.parametrize("max_scores", [1, 2 * 2 * 7 * 3, 1000])
@pytest.mark.parametrize("is_causal", [True, False])
def test_pieces_compute_what_torch_computes(max_scores: int, is_causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "MAX_SCORES", max_scores)
    monkeypatch.setattr(pieces, "MAX_KEPT", max_scores if max_scores == 1000 else 0)
    generator = torch.Generator().manual_seed(0)
    leaves = query, key, value = torch.randn(3, 2, 2, 7, 4, generator=generator).requires_grad_().unbind(0)
    mask = None if is_causal else torch.tensor([[True] * 7, [True] * 5 + [False] * 2])[:, None, None, :]
    outputs, gradients = [], []
    for found in (
        attention_in_pieces(query, key, value, mask, is_causal=is_causal),
        functional.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal),
    ):
        outputs.append(found)
        gradients.append(torch.autograd.grad(found.square().sum(), leaves))
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_pieces_compute_in_the_precision_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 7, 4, generator=generator).requires_grad_().unbind(0)
    found = []
    for max_kept in (1000, 0):
        monkeypatch.setattr(pieces, "MAX_KEPT", max_kept)
        with torch.autocast("cpu", torch.bfloat16):
            output = attention_in_pieces(query, key, value, None, is_causal=True)
        assert output.dtype == torch.bfloat16
        found.append((output, *torch.autograd.grad(output.float().square().sum(), (query, key, value))))
    assert all(one.equal(other) for one, other in zip(*found, strict=True))
