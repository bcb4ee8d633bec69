"""torch's transformer layer with the parameters of ours."""

from __future__ import annotations

import torch
from torch import nn

from bagpipe_hpc.trainer.models.transformer import SelfAttention


def torch_block(block: SelfAttention) -> nn.TransformerEncoderLayer:
    """Return torch's layer, ready to predict, that computes what a block of ours computes."""
    dim = block.output.out_features
    layer = nn.TransformerEncoderLayer(
        dim, block._num_heads, 4 * dim, dropout=0, activation="relu", batch_first=True, norm_first=True
    )
    own = {
        "self_attn.in_proj_weight": block.inputs.weight,
        "self_attn.in_proj_bias": block.inputs.bias,
        "self_attn.out_proj.weight": block.output.weight,
        "self_attn.out_proj.bias": block.output.bias,
        "linear1.weight": block.hidden.weight,
        "linear1.bias": block.hidden.bias,
        "linear2.weight": block.last.weight,
        "linear2.bias": block.last.bias,
        "norm1.weight": block.first_norm.weight,
        "norm1.bias": block.first_norm.bias,
        "norm2.weight": block.second_norm.weight,
        "norm2.bias": block.second_norm.bias,
    }
    layer.load_state_dict({name: parameter.detach().clone() for name, parameter in own.items()})
    with torch.no_grad():
        return layer.train()
