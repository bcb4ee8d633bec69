"""Models by name. A model maps (dense features, embedded ids) to one logit per sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.caser import Caser
from bagpipe_hpc.trainer.models.dcn import DCN
from bagpipe_hpc.trainer.models.dcn_v2 import DCNv2
from bagpipe_hpc.trainer.models.deepfm import DeepFM
from bagpipe_hpc.trainer.models.dlrm import DLRM
from bagpipe_hpc.trainer.models.fgcnn import FGCNN
from bagpipe_hpc.trainer.models.wide_deep import WideDeep

MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "dlrm": DLRM,
    "wide_deep": WideDeep,
    "deepfm": DeepFM,
    "dcn": DCN,
    "dcn_v2": DCNv2,
    "fgcnn": FGCNN,
    "caser": Caser,
}


def build_model(
    config: ModelConfig, num_dense: int, num_tables: int, seed: int, dims: Sequence[int] = ()
) -> torch.nn.Module:
    """The model a configuration names, with parameters that depend on the seed only.

    Whether a data set has the samples it needs is for `trainer/model_check.py` to say.

    Args:
        dims: Columns in use of each vector, where they are not all; the others are zero.
    Returns:
        A module called with dense float32 (b, num_dense) and embedded float32 (b, num_tables, config.row_dim) that
        returns logits float32 (b,).
    """
    kind, generator = MODELS[config.name], torch.Generator().manual_seed(seed)
    if any(dim < config.embedding_dim for dim in dims):
        return kind(config, num_dense, num_tables, generator, dims)
    return kind(config, num_dense, num_tables, generator)
