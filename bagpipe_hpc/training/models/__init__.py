"""Models by name. A model maps (dense features, embedded ids) to one logit per sample."""

from __future__ import annotations

import torch

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.training.models.dlrm import DLRM


def build_model(config: ModelConfig, num_dense: int, num_tables: int, seed: int) -> torch.nn.Module:
    """The model a configuration names, with parameters that depend on the seed only.

    Returns:
        A module called with dense float32 (b, num_dense) and embedded float32 (b, num_tables, embedding_dim) that
        returns logits float32 (b,).
    """
    return DLRM(
        num_dense=num_dense,
        num_tables=num_tables,
        embedding_dim=config.embedding_dim,
        bottom_mlp=config.bottom_mlp,
        top_mlp=config.top_mlp,
        generator=torch.Generator().manual_seed(seed),
    )
