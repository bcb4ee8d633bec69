"""Train a model of your own: mpirun -n 4 python train_my_model.py DATA RUN_DIR"""

import sys

import torch
from torch import nn
from torch.nn import functional

import bagpipe_hpc

SETTINGS = {"model": {"embedding_dim": 16}, "training": {"batch_size": 1024, "epochs": 2, "learning_rate": 0.05}}


class TwoLayers(nn.Module):
    def __init__(self, inputs: bagpipe_hpc.ModelInputs, hidden: int) -> None:
        super().__init__()
        num_columns = inputs.num_dense + len(inputs.tables) * inputs.embedding_dim
        self.layers = nn.Sequential(nn.Linear(num_columns, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, 1))

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """dense (b, num_dense), embedded (b, num_tables, embedding_dim) -> logits (b,)"""
        return torch.squeeze(self.layers(torch.cat([dense, embedded.flatten(1)], dim=1)), 1)


def build(inputs: bagpipe_hpc.ModelInputs, hidden: int = 64) -> nn.Module:
    return TwoLayers(inputs, hidden)


if __name__ == "__main__":
    data, run_dir = sys.argv[1:]
    with bagpipe_hpc.session(SETTINGS, build, data=data, run_dir=run_dir) as session:
        for batch in session:  # trainers only; the other ranks play their roles in here
            logits = session.model(batch.dense, batch.embedded)
            losses = functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
            session.step(batch.mean(losses))
    if session.summary:  # rank 0
        print(f"AUC {session.summary['validation_auc']:.4f}, model {session.summary['model_digest']}")
