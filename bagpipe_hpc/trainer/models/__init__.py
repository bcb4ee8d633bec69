"""The built-in models by name. A model maps dense features and embeddings to one logit per sample and label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.feature_inputs import SequenceInput
from bagpipe_hpc.trainer.models.bst import BST
from bagpipe_hpc.trainer.models.caser import Caser
from bagpipe_hpc.trainer.models.dcn import DCN
from bagpipe_hpc.trainer.models.dcn_v2 import DCNv2
from bagpipe_hpc.trainer.models.deepfm import DeepFM
from bagpipe_hpc.trainer.models.din import DIN
from bagpipe_hpc.trainer.models.dlrm import DLRM
from bagpipe_hpc.trainer.models.dlrm_dcn import DLRMDCN
from bagpipe_hpc.trainer.models.fgcnn import FGCNN
from bagpipe_hpc.trainer.models.hstu import HSTU
from bagpipe_hpc.trainer.models.mmoe import MMoE
from bagpipe_hpc.trainer.models.sasrec import SASRec
from bagpipe_hpc.trainer.models.two_tower import TwoTower
from bagpipe_hpc.trainer.models.wide_deep import WideDeep

MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "dlrm": DLRM,
    "wide_deep": WideDeep,
    "deepfm": DeepFM,
    "dcn": DCN,
    "dcn_v2": DCNv2,
    "fgcnn": FGCNN,
    "caser": Caser,
    "dlrm_dcn": DLRMDCN,
    "mmoe": MMoE,
}
SEQUENCE_MODELS: dict[str, Callable[..., torch.nn.Module]] = {
    "din": DIN,
    "sasrec": SASRec,
    "bst": BST,
    "hstu": HSTU,
    "two_tower": TwoTower,
}


def build_model(
    config: ModelConfig,
    num_dense: int,
    num_tables: int,
    seed: int,
    dims: Sequence[int] = (),
    num_labels: int = 1,
    sequences: Sequence[SequenceInput] = (),
    item: Sequence[int] = (),
) -> torch.nn.Module:
    """Build the model that a configuration names. Its initial parameters depend on the configuration and the seed only.

    This function does not check whether the data set has the features that the model needs: `trainer/model_check.py`
    does.

    Args:
        config: The settings of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of sparse features.
        seed: The seed of the initial parameters.
        dims: How many columns of each embedding are in use. The others are zero. Empty: all are in use.
        num_labels: The number of labels; 1 for caser, sasrec and two_tower.
        sequences: The sequences, for models that read them.
        item: The positions in embedded of the features of the item, for two_tower.
    Returns:
        A module that maps dense, float32, shape (b, num_dense), and embedded, float32, shape (b, num_tables,
        config.row_dim), to logits, float32, shape (b,), or (b, num_labels) if there are several. A model that reads
        sequences gets them by name as a third argument.
    Communication: none.
    """
    kind, generator = (MODELS | SEQUENCE_MODELS)[config.name], torch.Generator().manual_seed(seed)
    options: dict[str, Any] = {"sequences": sequences} if config.name in SEQUENCE_MODELS else {}
    if config.name == "two_tower":
        options["item"] = item
    if any(dim < config.embedding_dim for dim in dims):
        options["dims"] = dims
    if num_labels > 1:
        options["num_labels"] = num_labels
    return kind(config, num_dense, num_tables, generator, **options)
