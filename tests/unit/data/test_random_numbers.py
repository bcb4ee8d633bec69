"""Hashes that stand for random numbers."""

from __future__ import annotations

import numpy as np

from bagpipe_hpc.data.random_numbers import bias_for, hash_of, normal, uniform, zipf_rank

SEED = np.uint64(5)


def test_distributions() -> None:
    hashes = [np.uint64(hash_of(SEED, 1, counter)) for counter in range(20_000)]
    uniforms, normals = np.array([uniform(bits) for bits in hashes]), np.array([normal(bits) for bits in hashes])
    assert (uniforms.min() > 0, uniforms.max() < 1) == (True, True)
    assert abs(uniforms.mean() - 0.5) < 0.01
    assert abs(normals.mean()) < 0.03
    assert abs(normals.std() - 1) < 0.03


def test_purposes_are_independent() -> None:
    first, second = (np.array([uniform(np.uint64(hash_of(SEED, k, i))) for i in range(5_000)]) for k in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_ranks() -> None:
    ranks = [zipf_rank(x, 100, 1.0) for x in np.linspace(0.0005, 0.9995, 1_000)]
    assert (min(ranks), max(ranks)) == (0, 99)
    assert ranks == sorted(ranks)
    assert 150 < ranks.count(0) < 250  # 1 / H_100 is 0.19


def test_bias() -> None:
    logits = np.linspace(-3, 3, 101)
    bias = bias_for(logits, 0.25)
    assert abs(np.mean(1 / (1 + np.exp(-(logits + bias)))) - 0.25) < 1e-6
