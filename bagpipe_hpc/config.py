"""Every setting of a training job: its name, default, allowed values and what it is for.

A configuration is validated as a whole before any work starts. `docs/settings.md` is made from this file.
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

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.fault_words import in_words, shown
from bagpipe_hpc.strict_yaml import Document, Place, is_text, parse_yaml, read_yaml_file

# Upper bounds are far above what makes sense: they catch slips of the pen before they cost memory or time.
MAX_ITERATIONS = 10**11  # names of checkpoints have 12 digits
MAX_SAMPLES = 10**12
MAX_BATCH_SIZE = 2**26
MAX_LEARNING_RATE = 1e30  # float32 holds it, and it is past every use


def _require_plain(value: JsonValue) -> JsonValue:
    """Refuse numbers that other readers of JSON, or torch, do not take."""
    if isinstance(value, dict):
        for part in [*value, *value.values()]:
            _require_plain(part)
    elif isinstance(value, list):
        for part in value:
            _require_plain(part)
    elif isinstance(value, str) and not is_text(value):
        raise ValueError("texts must not hold half a character, or bytes that are no text")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"numbers must be finite, not {value}")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("integers must fit into 64 bits")
    return value


Beta = Annotated[float, Field(ge=0, lt=1)]
Arguments = Annotated[dict[str, JsonValue], AfterValidator(_require_plain)]
LearningRate = Annotated[float, Field(gt=0, le=MAX_LEARNING_RATE, allow_inf_nan=False)]
Size = Annotated[int, Field(gt=0, le=2**20)]  # of a layer


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse truth values in place of numbers: pydantic would read them as 1 and 0. And texts that are none."""
        assert field.field_name is not None
        parts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(part, str) and not is_text(part) for part in parts):
            raise ValueError("holds half a character, or bytes that are no text")
        if any(isinstance(part, bool) for part in parts) and cls.model_fields[field.field_name].annotation is not bool:
            raise ValueError(
                "must not be true or false (YAML reads yes, no, on and off as these, unless they are quoted)"
            )
        return value


class LookaheadConfig(_Section):
    window: int = Field(64, ge=1, le=100_000, description="Lookahead window L: iterations known ahead of each plan.")
    prefetch_depth: int = Field(
        4, ge=0, le=1_000, description="P <= L: how many iterations ahead rows travel; 0: fetched when they are needed."
    )
    delayed_synchronisation: bool = Field(
        True,
        description="While an iteration computes, finish what it does not need of the one before, and bring the rows "
        "of the next one in. Needs P >= 1.",
    )


class CacheConfig(_Section):
    rows: int | None = Field(
        None, ge=1, lt=2**31, description="Slots per trainer; null: as many as a quarter of the free memory holds."
    )


class OracleConfig(_Section):
    threads: int = Field(2, ge=1, le=256, description="Cores that the oracle's stages share.")
    placement: Literal["contiguous", "locality"] = Field(
        "contiguous",
        description="Samples of a batch on trainers: in order, or such that trainers share fewer rows.",
    )
    max_dense_keys: int = Field(
        2**29,
        ge=0,
        le=2**40,
        description="Up to so many rows in all tables the oracle keeps 8 bytes for each; beyond, only for those in "
        "the lookahead window.",
    )


class RolesConfig(_Section):
    servers: int = Field(1, ge=1, le=100_000, description="Embedding servers S.")
    placement: Literal["packed", "spread", "by-hostname"] = Field(
        "packed",
        description="Which ranks are oracle and servers: the first 1 + S; one of each node in turn, of nodes without "
        "GPU where there are any; the same on the nodes of roles.server_hosts.",
    )
    server_hosts: tuple[str, ...] = Field(
        (), description="by-hostname: hosts of oracle and servers, with wildcards as in a shell: [cpu*]."
    )

    @model_validator(mode="after")
    def _hosts_are_named(self) -> RolesConfig:
        if (self.placement == "by-hostname") != bool(self.server_hosts):
            raise ValueError(
                f"placement is {self.placement}, server_hosts is {list(self.server_hosts)}: name hosts for "
                "by-hostname, and for no other placement"
            )
        return self


class ModelConfig(_Section):
    name: Literal["dlrm", "wide_deep", "deepfm", "dcn", "dcn_v2", "fgcnn", "caser"] = Field(
        "dlrm", description="Model to train."
    )
    factory: str | None = Field(
        None,
        description="Model of your own instead: `module:function`, imported from the working directory or Python's "
        "path; null: model.name.",
    )
    arguments: Arguments = Field({}, description="Keyword arguments of the factory.")
    embedding_dim: int = Field(16, ge=1, le=4096, description="Columns of every embedding.")
    bottom_mlp: tuple[Size, ...] = Field(
        (64, 32), max_length=100, description="dlrm: hidden layers of the bottom MLP (dense features)."
    )
    top_mlp: tuple[Size, ...] = Field(
        (128, 64), max_length=100, description="All but caser: hidden layers of the (top) MLP."
    )
    cross_layers: int = Field(3, ge=1, le=100, description="dcn, dcn_v2: cross layers.")
    cross_rank: int | None = Field(None, ge=1, le=2**20, description="dcn_v2: rank of the cross matrices; null: full.")
    cnn_channels: tuple[Size, ...] = Field(
        (6, 8), min_length=1, max_length=100, description="fgcnn: feature maps of each convolution."
    )
    cnn_height: int = Field(7, ge=1, le=9_999, description="fgcnn: fields that a convolution spans, an odd number.")
    cnn_pooling: int = Field(2, ge=2, le=10_000, description="fgcnn: fields pooled into one after each convolution.")
    cnn_new_features: int = Field(2, ge=1, le=10_000, description="fgcnn: features generated per pooled field.")
    horizontal_filters: int = Field(
        16, ge=1, le=2**20, description="caser: filters over 1, 2, ... all items, of each height."
    )
    vertical_filters: int = Field(4, ge=1, le=2**20, description="caser: weighted sums of the items.")

    @field_validator("cnn_height")
    @classmethod
    def _odd(cls, height: int) -> int:
        if height % 2 == 0:
            raise ValueError(f"must be odd, so that a convolution is centred on a field; take {height + 1}")
        return height

    @field_validator("factory")
    @classmethod
    def _names_a_function(cls, factory: str | None) -> str | None:
        if factory is not None and not all(factory.partition(":")):
            raise ValueError("must be of the form module:function, as in my_model:build")
        return factory

    @model_validator(mode="after")
    def _arguments_have_a_factory(self) -> ModelConfig:
        if self.arguments and self.factory is None:
            raise ValueError("arguments are for a model of your own; set model.factory, or leave them out")
        return self

    @property
    def title(self) -> str:
        """What people call it."""
        return self.factory or self.name

    @property
    def embedding_columns(self) -> int:
        """Columns of a row that hold embeddings: fgcnn has two, one of them for its convolutions."""
        return self.embedding_dim * (2 if self.name == "fgcnn" and self.factory is None else 1)

    @property
    def row_dim(self) -> int:
        """Columns of a row that are trained: embeddings and, where the model has one, the id's first-order weight."""
        has_first_order = self.name in ("wide_deep", "deepfm") and self.factory is None
        return self.embedding_columns + (1 if has_first_order else 0)


class TableConfig(_Section):
    """Of one table of the data set."""

    pooling: Literal["sum", "mean"] = Field("sum", description="What becomes of the rows of a ragged table's ids.")
    learning_rate: LearningRate | None = Field(
        None, description="Step size of the table's rows; null: that of all rows."
    )
    embedding_dim: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Columns of the table's embeddings, the first of its rows; null: model.embedding_dim.",
    )


class TrainingConfig(_Section):
    batch_size: int = Field(
        256, ge=1, le=MAX_BATCH_SIZE, description="Samples of one global batch, split over the trainers."
    )
    epochs: int = Field(1, ge=1, le=10**9, description="Passes over the training split.")
    iterations: int | None = Field(
        None, ge=1, le=MAX_ITERATIONS, description="Stop after so many iterations; null: all epochs."
    )
    learning_rate: LearningRate = Field(
        0.1,
        description="Step size of rows and dense parameters, unless they have their own.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of initial rows, dense parameters and the order of shuffled samples."
    )
    shuffle_block: int | None = Field(
        None,
        ge=1,
        le=MAX_SAMPLES,
        description="Train in another order in every epoch: blocks of so many samples, and samples within each, change "
        "places; null: in the order of the data set.",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Of the model's forward and backward; parameters, rows and all sums are float32.",
    )
    threads: int | None = Field(
        None, ge=1, le=4096, description="Threads of a trainer; null: OMP_NUM_THREADS, else a share of the cores."
    )
    wire_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32",
        description="Rows and their gradients between trainers; with 16 bits half the bytes, and not exact: models are "
        "those of rounded rows and gradients.",
    )


class RowOptimizerConfig(_Section):
    name: Literal["sgd", "momentum", "adagrad", "rowwise_adagrad", "adam"] = Field(
        "sgd", description="Optimizer of embedding rows; its state is part of the row."
    )
    learning_rate: LearningRate | None = Field(None, description="Step size of rows; null: training.learning_rate.")
    momentum: float = Field(0.9, gt=0, lt=1, description="momentum: what a step keeps of the direction before.")
    nesterov: bool = Field(False, description="momentum: Nesterov's.")
    initial_accumulator_value: float = Field(
        0.0, ge=0, le=1e30, allow_inf_nan=False, description="adagrad, rowwise_adagrad: where sums of squares start."
    )
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="adam: decay of the first and second moments.")
    eps: float | None = Field(
        None,
        ge=1e-30,
        le=1e30,
        allow_inf_nan=False,
        description="All that divide; null: 1e-10 for adagrad, 1e-8 for others.",
    )
    clip_value: float | None = Field(
        None,
        gt=0,
        le=1e30,
        allow_inf_nan=False,
        description="Cut elements of rows' summed gradients to +-this; null: do not.",
    )

    @property
    def effective_eps(self) -> float:
        """eps, or the default of the optimizer."""
        return self.eps if self.eps is not None else 1e-10 if self.name == "adagrad" else 1e-8

    @property
    def essentials(self) -> dict[str, Any]:
        """What gives the state its meaning, for this optimizer; JSON values."""
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
    name: str = Field("sgd", description="Optimizer of dense parameters: a class of torch.optim, in any case.")
    learning_rate: LearningRate | None = Field(
        None, description="Step size of dense parameters; null: training.learning_rate."
    )
    arguments: Arguments = Field({}, description="Of the class, such as momentum or betas; not lr.")
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=1e30,
        allow_inf_nan=False,
        description="Scale dense gradients whose global norm is larger to this; null: do not.",
    )

    @property
    def is_plain_sgd(self) -> bool:
        """Whether there is nothing that could be wrong."""
        return self.name.lower() == "sgd" and not self.arguments


class ScheduleConfig(_Section):
    """Of all learning rates."""

    warm_up_iterations: int = Field(
        0, ge=0, le=MAX_ITERATIONS, description="Learning rates grow linearly over so many iterations."
    )
    decay: Literal["constant", "linear", "cosine", "inverse_sqrt", "step"] = Field(
        "constant", description="How learning rates go on after the warm-up."
    )
    decay_iterations: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="linear, cosine: until the rate is at its lowest. step: from one step to the next.",
    )
    decay_factor: float = Field(
        0.1, ge=0, le=1, description="linear, cosine: the part of the rate that is left at last. step: after each step."
    )

    @model_validator(mode="after")
    def _decay_has_a_length(self) -> ScheduleConfig:
        if self.decay in ("linear", "cosine", "step") and self.decay_iterations is None:
            raise ValueError(f"decay {self.decay} needs decay_iterations; set it, or take constant or inverse_sqrt")
        return self


class EvaluationConfig(_Section):
    enabled: bool = Field(True, description="Evaluate after the last iteration, and every so many.")
    every: int | None = Field(
        None,
        ge=1,
        le=MAX_ITERATIONS,
        description="Training iterations from one evaluation to the next; null: only after the last one.",
    )
    split: Literal["validation", "train"] = Field("validation", description="Samples to evaluate on.")
    batch_size: int | None = Field(
        None, ge=1, le=MAX_BATCH_SIZE, description="Samples of one evaluation batch; null: training.batch_size."
    )
    metric: Literal["auc", "log_loss", "normalised_entropy"] = Field(
        "auc", description="By which one evaluation is better than another."
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="End training when so many evaluations in a row were no better than the best before them; null: "
        "never.",
    )
    min_improvement: float = Field(
        0.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Early stopping: by less than this, an evaluation is no better.",
    )

    @model_validator(mode="after")
    def _patience_has_something_to_count(self) -> EvaluationConfig:
        if self.early_stopping_patience is not None and self.every is None:
            raise ValueError("early_stopping_patience counts evaluations while training: set evaluation.every, too")
        return self


class CheckpointConfig(_Section):
    enabled: bool = Field(
        True, description="Checkpoints: after the last iteration, at a signal, at the time limit, and every so many."
    )
    directory: str | None = Field(None, min_length=1, description="Where they go; null: RUN_DIR/checkpoints.")
    every: int | None = Field(
        None, ge=1, le=MAX_ITERATIONS, description="Iterations from one to the next; null: none while training."
    )
    full_every: int = Field(
        10, ge=1, le=10**6, description="Each so many-th has all rows, the others those changed since the one before."
    )
    keep_last: int = Field(2, ge=1, le=10**9, description="Keep so many of the newest, and what they build on.")
    keep_every: int | None = Field(
        None, ge=1, le=MAX_ITERATIONS, description="Keep those whose iteration is a multiple of this, too; null: none."
    )
    keep_best: bool = Field(
        False,
        description="A checkpoint with every evaluation; `best` names the one that evaluation.metric finds best, which "
        "is kept.",
    )
    compression: Literal["lzf", "gzip"] | None = Field(None, description="Of rows; null: none.")
    increment_encoding: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: increments take half the space and are not exact any more."
    )


class WatchdogConfig(_Section):
    seconds: float | None = Field(
        None,
        gt=0,
        le=1e6,
        allow_inf_nan=False,
        description="After so long without progress, write the stacks of all ranks to RUN_DIR/watchdog, and tell who "
        "waits for whom; null: never.",
    )
    ends_job: bool = Field(False, description="End the job then, with exit code 1.")


class Config(_Section):
    """All settings of a job."""

    mode: Literal["cached", "synchronous"] = Field(
        "cached", description="cached: BagPipe. synchronous: every row fetched and written back in every iteration."
    )
    transport: Literal["staged", "direct"] = Field(
        "staged", description="staged: one contiguous Get/Put per server and iteration. direct: indexed reference."
    )
    lookahead: LookaheadConfig = LookaheadConfig()
    cache: CacheConfig = CacheConfig()
    oracle: OracleConfig = OracleConfig()
    roles: RolesConfig = RolesConfig()
    model: ModelConfig = ModelConfig()
    tables: dict[str, TableConfig] = Field(
        {}, description="Of single tables of the data set, by name: pooling (sum, mean), learning_rate, embedding_dim."
    )
    training: TrainingConfig = TrainingConfig()
    row_optimizer: RowOptimizerConfig = RowOptimizerConfig()
    dense_optimizer: DenseOptimizerConfig = DenseOptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
    tensorboard: bool = Field(False, description="Write metrics for TensorBoard, too, into RUN_DIR/tensorboard.")

    @model_validator(mode="after")
    def _prefetch_within_window(self) -> Config:
        if self.lookahead.prefetch_depth > self.lookahead.window:
            raise ValueError(
                f"lookahead.prefetch_depth is {self.lookahead.prefetch_depth}, lookahead.window is "
                f"{self.lookahead.window}: rows cannot travel further ahead than the oracle looks; lower the first or "
                "raise the second"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_are_known_in_time(self) -> Config:
        every = self.evaluation.every
        if self.evaluation.early_stopping_patience is not None and every is not None and every < self.window:
            raise ValueError(
                f"evaluation.every is {every}, lookahead.window is {self.window}: to stop early, the oracle must know "
                "how one evaluation ended before it looks past the next; raise the first or lower the second"
            )
        return self

    @property
    def window(self) -> int:
        """L as planned: 0 in synchronous mode."""
        return self.lookahead.window if self.mode == "cached" else 0

    @property
    def prefetch_depth(self) -> int:
        """P as planned: 0 in synchronous mode."""
        return self.lookahead.prefetch_depth if self.mode == "cached" else 0

    @property
    def is_overlapped(self) -> bool:
        """Whether trainers overlap neighbouring iterations."""
        return self.lookahead.delayed_synchronisation and self.prefetch_depth >= 1

    @property
    def row_learning_rate(self) -> float:
        """Of rows, before the schedule."""
        return self.row_optimizer.learning_rate or self.training.learning_rate

    def row_learning_rate_of(self, table: str) -> float:
        """Of a table's rows, before the schedule."""
        return self.tables.get(table, TableConfig()).learning_rate or self.row_learning_rate

    def embedding_dim_of(self, table: str) -> int:
        """Columns of a table's embeddings."""
        return self.tables.get(table, TableConfig()).embedding_dim or self.model.embedding_dim

    def unused_columns_of(self, table: str) -> int:
        """Columns of rows, which are as wide as those of the widest table, that a table does not use."""
        return self.model.embedding_dim - self.embedding_dim_of(table)

    @property
    def optimizes_by_table(self) -> bool:
        """Whether a step needs to know which table a row is of."""
        has_rates = any(self.row_learning_rate_of(table) != self.row_learning_rate for table in self.tables)
        has_dims = any(self.unused_columns_of(table) for table in self.tables)
        return has_rates or (has_dims and self.row_optimizer.name == "rowwise_adagrad")

    @property
    def dense_learning_rate(self) -> float:
        """Of dense parameters, before the schedule."""
        return self.dense_optimizer.learning_rate or self.training.learning_rate

    def to_yaml(self) -> str:
        """The whole configuration, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


SettingsSource: TypeAlias = Config | Mapping[str, Any] | str | Path | None


@dataclass(frozen=True)
class Settings:
    """Some settings, not validated yet.

    Args:
        values: Sections of settings by name.
        source: Where they come from, for messages; None: a program.
        lines: Line of each in its file.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    source: str | None = None
    lines: Mapping[Place, int] = dataclasses.field(default_factory=dict)

    def over(self, base: Settings) -> Settings:
        """All settings of the base, but those that are given here, which are taken from here."""
        if not self.values:
            return base
        return Settings(_merged(Config, base.values, self.values), self.source or base.source, self.lines)

    def overridden(self, overrides: Sequence[str]) -> Settings:
        """The same with some replaced, given as `section.key=value`.

        Raises:
            ConfigError: one is not of that form.
        """
        values, lines = copy.deepcopy(self.values), dict(self.lines)
        for override in overrides:
            place = _apply_override(values, override)
            lines = {there: line for there, line in lines.items() if there[: len(place)] != place}
        return Settings(values, self.source, lines)

    def validated(self) -> Config:
        """A whole configuration, with defaults for all that is not given.

        Raises:
            ConfigError: names every setting that is wrong, what it was given and what is allowed.
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
    """Read a YAML file, or take settings as they are (none: the defaults); apply overrides, validate the whole.

    Args:
        source: A path, sections of settings by name, or a configuration.
        overrides: As `section.key=value`.
    Raises:
        ConfigError: names every setting that is wrong, what it was given and what is allowed.
    """
    return read_settings(source).overridden(overrides).validated()


def read_settings(source: SettingsSource) -> Settings:
    """The settings that are given, and no others.

    Raises:
        ConfigError: the file cannot be read, or is not a mapping.
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
    """Settings of a file that was read.

    Raises:
        ConfigError: it is not a mapping.
    """
    return Settings(_sections_in(document, source), source, document.lines)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a mapping from a YAML file; `what` the file is, for messages.

    Raises:
        ConfigError: it cannot be read, or is not a mapping.
    """
    return _sections_in(read_yaml_file(path, what), f"{what} {path}")


def _sections_in(document: Document, source: str) -> dict[str, Any]:
    settings = document.value
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{source} must be a mapping of settings, not a {type(settings).__name__}")
    # A section with nothing in it, as in a template with its settings commented out, is one that is not there.
    return {name: value for name, value in settings.items() if value is not None}


def _apply_override(settings: dict[str, Any], override: str) -> Place:
    """Returns the place of the setting."""
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
    """Dotted name and both values of every setting that differs."""
    return list(_changes(before.model_dump(mode="json"), after.model_dump(mode="json"), ""))


def _changes(before: Any, after: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            yield from _changes(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield name, before, after


def setting_names(model: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all settings."""
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
            said = f"{name} = {shown(problem['input'])}: is a section; valid in it: {', '.join(_names_in(name))}"
        elif problem["type"] == "value_error" and isinstance(problem["input"], Mapping):
            said = f"{name}: {in_words(problem)}" if name else in_words(problem)  # what contradicts what, says the text
        elif name:
            said = f"{name} = {shown(problem['input'])}: {in_words(problem)}"
        else:
            said = in_words(problem)
        line = settings.lines.get(tuple(problem["loc"])) if name else None
        problems.append(said if line is None else f"line {line}: {said}")
    return f"{settings.source or 'settings'}: " + "; ".join(problems)


def _explain_unknown(name: str) -> str:
    if name.startswith("tables."):
        section = name.rpartition(".")[0]
        names = valid = [f"{section}.{setting}" for setting in TableConfig.model_fields]
    else:
        names = setting_names()
        valid = _names_in(name.rpartition(".")[0]) or names
    close = difflib.get_close_matches(name, [*names, *valid], n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown setting {name!r}{hint}; valid here: {', '.join(valid)}"


def _names_in(section: str) -> list[str]:
    """Settings and sections of a section; of the whole configuration for an empty name."""
    prefix = f"{section}." if section else ""
    inside = (name.removeprefix(prefix) for name in setting_names() if name.startswith(prefix))
    return list(dict.fromkeys(prefix + name.partition(".")[0] for name in inside))
