"""TorchRec: tables sharded by table or by rows, with or without its pipeline for sparse data.

TorchRec's planner makes no row-wise plan for the CPU, so the plan of either kind is made here. Tables with fewer rows
than there are processes stay whole in a row-wise plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.fx
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise, table_wise
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.streamable import Pipelineable

from bagpipe_hpc.bench.peers.peer import dense_model, mean_loss
from bagpipe_hpc.bench.peers.samples import Samples, Share
from bagpipe_hpc.bench.peers.tables import dealt_tables, fill_initial_rows
from bagpipe_hpc.config import Config

CPU = torch.device("cpu")


@dataclass
class Input(Pipelineable):  # type: ignore[misc]
    """A share in TorchRec's form."""

    share: Share
    ids: Any

    def to(self, device: torch.device, non_blocking: bool = False) -> Input:
        """Return the share itself: it is in the memory of the device."""
        return self

    def record_stream(self, stream: Any) -> None:
        """Do nothing: the CPU has no streams."""

    def pin_memory(self) -> Input:
        """Return the share itself: the CPU needs no pinned memory."""
        return self


class ShardedModel(nn.Module):
    """TorchRec's tables, and the dense model over their vectors. The pipeline wants the loss from forward."""

    def __init__(self, config: Config, samples: Samples) -> None:
        super().__init__()
        names = [_name(table) for table in range(len(samples.num_embeddings))]
        self.shape = (len(names), config.model.embedding_dim)
        self.tables = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=name,
                    embedding_dim=config.model.embedding_dim,
                    num_embeddings=rows,
                    feature_names=[name],
                )
                for name, rows in zip(names, samples.num_embeddings, strict=True)
            ],
        )
        self.dense = dense_model(config, samples)

    def forward(self, batch: Input) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean loss over the share and, because TorchRec wants a second result, the loss again."""
        vectors = _in_table_order(self.tables(batch.ids), *self.shape)
        loss = mean_loss(self.dense(batch.share.dense, vectors), batch.share)
        return loss, loss.detach()


class ShardedPeer:
    """Each process trains the dense model on its share, and its shards of the tables on the whole batch.

    Args:
        config: The configuration of the job.
        samples: The shares.
        by_rows: Whether each table is sharded by rows, over all processes.
        has_pipeline: Whether ids are distributed while the iteration before computes (TrainPipelineSparseDist).
    """

    def __init__(self, config: Config, samples: Samples, *, by_rows: bool, has_pipeline: bool) -> None:
        self._has_pipeline = has_pipeline
        model = ShardedModel(config, samples)
        learning_rate = config.training.learning_rate
        apply_optimizer_in_backward(torch.optim.SGD, model.tables.parameters(), {"lr": learning_rate})
        self._model = DistributedModelParallel(
            model,
            device=CPU,
            plan=_plan(model, samples, by_rows),
            sharders=[EmbeddingBagCollectionSharder()],
            init_parameters=False,  # it would give the dense model other parameters than those of the job
        )
        dense = dict(in_backward_optimizer_filter(self._model.named_parameters()))
        self._optimizer = KeyedOptimizerWrapper(dense, lambda parameters: torch.optim.SGD(parameters, lr=learning_rate))
        self._fill(config, samples)
        # The pipeline finds its shares by their order, so inputs are made once, as a loader of samples makes them.
        self._inputs = {id(share): Input(share, _jagged(share.ids)) for share in samples.shares}

    def _fill(self, config: Config, samples: Samples) -> None:
        """Write the initial rows into the shards of this process."""
        with torch.no_grad():
            for name, value in self._model.state_dict().items():
                if not name.startswith("tables."):
                    continue
                table = int(name.split(".")[-2].removeprefix("t"))
                for shard in value.local_shards():
                    first_row = shard.metadata.shard_offsets[0]
                    fill_initial_rows(config, samples.num_embeddings, table, first_row, shard.tensor)

    def train(self, shares: Iterable[Share]) -> Iterator[torch.Tensor]:
        """See `Peer`."""
        inputs = iter([self._inputs[id(share)] for share in shares])
        return self._train_ahead(inputs) if self._has_pipeline else self._train(inputs)

    def _train(self, inputs: Iterator[Input]) -> Iterator[torch.Tensor]:
        for batch in inputs:
            self._optimizer.zero_grad()
            loss, _ = self._model(batch)
            loss.backward()
            self._optimizer.step()
            yield loss.detach()

    def _train_ahead(self, inputs: Iterator[Input]) -> Iterator[torch.Tensor]:
        pipeline = TrainPipelineSparseDist(self._model, self._optimizer, CPU, execute_all_batches=True)
        while True:
            try:
                yield pipeline.progress(inputs)
            except StopIteration:
                return


def _plan(model: ShardedModel, samples: Samples, by_rows: bool) -> ShardingPlan:
    """Return the plan for the shards of all tables."""
    size = dist.get_world_size()
    sharding = {
        _name(table): row_wise() if by_rows and samples.num_embeddings[table] >= size else table_wise(rank=rank)
        for rank, tables in enumerate(dealt_tables(samples.num_embeddings, size))
        for table in tables
    }
    plan = construct_module_sharding_plan(
        model.tables,
        sharding,
        sharder=EmbeddingBagCollectionSharder(),
        local_size=size,
        world_size=size,
        device_type="cpu",
    )
    return ShardingPlan({"tables": plan})


def _jagged(ids: torch.Tensor) -> Any:
    """Return ids, int64 (b, num_tables), as TorchRec's keyed jagged tensor with one id per sample and table."""
    num_samples, num_tables = ids.shape
    return KeyedJaggedTensor(
        keys=[_name(table) for table in range(num_tables)],
        values=ids.t().contiguous().view(-1),
        lengths=torch.ones(num_samples * num_tables, dtype=torch.int32),
    )


def _in_table_order(looked_up: Any, num_tables: int, dim: int) -> torch.Tensor:
    """Return vectors, float32 (b, num_tables, dim), by table. They come in the order of the shards."""
    places = {name: place for place, name in enumerate(looked_up.keys())}
    order = torch.tensor([places[_name(table)] for table in range(num_tables)])
    vectors: torch.Tensor = looked_up.values().view(-1, num_tables, dim).index_select(1, order)
    return vectors


torch.fx.wrap("_in_table_order")  # the pipeline traces the model symbolically, and cannot trace a loop over keys


def _name(table: int) -> str:
    return f"t{table}"
