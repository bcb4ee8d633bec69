"""Every setting of a training job: its name, default, allowed values and description.

A configuration is validated as a whole before any work starts. `python -m tests.settings_doc` generates
`docs/settings.md` from this file.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bagpipe_hpc.dynamic_rules import DynamicSchema, require_lifetime
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.fault_words import in_words, shown
from bagpipe_hpc.strict_yaml import Document, Place, is_text, parse_yaml, read_yaml_file

# Upper bounds are far above any sensible value. They catch typing errors before those cost memory or time.
MAX_ITERATIONS = 10**11  # the names of checkpoints have 12 digits
MAX_SAMPLES = 10**12
MAX_BATCH_SIZE = 2**26
MAX_BLOCKS = 2**15  # as many trainers as placement by locality can tell apart
MAX_LEARNING_RATE = 1e30  # float32 can represent it


def _require_plain(value: JsonValue) -> JsonValue:
    """Refuse values that other JSON readers or torch do not accept; return the others unchanged."""
    if isinstance(value, dict):
        for part in [*value, *value.values()]:
            _require_plain(part)
    elif isinstance(value, list):
        for part in value:
            _require_plain(part)
    elif isinstance(value, str) and not is_text(value):
        raise ValueError("must be valid Unicode text, without unpaired surrogates")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite, not {value}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("integers must fit into 64 bits")
    return value


Beta = Annotated[float, Field(ge=0, lt=1)]
Arguments = Annotated[dict[str, JsonValue], AfterValidator(_require_plain)]
LearningRate = Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE, allow_inf_nan=False)]
Size = Annotated[int, Field(gt=0, le=2**20)]  # neurons of a layer


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse invalid Unicode text, and booleans for other settings, which pydantic would read as 1 and 0."""
        assert field.field_name is not None
        parts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(part, str) and not is_text(part) for part in parts):
            raise ValueError("must be valid Unicode text, without unpaired surrogates")
        if any(isinstance(part, bool) for part in parts) and cls.model_fields[field.field_name].annotation is not bool:
            raise ValueError(
                "must not be true or false (YAML reads yes, no, on and off as true or false unless they are quoted)"
            )
        return value


class LookaheadConfig(_Section):
    window: int = Field(
        64,
        ge=1,
        le=100_000,
        description="Lookahead window L: how many iterations after an iteration the oracle knows when it plans "
        "that one.",
    )
    prefetch_depth: int = Field(
        4,
        ge=0,
        le=1_000,
        description="Prefetch depth P: trainers fetch rows up to P iterations before they need them; 0: when they need "
        "them. At most L.",
    )
    delayed_synchronisation: bool = Field(
        True,
        description="While an iteration computes, trainers finish the updates of the iteration before that it does not "
        "need, and bring in the rows of the next one. Has an effect only with P >= 1.",
    )


class CacheConfig(_Section):
    rows: int | None = Field(
        None,
        ge=1,
        lt=2**31,
        description="Cache slots of each trainer, one row each; null: on a CPU as many rows as fit into a quarter of "
        "the trainer's free memory, on a GPU as many as fit beside the model and its buffers.",
    )


class OracleConfig(_Section):
    threads: int = Field(2, ge=1, le=256, description="Cores that the oracle's pipeline stages use together.")
    placement: Literal["contiguous", "locality"] = Field(
        "contiguous",
        description="Which trainer gets which samples of a batch. contiguous: trainers split the batch in its order. "
        "locality: the oracle chooses trainers such that they have fewer rows in common.",
    )
    max_dense_keys: int = Field(
        2**29,
        ge=0,
        le=2**40,
        description="If all tables together have at most this many rows, the oracle keeps 8 bytes for every row. "
        "Otherwise it keeps state only for rows in the lookahead window.",
    )


class RolesConfig(_Section):
    servers: int = Field(1, ge=1, le=100_000, description="Number of embedding servers S.")
    placement: Literal["packed", "spread", "by-hostname"] = Field(
        "packed",
        description="Which ranks become the oracle and the S servers. packed: ranks 0 to S. spread: one rank of each "
        "node in turn, of nodes without GPU first. by-hostname: as spread, but only on the hosts of "
        "roles.server_hosts.",
    )
    server_hosts: tuple[str, ...] = Field(
        (),
        description="With placement by-hostname: the hosts of the oracle and the servers; wildcards as in a shell, "
        "such as [cpu*].",
    )

    @model_validator(mode="after")
    def _hosts_are_named(self) -> RolesConfig:
        if (self.placement == "by-hostname") != bool(self.server_hosts):
            raise ValueError(
                f"placement is {self.placement}, server_hosts is {list(self.server_hosts)}: set server_hosts if, and "
                "only if, placement is by-hostname"
            )
        return self


class ModelConfig(_Section):
    name: Literal[
        "dlrm",
        "wide_deep",
        "deepfm",
        "dcn",
        "dcn_v2",
        "fgcnn",
        "caser",
        "dlrm_dcn",
        "mmoe",
        "din",
        "sasrec",
        "bst",
        "hstu",
        "two_tower",
    ] = Field("dlrm", description="Built-in model to train.")
    factory: str | None = Field(
        None,
        description="Train your own model instead of model.name: `module:function`, imported from the working "
        "directory or from Python's path; null: train model.name.",
    )
    arguments: Arguments = Field({}, description="Keyword arguments of the function in model.factory.")
    embedding_dim: int = Field(
        16,
        ge=1,
        le=4096,
        description="Columns of each table's embeddings, unless tables.NAME.embedding_dim says otherwise.",
    )
    bottom_mlp: tuple[Size, ...] = Field(
        (64, 32),
        max_length=100,
        description="dlrm, dlrm_dcn: sizes of the hidden layers of the bottom MLP, which reads the dense features.",
    )
    top_mlp: tuple[Size, ...] = Field(
        (128, 64),
        max_length=100,
        description="All models but caser, sasrec and two_tower: sizes of the hidden layers of the (top) MLP.",
    )
    experts: int = Field(4, ge=1, le=10_000, description="mmoe: number of experts.")
    expert_mlp: tuple[Size, ...] = Field(
        (128, 64), min_length=1, max_length=100, description="mmoe: sizes of the layers of each expert."
    )
    attention_blocks: int = Field(1, ge=1, le=100, description="sasrec, bst, hstu: number of blocks or layers.")
    attention_heads: int = Field(
        2, ge=1, le=1024, description="sasrec, bst, hstu: heads of each block; model.embedding_dim must be a multiple."
    )
    positions: int = Field(
        64,
        ge=1,
        le=2**20,
        description="sasrec, bst: positions of a sequence, counted from its newest element; older ones share the last. "
        "hstu: differences of positions; larger ones share the last.",
    )
    time_element: str | None = Field(
        None,
        description="hstu: name of the integer element of sequences that is their time; null: the one with the name "
        "time, or else the only integer element.",
    )
    attention_mlp: tuple[Size, ...] = Field(
        (36,),
        max_length=100,
        description="din: sizes of the hidden layers of the MLP that weights the elements of a sequence.",
    )
    tower_mlp: tuple[Size, ...] = Field(
        (128, 64), min_length=1, max_length=100, description="two_tower: sizes of the layers of each tower."
    )
    temperature: float = Field(
        0.05,
        ge=1e-3,
        le=1e6,
        allow_inf_nan=False,
        description="two_tower: what the product of the vectors of both towers is divided by.",
    )
    item_features: tuple[str, ...] = Field(
        (),
        description="two_tower: features of the item tower; the id of the first one says which item it is. []: the "
        "one-hot feature that uses the table of a sequence, or else the last one. Own models with item_features get "
        "the items of a batch and how often each has occurred.",
    )
    cross_layers: int = Field(3, ge=1, le=100, description="dcn, dcn_v2, dlrm_dcn: number of cross layers.")
    cross_rank: int | None = Field(
        None, ge=1, le=2**20, description="dcn_v2, dlrm_dcn: rank of the cross matrices; null: full rank."
    )
    cnn_channels: tuple[Size, ...] = Field(
        (6, 8), min_length=1, max_length=100, description="fgcnn: number of feature maps of each convolution."
    )
    cnn_height: int = Field(
        7, ge=1, le=9_999, description="fgcnn: number of fields that a convolution spans; must be odd."
    )
    cnn_pooling: int = Field(
        2, ge=2, le=10_000, description="fgcnn: number of fields that are pooled into one after each convolution."
    )
    cnn_new_features: int = Field(
        2, ge=1, le=10_000, description="fgcnn: number of features that are generated per pooled field."
    )
    horizontal_filters: int = Field(
        16,
        ge=1,
        le=2**20,
        description="caser: number of filters of each height; the heights are 1, 2, ... up to the number of items.",
    )
    vertical_filters: int = Field(4, ge=1, le=2**20, description="caser: number of weighted sums over the items.")

    @field_validator("cnn_height")
    @classmethod
    def _odd(cls, height: int) -> int:
        if height % 2 == 0:
            raise ValueError(f"must be odd, so that a convolution is centred on a field; take {height + 1}")
        return height

    @field_validator("item_features")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names {', '.join(twice)} more than once; name each feature once")
        return names

    @field_validator("factory")
    @classmethod
    def _names_a_function(cls, factory: str | None) -> str | None:
        if factory is not None and not all(factory.partition(":")):
            raise ValueError("must be of the form module:function, as in my_model:build")
        return factory

    @model_validator(mode="after")
    def _heads_share_the_columns(self) -> ModelConfig:
        if (
            self.name in ("sasrec", "bst", "hstu")
            and self.factory is None
            and self.embedding_dim % self.attention_heads
        ):
            raise ValueError(
                f"model.embedding_dim is {self.embedding_dim}, model.attention_heads is {self.attention_heads}: "
                f"{self.name} splits the columns among the heads; give a multiple, or another number of heads"
            )
        return self

    @model_validator(mode="after")
    def _arguments_have_a_factory(self) -> ModelConfig:
        if self.arguments and self.factory is None:
            raise ValueError("arguments are for a model of your own; set model.factory, or remove model.arguments")
        return self

    @property
    def title(self) -> str:
        """Name of the model in messages and files."""
        return self.factory or self.name

    @property
    def embedding_columns(self) -> int:
        """Columns of a row that hold embeddings. A row of fgcnn holds two embeddings, one for its convolutions."""
        return self.embedding_dim * (2 if self.name == "fgcnn" and self.factory is None else 1)

    @property
    def row_dim(self) -> int:
        """Columns of a row that are trained: the embeddings and, if the model has it, the id's first-order weight."""
        has_first_order = self.name in ("wide_deep", "deepfm") and self.factory is None
        return self.embedding_columns + (1 if has_first_order else 0)


class TableConfig(_Section):
    """Settings of one table of the data set."""

    pooling: Literal["sum", "mean"] | None = Field(
        None,
        description="How the rows of one bag of a ragged table's ids become one vector; null: sum, but a sequence is "
        "not pooled.",
    )
    max_length: int | None = Field(
        None,
        ge=1,
        le=2**24,
        description="Use only the newest elements of a sequence, at most this many; null: all of them.",
    )
    learning_rate: LearningRate | None = Field(
        None, description="Learning rate of the table's rows; null: the learning rate of all rows."
    )
    embedding_dim: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Columns of the table's embeddings, at most model.embedding_dim; null: model.embedding_dim.",
    )
    capacity: int | None = Field(
        None, ge=1, le=2**31 - 2, description="Dynamic table: how many ids have rows at the same time, at most."
    )
    admit_after: int | None = Field(
        None, ge=1, lt=2**31, description="Dynamic table: an id gets a row once it was used so often."
    )
    expire_after: str | None = Field(
        None,
        description="Dynamic table: an id loses its row when it was not used for this long, as in `30d` or `500000 "
        "iterations`; `never`: it keeps its row.",
    )
    at_capacity: Literal["error", "oldest"] | None = Field(
        None,
        description="Dynamic table: when no row is left for a new id, the job ends, or the id with the oldest last use "
        "loses its row.",
    )

    @field_validator("expire_after", mode="before")
    @classmethod
    def _is_a_lifetime(cls, given: object) -> str | None:
        return "never" if given == "never" else require_lifetime(given)


class LabelConfig(_Section):
    """Settings of one label of the data set."""

    loss: Literal["bce", "mse"] | None = Field(
        None,
        description="bce: binary cross-entropy. mse: squared error. null: bce for a binary label, mse for a real one.",
    )
    weight: float = Field(
        1.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Factor of the label's mean loss in the loss of the job.",
    )


class TrainingConfig(_Section):
    batch_size: int = Field(
        256, ge=1, le=MAX_BATCH_SIZE, description="Samples of one global batch, which the trainers split among them."
    )
    epochs: int = Field(1, ge=1, le=10**9, description="Number of passes over the training split.")
    iterations: int | None = Field(
        None, ge=1, le=MAX_ITERATIONS, description="Stop after this many iterations; null: train all epochs."
    )
    learning_rate: LearningRate = Field(
        0.1,
        description="Learning rate of rows and of dense parameters. row_optimizer, dense_optimizer and tables may set "
        "their own.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of the initial rows, the initial dense parameters and the order of shuffled samples.",
    )
    shuffle_block: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES,
        description="Shuffle the training samples anew in each epoch: shuffle blocks of this many samples, and the "
        "samples within each block; null: keep the order of the data set.",
    )
    order: Literal["stored", "time"] = Field(
        "stored",
        description="stored: the order of the data set, unless shuffle_block is set. time: windows of data time "
        "(time_window), one after the other; each is evaluated before it is trained on.",
    )
    time_window: int | None = Field(
        None,
        ge=1,
        lt=10**18,
        description="order time: the width of a window, in the unit of the data set's times. Windows begin at its "
        "multiples. No batch has samples of two windows.",
    )
    blocks: int | None = Field(
        None,
        ge=1,
        le=MAX_BLOCKS,
        description="Cut each batch into this many blocks, a power of two, and add up their gradients in one order. "
        "Needs training.threads, float32 between trainers and dense.backend mpi or null; at most training.batch_size. "
        "The model is then the same to the bit for every number of trainers that divides it. null: one per trainer.",
    )
    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto",
        description="Where trainers compute and keep their caches. auto: the GPU of the trainer's rank on its host if "
        "the host has one, else the CPU; several trainers may use one GPU. gpu: a job whose trainers lack one ends.",
    )
    exchange: Literal["auto", "host", "device"] = Field(
        "auto",
        description="How rows and gradients get from trainer to trainer. host: through host memory. device: MPI reads "
        "and writes the memory of GPUs; a job ends if it cannot. auto: device if a trial on each host succeeds, else "
        "host.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Precision of the model's forward and backward pass. Parameters, rows and all sums are float32 in "
        "any case.",
    )
    execution: Literal["eager", "compiled", "graph"] = Field(
        "eager",
        description="How trainers run the model's forward and backward pass in training. eager: one operation after "
        "the other. compiled: in code that torch.compile makes at the start of a job, which takes up to a minute; its "
        "results differ from those of eager in the last bits. graph: as graphs that a GPU replays, with the bits of "
        "eager; every trainer needs a GPU. Batches that are smaller than training.batch_size, and evaluations, run as "
        "with eager.",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="CPU threads of each trainer; null: OMP_NUM_THREADS if it is set, else the cores divided by the "
        "trainers that use them.",
    )
    wire_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        description="Type in which trainers send each other rows and gradients. float16 and bfloat16 halve the bytes, "
        "but round the values, so the trained model differs.",
    )

    @model_validator(mode="after")
    def _windows_are_in_order(self) -> TrainingConfig:
        width = "null" if self.time_window is None else self.time_window
        if (self.order == "time") != (self.time_window is not None):
            raise ValueError(
                f"training.order is {self.order}, training.time_window is {width}: set time_window "
                "if, and only if, order is time; null removes it"
            )
        if self.order == "time" and self.shuffle_block is not None:
            raise ValueError(
                f"training.order is time, training.shuffle_block is {self.shuffle_block}: samples cannot be both in "
                "time order and shuffled; remove one of the two settings"
            )
        if self.order == "time" and self.epochs != 1:
            raise ValueError(
                f"training.order is time, training.epochs is {self.epochs}: a second pass would evaluate the model on "
                "samples that it has been trained on; set epochs to 1"
            )
        return self

    @model_validator(mode="after")
    def _blocks_are_exact(self) -> TrainingConfig:
        if self.blocks is None:
            return self
        if self.blocks & (self.blocks - 1):
            below = 1 << (self.blocks.bit_length() - 1)
            raise ValueError(f"training.blocks is {self.blocks}; give a power of two, such as {below} or {2 * below}")
        if self.blocks > self.batch_size:
            raise ValueError(
                f"training.blocks is {self.blocks}, training.batch_size is {self.batch_size}, so blocks would have no "
                "samples; lower training.blocks, or raise training.batch_size"
            )
        if self.threads is None:
            raise ValueError(
                f"training.blocks is {self.blocks}, and without training.threads the threads of a trainer, and with "
                "them the order of sums, depend on the number of trainers; set training.threads, too"
            )
        if self.wire_dtype != "float32":
            raise ValueError(
                f"training.blocks is {self.blocks}, training.wire_dtype is {self.wire_dtype}: what is rounded between "
                "trainers depends on their number; use float32, or leave training.blocks out"
            )
        return self


class RowOptimizerConfig(_Section):
    name: Literal["sgd", "momentum", "adagrad", "rowwise_adagrad", "adam"] = Field(
        "sgd", description="Optimizer of embedding rows. Its state is stored in the row."
    )
    learning_rate: LearningRate | None = Field(None, description="Learning rate of rows; null: training.learning_rate.")
    momentum: float = Field(
        0.9, gt=0, lt=1, description="momentum: factor by which a step keeps the direction of the step before."
    )
    nesterov: bool = Field(False, description="momentum: use Nesterov momentum.")
    initial_accumulator_value: float = Field(
        0.0,
        ge=0,
        le=1e30,
        allow_inf_nan=False,
        description="adagrad, rowwise_adagrad: initial value of the sums of squared gradients.",
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="adam: decay rates of the first and the second moment.")
    eps: float | None = Field(
        None,
        ge=1e-30,
        le=1e30,
        allow_inf_nan=False,
        description="Added to the denominator by adagrad, rowwise_adagrad and adam; null: 1e-10 for adagrad, 1e-8 for "
        "the other two.",
    )
    clip_value: float | None = Field(
        None,
        gt=0,
        le=1e30,
        allow_inf_nan=False,
        description="Limit each element of a row's summed gradient to the range from -clip_value to clip_value; null: "
        "no limit.",
    )

    @property
    def effective_eps(self) -> float:
        """The setting eps or, if it is not given, the optimizer's default."""
        return self.eps if self.eps is not None else 1e-10 if self.name == "adagrad" else 1e-8

    @property
    def essentials(self) -> dict[str, Any]:
        """The settings of this optimizer on which the meaning of its state depends, as JSON values."""
        adagrad = {"initial_accumulator_value": self.initial_accumulator_value, "eps": self.effective_eps}
        essentials: dict[str, dict[str, Any]] = {
            "sgd": {},
            "momentum": {"momentum": self.momentum, "nesterov": self.nesterov},
            "adagrad": adagrad,
            "rowwise_adagrad": adagrad,
            "adam": {"betas": list(self.betas), "eps": self.effective_eps},
        }
        return essentials[self.name]


class DenseOptimizerConfig(_Section):
    name: str = Field(
        "sgd", description="Optimizer of dense parameters: the name of a class of torch.optim, in upper or lower case."
    )
    learning_rate: LearningRate | None = Field(
        None, description="Learning rate of dense parameters; null: training.learning_rate."
    )
    arguments: Arguments = Field(
        {}, description="Keyword arguments of the optimizer's class, such as momentum or betas; lr is not allowed here."
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=1e30,
        allow_inf_nan=False,
        description="If the global norm of the dense gradients exceeds this, scale them down to it; null: never.",
    )

    @property
    def is_plain_sgd(self) -> bool:
        """Whether this is SGD without arguments, which needs no further checks."""
        return self.name.lower() == "sgd" and not self.arguments


class DenseConfig(_Section):
    backend: Literal["horovod", "mpi", "nccl"] | None = Field(
        None,
        description="What sums dense gradients over the trainers; null: horovod where all trainers have it and a GPU, "
        "else mpi. mpi adds in one order with every MPI; nccl needs a GPU for each trainer. One trainer sums nothing.",
    )


class ScheduleConfig(_Section):
    """How all learning rates change over the iterations."""

    warm_up_iterations: int = Field(
        0, ge=0, le=MAX_ITERATIONS, description="All learning rates grow linearly over this many iterations."
    )
    decay: Literal["constant", "linear", "cosine", "inverse_sqrt", "step"] = Field(
        "constant", description="How the learning rates change after the warm-up."
    )
    decay_iterations: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="linear, cosine: iterations from the end of the warm-up until the rates are lowest. step: "
        "iterations between two steps.",
    )
    decay_factor: float = Field(
        0.1,
        ge=0,
        le=1,
        description="linear, cosine: the lowest rate, as a fraction of the full rate. step: factor that is applied at "
        "each step.",
    )

    @model_validator(mode="after")
    def _decay_has_a_length(self) -> ScheduleConfig:
        if self.decay in ("linear", "cosine", "step") and self.decay_iterations is None:
            raise ValueError(
                f"decay {self.decay} needs decay_iterations; set it, or set decay to constant or inverse_sqrt"
            )
        return self


class EvaluationConfig(_Section):
    enabled: bool = Field(
        True, description="Evaluate after the last iteration and, if evaluation.every is set, during training."
    )
    every: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="Training iterations between two evaluations; null: evaluate only after the last iteration.",
    )
    split: Literal["validation", "train"] = Field("validation", description="Split of the data set to evaluate on.")
    batch_size: int | None = Field(
        None, ge=1, le=MAX_BATCH_SIZE, description="Samples of one evaluation batch; null: training.batch_size."
    )
    metric: Literal["auc", "log_loss", "normalised_entropy", "mse", "grouped_auc", "hit_rate", "ndcg"] = Field(
        "auc",
        description="Metric by which early stopping and checkpoint.keep_best compare evaluations. mse is for "
        "real-valued labels, the others for binary ones; the last three need groups in the data set.",
    )
    label: str | None = Field(
        None, description="The label whose metrics are compared, and shown first; null: the first one."
    )
    top_k: int = Field(
        10, ge=1, le=10**6, description="How many samples of a group count for its hit rate and its NDCG."
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="End training after this many evaluations in a row that did not improve on the best one before "
        "them; null: do not stop early.",
    )
    min_improvement: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Early stopping: an evaluation counts as better only if evaluation.metric improves by at least "
        "this.",
    )

    @model_validator(mode="after")
    def _patience_has_something_to_count(self) -> EvaluationConfig:
        if self.early_stopping_patience is not None and self.every is None:
            raise ValueError("early_stopping_patience counts evaluations during training: set evaluation.every, too")
        return self


class CheckpointConfig(_Section):
    enabled: bool = Field(
        True,
        description="Write checkpoints: after the last iteration, at a stop signal, at the time limit, and as "
        "checkpoint.every says.",
    )
    directory: str | None = Field(
        None, min_length=1, description="Directory of the checkpoints; null: RUN_DIR/checkpoints."
    )
    every: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="Training iterations between two checkpoints; null: no regular checkpoints during training.",
    )
    full_every: int = Field(
        10,
        ge=1,
        le=10**6,
        description="Each full_every-th checkpoint holds all rows. The others hold the rows that changed since the "
        "checkpoint before.",
    )
    keep_last: int = Field(
        2, ge=1, le=10**9, description="Keep this many of the newest checkpoints, and those that they build on."
    )
    keep_every: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="Also keep each checkpoint whose iteration is a multiple of this; null: none.",
    )
    keep_best: bool = Field(
        False,
        description="Write a checkpoint with every evaluation, and keep the one that evaluation.metric finds best. "
        "`best` names it.",
    )
    compression: Literal["lzf", "gzip"] | None = Field(
        None, description="Compression of rows in checkpoints; null: none."
    )
    increment_encoding: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type of rows in increments. bfloat16 halves their size, but rounds the rows."
    )


class WatchdogConfig(_Section):
    seconds: float | None = Field(
        None,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="If the job makes no progress for this long, write the stacks of all ranks to RUN_DIR/watchdog and "
        "report which rank waits for which; null: never.",
    )
    ends_job: bool = Field(False, description="In that case also end the job, with exit code 1.")


class Config(_Section):
    """All settings of a job."""

    mode: Literal["cached", "synchronous"] = Field(
        "cached",
        description="cached: train as BagPipe does. synchronous: fetch and write back every row in every iteration.",
    )
    transport: Literal["staged", "direct"] = Field(
        "staged",
        description="How rows travel between servers and trainers. staged: one contiguous Get or Put per server and "
        "iteration. direct: indexed datatypes, as a reference for comparison.",
    )
    lookahead: LookaheadConfig = LookaheadConfig()
    cache: CacheConfig = CacheConfig()
    oracle: OracleConfig = OracleConfig()
    roles: RolesConfig = RolesConfig()
    model: ModelConfig = ModelConfig()
    tables: dict[str, TableConfig] = Field(
        {},
        description="Settings of single tables of the data set, by table name: pooling (sum, mean), max_length, "
        "learning_rate, embedding_dim; of dynamic tables: capacity, admit_after, expire_after, at_capacity.",
    )
    labels: dict[str, LabelConfig] = Field(
        {}, description="Settings of single labels of the data set, by name: loss (bce, mse), weight."
    )
    training: TrainingConfig = TrainingConfig()
    row_optimizer: RowOptimizerConfig = RowOptimizerConfig()
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    dense: DenseConfig = DenseConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    tensorboard: bool = Field(False, description="Also write the metrics for TensorBoard, into RUN_DIR/tensorboard.")

    @property
    def dense_backend(self) -> str | None:
        """The backend that sums dense gradients; None: chosen by what the trainers have."""
        return "mpi" if self.training.blocks is not None else self.dense.backend

    @model_validator(mode="after")
    def _prefetch_within_window(self) -> Config:
        if self.lookahead.prefetch_depth > self.lookahead.window:
            raise ValueError(
                f"lookahead.prefetch_depth is {self.lookahead.prefetch_depth}, lookahead.window is "
                f"{self.lookahead.window}: rows cannot be fetched further ahead than the oracle looks; lower "
                "prefetch_depth or raise window"
            )
        return self

    @model_validator(mode="after")
    def _blocks_are_added_up_in_order(self) -> Config:
        if self.training.blocks is not None and self.dense.backend not in (None, "mpi"):
            raise ValueError(
                f"training.blocks is {self.training.blocks}, dense.backend is {self.dense.backend}: only mpi adds up "
                "in one order for any number of trainers; set dense.backend to mpi or leave it out, or leave "
                "training.blocks out"
            )
        return self

    @model_validator(mode="after")
    def _windows_say_when_to_evaluate(self) -> Config:
        if self.training.order == "time" and self.evaluation.every is not None:
            raise ValueError(
                f"training.order is time, evaluation.every is {self.evaluation.every}: in time order the job evaluates "
                "each window before it trains on it, and the split at the end; remove evaluation.every"
            )
        if self.training.order == "time" and self.checkpoint.keep_best:
            raise ValueError(
                "training.order is time, checkpoint.keep_best is true: metrics of different windows do not say which "
                "model is better; remove keep_best"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_are_known_in_time(self) -> Config:
        every = self.evaluation.every
        if self.evaluation.early_stopping_patience is not None and every is not None and every < self.window:
            raise ValueError(
                f"evaluation.every is {every}, lookahead.window is {self.window}: to stop early, the oracle must know "
                "the result of one evaluation before it looks past the next one; raise every or lower window"
            )
        return self

    @property
    def window(self) -> int:
        """The lookahead window L that the planner uses: 0 in synchronous mode."""
        return self.lookahead.window if self.mode == "cached" else 0

    @property
    def prefetch_depth(self) -> int:
        """The prefetch depth P that the planner uses: 0 in synchronous mode."""
        return self.lookahead.prefetch_depth if self.mode == "cached" else 0

    @property
    def is_overlapped(self) -> bool:
        """Whether trainers overlap neighbouring iterations."""
        return self.lookahead.delayed_synchronisation and self.prefetch_depth >= 1

    @property
    def row_learning_rate(self) -> float:
        """Learning rate of rows, before the schedule is applied."""
        return self.row_optimizer.learning_rate or self.training.learning_rate

    def row_learning_rate_of(self, table: str) -> float:
        """Return the learning rate of a table's rows, before the schedule is applied."""
        return self.tables.get(table, TableConfig()).learning_rate or self.row_learning_rate

    def embedding_dim_of(self, table: str) -> int:
        """Return the number of columns of a table's embeddings."""
        return self.tables.get(table, TableConfig()).embedding_dim or self.model.embedding_dim

    def unused_columns_of(self, table: str) -> int:
        """Return how many columns of its rows a table does not use. All rows are as wide as the widest table's."""
        return self.model.embedding_dim - self.embedding_dim_of(table)

    @property
    def has_plain_objective(self) -> bool:
        """Whether all labels have the default loss and weight."""
        return all(label == LabelConfig() for label in self.labels.values())

    @property
    def optimizes_by_table(self) -> bool:
        """Whether the row optimizer needs to know which table a row belongs to."""
        has_rates = any(self.row_learning_rate_of(table) != self.row_learning_rate for table in self.tables)
        has_dims = any(self.unused_columns_of(table) for table in self.tables)
        return has_rates or (has_dims and self.row_optimizer.name == "rowwise_adagrad")

    @property
    def dense_learning_rate(self) -> float:
        """Learning rate of dense parameters, before the schedule is applied."""
        return self.dense_optimizer.learning_rate or self.training.learning_rate

    def to_yaml(self) -> str:
        """Return the whole configuration, including defaults, as YAML text."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


SettingsSource: TypeAlias = Config | Mapping[str, Any] | str | Path | None


@dataclass(frozen=True)
class Settings:
    """Settings that are not validated yet.

    Args:
        values: Sections of settings by name.
        source: Where the settings come from, for messages. None: a Python program.
        lines: The line of each setting in its file.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None
    lines: Mapping[Place, int] = dataclasses.field(default_factory=dict)

    def over(self, base: Settings) -> Settings:
        """Return the settings of `base`, replaced by those given here where both give one."""
        if not self.values:
            return base
        return Settings(_merged(Config, base.values, self.values), self.source or base.source, self.lines)

    def overridden(self, overrides: Sequence[str]) -> Settings:
        """Return these settings with the overrides applied, each of the form `section.key=value`.

        Raises:
            ConfigError: An override does not have this form.
        """
        values, lines = copy.deepcopy(self.values), dict(self.lines)
        for override in overrides:
            place = _apply_override(values, override)
            lines = {there: line for there, line in lines.items() if there[: len(place)] != place}
        return Settings(values, self.source, lines)

    def validated(self) -> Config:
        """Return the whole configuration, with defaults for all settings that are not given.

        Raises:
            ConfigError: Names every wrong setting, the value given and the values allowed.
        """
        try:
            return Config.model_validate(self.values)
        except ValidationError as error:
            raise ConfigError(_explain(error, self)) from None


def _merged(section: type[BaseModel], base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        field = section.model_fields.get(name)
        inner = field.annotation if field is not None else None
        is_section = isinstance(inner, type) and issubclass(inner, BaseModel)
        if is_section and isinstance(value, Mapping) and isinstance(base.get(name), Mapping):
            value = _merged(cast(type[BaseModel], inner), base[name], value)
        merged[name] = value
    return merged


def load_config(source: SettingsSource, overrides: Sequence[str]) -> Config:
    """Return the validated configuration that a source and overrides give.

    Args:
        source: Path of a YAML file, sections of settings by name, a configuration, or None for the defaults.
        overrides: Settings that replace those of the source, each as `section.key=value`.
    Raises:
        ConfigError: Names every wrong setting, the value given and the values allowed.
    """
    return read_settings(source).overridden(overrides).validated()


def read_settings(source: SettingsSource) -> Settings:
    """Return the settings that a source gives, without defaults.

    Raises:
        ConfigError: The file cannot be read, or is not a mapping.
    """
    if source is None or isinstance(source, Mapping):
        return Settings(copy.deepcopy(dict(source or {})))
    if isinstance(source, Config):
        return Settings(source.model_dump(exclude_unset=True))
    if not isinstance(source, str | Path) or "\0" in str(source):
        raise ConfigError(
            f"settings = {source!r}: give the path of a YAML file, sections of settings by name, or a configuration"
        )
    return settings_in(read_yaml_file(Path(source), "configuration"), f"configuration {source}")


def settings_in(document: Document, source: str) -> Settings:
    """Return the settings of a parsed file. Messages call it `source`.

    Raises:
        ConfigError: The document is not a mapping.
    """
    return Settings(_sections_in(document, source), source, document.lines)


def _sections_in(document: Document, source: str) -> dict[str, Any]:
    settings = document.value
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{source} must be a mapping of settings, not a {type(settings).__name__}")
    # An empty section, as in a template whose settings are all commented out, counts as absent.
    return {name: value for name, value in settings.items() if value is not None}


def _apply_override(settings: dict[str, Any], override: str) -> Place:
    """Apply one override to `settings`; return the place of the setting."""
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set {override!r} is not of the form section.key=value, as in training.epochs=3")
    value = parse_yaml(text, f"--set {shown(override)}: the value").value
    *sections, key = name.split(".")
    for section in sections:
        inner = settings.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a single setting and has no parts")
        settings = inner
    settings[key] = value
    return (*sections, key)


def changed_settings(before: Config, after: Config) -> list[tuple[str, Any, Any]]:
    """Return the dotted name, the value before and the value after of every setting that differs."""
    return list(_changes(before.model_dump(mode="json"), after.model_dump(mode="json"), ""))


def _changes(before: Any, after: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if (isinstance(before, dict) or before is None) and (isinstance(after, dict) or after is None):
        before, after = before or {}, after or {}
        for key in before | after:
            yield from _changes(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield name, before, after


def setting_names(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Return the dotted names of all settings."""
    names = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += setting_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def _explain(error: ValidationError, settings: Settings) -> str:
    problems = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            said = _explain_unknown(name)
        elif problem["type"] == "model_type":
            valid = ", ".join(_names_in(name))
            said = f"{name} = {shown(problem['input'])}: is a section, not a value; valid in it: {valid}"
        elif problem["type"] == "value_error" and isinstance(problem["input"], Mapping):
            said = f"{name}: {in_words(problem)}" if name else in_words(problem)  # the message names the settings
        elif name:
            said = f"{name} = {shown(problem['input'])}: {in_words(problem)}"
        else:
            said = in_words(problem)
        line = settings.lines.get(tuple(problem["loc"])) if name else None
        problems.append(said if line is None else f"line {line}: {said}")
    return f"{settings.source or 'settings'}: " + "; ".join(problems)


def _explain_unknown(name: str) -> str:
    of_names: dict[str, type[BaseModel]] = {"tables": TableConfig, "labels": LabelConfig}
    if (kind := of_names.get(name.partition(".")[0])) is not None:
        section = name.rpartition(".")[0]
        names = valid = [f"{section}.{setting}" for setting in kind.model_fields]
    else:
        names = setting_names()
        valid = _names_in(name.rpartition(".")[0]) or names
    close = difflib.get_close_matches(name, [*names, *valid], n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    if kind is TableConfig and name.rpartition(".")[2] in DynamicSchema.model_fields:
        hint = " (a rule of dynamic tables that only the schema file of the import can give)"
    return f"unknown setting {name!r}{hint}; valid here: {', '.join(valid)}"


def _names_in(section: str) -> list[str]:
    """Return the settings and sections inside a section. An empty name stands for the whole configuration."""
    prefix = f"{section}." if section else ""
    inside = (name.removeprefix(prefix) for name in setting_names() if name.startswith(prefix))
    return list(dict.fromkeys(prefix + name.partition(".")[0] for name in inside))
