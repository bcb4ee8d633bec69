"""Feature Generation by Convolutional Neural Network (Liu et al. 2019, arXiv 1904.04447)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.trainer.models.layers import Fields, InnerProducts, initialised, mlp


class GenerationLayer(nn.Module):
    """Convolution along the fields, max-pooling, and recombination into new features.

    Parameters: (in_maps * height + 1) * out_maps + (pooled * dim * out_maps + 1) * pooled * dim * new_features.

    Args:
        config: The sizes of the model.
        in_maps: The number of feature maps of the input.
        out_maps: The number of feature maps of the output.
        pooled: The height of a feature map of the output, after max-pooling.
        generator: Source of the initial parameters.
    """

    def __init__(
        self, config: ModelConfig, in_maps: int, out_maps: int, pooled: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._pool, self._dim = config.cnn_pooling, config.embedding_dim
        kernel = (config.cnn_height, 1)
        self.convolution = initialised(nn.Conv2d(in_maps, out_maps, kernel, padding="same"), generator)
        size = pooled * self._dim
        self.recombination = initialised(nn.Linear(out_maps * size, config.cnn_new_features * size), generator)

    def forward(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pooled maps and new features.

        Args:
            maps: float32, shape (b, in_maps, height, dim).
        Returns:
            The pooled maps, float32, shape (b, out_maps, pooled, dim), and the features, float32, shape (b, n, dim).
        """
        maps = functional.max_pool2d(self.convolution(maps).tanh(), (self._pool, 1), ceil_mode=True)
        features = self.recombination(maps.flatten(1)).tanh()
        return maps, features.unflatten(1, (-1, self._dim))


class FGCNN(nn.Module):
    """Convolutions over the fields generate new features. A product network takes the fields and the new features.

    logit = top([v_1, v_2, ..., <v_i, v_j> for i > j]), where the v_i are the fields and the new features. The field of
    a dense feature is a vector of parameters times its value. The new features come from second vectors of the same
    fields, so that the convolutions and the product network train separate embeddings. There is no batch normalisation:
    it would make the logit of a sample depend on the other samples of the batch.

    Let there be n_0 = num_dense + num_tables fields, n_l = n_{l-1} / cnn_pooling rounded up, m_0 = 1, m_l the elements
    of cnn_channels, and n = n_0 + cnn_new_features * sum of n_l. Parameters:
    2 * num_dense * dim + sum over l of (m_{l-1} * cnn_height + 1) * m_l + (n_l * dim * m_l + 1) * n_l * dim *
    cnn_new_features, + mlp(n * dim + n (n - 1) / 2, *top_mlp, num_labels). Rows are [embedding | embedding for
    convolutions].

    Args:
        config: The sizes of the model.
        num_dense: The number of dense features; may be 0.
        num_tables: The number of sparse features.
        generator: Source of the initial parameters.
        num_labels: The number of logits per sample.
    """

    def __init__(
        self, config: ModelConfig, num_dense: int, num_tables: int, generator: torch.Generator, num_labels: int = 1
    ) -> None:
        super().__init__()
        self.fields = Fields(num_dense, 2 * config.embedding_dim, generator)
        self.generation = nn.ModuleList()
        num_features = height = num_dense + num_tables
        in_maps = 1
        for out_maps in config.cnn_channels:
            height = -(-height // config.cnn_pooling)
            self.generation.append(GenerationLayer(config, in_maps, out_maps, height, generator))
            num_features += config.cnn_new_features * height
            in_maps = out_maps
        self.products = InnerProducts(num_features)
        num_inputs = num_features * config.embedding_dim + num_features * (num_features - 1) // 2
        self.top = mlp([num_inputs, *config.top_mlp, num_labels], generator)

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return logits, float32, shape (b,) or, with several labels, (b, num_labels).

        Args:
            dense: float32, shape (b, num_dense).
            embedded: float32, shape (b, num_tables, 2 * embedding_dim).
        """
        raw, source = self.fields(dense, embedded).chunk(2, dim=2)
        features, maps = [raw], source.unsqueeze(1)
        for layer in self.generation:
            maps, generated = layer(maps)
            features.append(generated)
        vectors = torch.cat(features, dim=1)
        logits: torch.Tensor = self.top(torch.cat([vectors.flatten(1), self.products(vectors)], dim=1)).squeeze(1)
        return logits
