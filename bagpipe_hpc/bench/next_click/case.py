"""What `bench next-click` trains, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError

MODELS = {
    "mean": ["model.name=dcn_v2", "tables.article_history.pooling=mean"],
    "din": ["model.name=din"],
    "sasrec": ["model.name=sasrec", "model.attention_blocks=2"],
    "hstu": ["model.name=hstu", "model.attention_blocks=2"],
}
"""Settings of each model by its name here. `mean` has the mean of the history as a feature."""

SETTINGS = [
    "model.embedding_dim=32",
    "training.batch_size=512",
    "training.threads=1",
    "row_optimizer.name=adagrad",
    "row_optimizer.learning_rate=0.05",
    "dense_optimizer.name=adam",
    "dense_optimizer.learning_rate=0.001",
    "evaluation.top_k=1",
    "evaluation.batch_size=4096",
    "checkpoint.enabled=false",
]


@dataclass(frozen=True)
class NextClickCase:
    """What to train.

    Args:
        models: Names in MODELS.
        num_clicks: Clicks of the log.
        num_negatives: Negatives of a click.
        max_length: Elements of a history, at most.
        validation_fraction: The part of the samples, the latest ones, to evaluate on.
        seed: Of the negatives.
        overrides: Settings that replace those of all models.
        is_dynamic: Whether to train with dynamic tables of users and articles, beside the same model with static ones,
            in place of plain PyTorch.
    Raises:
        ConfigError: A value is out of range.
    """

    models: tuple[str, ...]
    num_clicks: int = 100_000
    num_negatives: int = 2
    max_length: int = 50
    validation_fraction: float = 0.2
    seed: int = 0
    overrides: tuple[str, ...] = ()
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        for model in self.models:
            if model not in MODELS:
                raise ConfigError(f"--models has {model!r}; the models are {', '.join(MODELS)}")
        if not self.models:
            raise ConfigError(f"--models is empty; the models are {', '.join(MODELS)}")
        for name, value in (("clicks", self.num_clicks), ("negatives", self.num_negatives)):
            if value < 1:
                raise ConfigError(f"--{name} is {value}, but must be at least 1")
        for model in self.models:
            optimizers = load_config(None, self.settings(model))
            if (optimizers.row_optimizer.name, optimizers.dense_optimizer.name) != ("adagrad", "adam"):
                raise ConfigError("plain PyTorch trains rows with adagrad and dense parameters with adam; keep these")

    def settings(self, model: str) -> list[str]:
        """Return the settings of a model."""
        return [*SETTINGS, *MODELS[model], *self.overrides]


@dataclass(frozen=True)
class Quality:
    """How well a model predicts the validation split, how long it trained, and how many rows it has.

    Args:
        auc: Over all samples.
        grouped_auc: Within requests.
        hit_rate: The fraction of requests whose click has the largest prediction.
        log_loss: The mean.
        seconds: Of training.
        rows: Of all tables; of dynamic tables those in use at the end of training.
    """

    auc: float
    grouped_auc: float
    hit_rate: float
    log_loss: float
    seconds: float
    rows: int


@dataclass(frozen=True)
class Comparison:
    """One model, trained both ways.

    Args:
        model: Its name.
        ours: With bagpipe_hpc. With dynamic tables, if the case has them.
        other: In plain PyTorch. If the case has dynamic tables: with bagpipe_hpc and static ones.
    """

    model: str
    ours: Quality
    other: Quality


def greatest_difference(comparisons: Sequence[Comparison]) -> float:
    """Return how much the AUC of a model differs between the two ways, at most."""
    return max(abs(each.ours.auc - each.other.auc) for each in comparisons)
