"""Checks of a model against a data set. They need no torch: the oracle makes them before any trainer starts."""

from __future__ import annotations

from collections.abc import Sequence

from bagpipe_hpc.config import Config, EvaluationConfig, LabelConfig, ModelConfig, TableConfig
from bagpipe_hpc.data.item_features import counts_items, item_features
from bagpipe_hpc.data.job_schema import SETTINGS, job_schema
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.trainer.feature_inputs import SequenceInput, sequence_inputs, sequences_of, vectors_of

PAIRING = ("dlrm", "deepfm", "fgcnn")
CONCATENATING = ("wide_deep", "dcn", "dcn_v2", "mmoe", "two_tower")
READING_SEQUENCES = ("din", "sasrec", "bst", "hstu")


def fault_of_model(config: Config, schema: Schema) -> str:
    """Return why a model cannot learn from samples of a schema, and what mends it; an empty string if it can."""
    model = config.model
    if model.factory is not None:
        return ""
    if model.name == "two_tower":
        return _fault_of_towers(config, schema)
    sequences = sequence_inputs(config, schema)
    if model.name in READING_SEQUENCES:
        return _fault_of_sequences(model, schema, sequences) or _fault_of_companions(config, schema)
    if unpooled := sequences_of(config, schema):
        name = unpooled[0].name
        return (
            f"has the sequence {name}, which {model.name} cannot read: set tables.{name}.pooling to mean or sum, or "
            f"choose model.name {', '.join(READING_SEQUENCES)} or two_tower"
        )
    if model.name in PAIRING and schema.num_dense == 0 and schema.num_tables < 2:
        return f"has one table and no dense features: {model.name} needs two vectors to interact; add a feature"
    if model.name == "caser":
        if schema.num_labels > 1:
            return f"has {schema.num_labels} labels: caser predicts one; choose another model.name"
        return _no_sequence(schema)
    return ""


def _fault_of_sequences(model: ModelConfig, schema: Schema, sequences: Sequence[SequenceInput]) -> str:
    if not sequences:
        found = ", ".join(table.name for table in schema.sequences if table.along is None)
        why = f"the settings pool {found}" if found else "the data set has none"
        return f"has no sequence for {model.name} to read ({why}): choose another model.name"
    if model.name == "sasrec" and schema.num_labels > 1:
        return f"has {schema.num_labels} labels: sasrec predicts one; choose another model.name"
    named = model.time_element
    if model.name == "hstu" and named is not None and not any(named in each.integers for each in sequences):
        known = ", ".join(name for each in sequences for name in each.integers)
        return (
            f"has no integer element {named} in its sequences, which model.time_element names; they have "
            f"{known or 'none'}: choose one, or set model.time_element to null"
        )
    for each in sequences:
        if each.target is None:
            return (
                f"has no candidate for the sequence {each.name}: {model.name} compares its elements with a one-hot "
                f"feature that uses the same table; give one that shares it, or set tables.{each.name}.pooling"
            )
    return ""


def _fault_of_towers(config: Config, schema: Schema) -> str:
    label, settings = schema.labels[0], config.labels.get(schema.labels[0].name, LabelConfig())
    if schema.num_labels > 1:
        return f"has {schema.num_labels} labels: two_tower predicts one; choose another model.name"
    if label.kind != "binary":
        return f"has the real-valued label {label.name}: two_tower needs one that is 0 or 1; choose another model.name"
    if settings.loss == "mse" or settings.weight != 1:
        return (
            f"has the label {label.name}, for which labels.{label.name} sets a loss or a weight: the loss of two_tower "
            "is its own; remove these settings"
        )
    if not schema.one_hot_tables:
        return "has no feature with one id per sample: two_tower needs one that says which item a sample has; add it"
    item = {table.name for table in item_features(config, schema)}
    if not schema.num_dense and all(table.name in item for table in schema.tables):
        return (
            f"has only features of the item ({', '.join(sorted(item))}): two_tower needs others for its user tower; "
            "add some, or name fewer in model.item_features"
        )
    return _fault_of_companions(config, schema)


def _fault_of_companions(config: Config, schema: Schema) -> str:
    unpooled = sequences_of(config, schema)
    names = {table.name for table in unpooled}
    for table in unpooled:
        if table.along is not None and table.along not in names:
            return f"has the sequence {table.along}, which the settings pool: set tables.{table.name}.pooling, too"
    return ""


def _fault_of_items(config: Config, schema: Schema) -> str:
    """Return what is wrong with the setting model.item_features."""
    if not counts_items(config):
        return ""
    known, names = {table.name: table for table in schema.tables}, config.model.item_features
    vectors = {table.name for table in vectors_of(config, schema)}
    for name in names:
        if name not in known:
            why = "is a dense feature, and has no table" if name in schema.dense else "is no table of the data set"
            return f"model.item_features: {name} {why}; the tables are {', '.join(known)}"
        if name not in vectors:
            return (
                f"model.item_features: {name} is a sequence, and sequences belong to the user; remove it, or set "
                f"tables.{name}.pooling"
            )
    if names and known[names[0]].ragged:
        one_hot = ", ".join(table.name for table in schema.one_hot_tables)
        return (
            f"model.item_features: {names[0]} comes first, so its id must say which item a sample has, but it is "
            f"ragged; begin with a feature of one id per sample: {one_hot or 'none in this data set'}"
        )
    return ""


def fault_of_labels(config: Config, schema: Schema) -> str:
    """Return which setting of a label contradicts the data set, and what is allowed; empty if no setting does."""
    known = {label.name: label for label in schema.labels}
    for name, settings in config.labels.items():
        if name not in known:
            return f"labels.{name}: the data set has no label of this name; it has {', '.join(known)}"
        if settings.loss == "bce" and known[name].kind == "real":
            return f"labels.{name}.loss = 'bce': {name} is real-valued, and bce is for labels that are 0 or 1; set mse"
    if all(config.labels.get(name, LabelConfig()).weight == 0 for name in known):
        return f"labels: the weight of every label ({', '.join(known)}) is 0, so there is nothing to learn; raise one"
    return _fault_of_judgement(config, schema)


def _fault_of_judgement(config: Config, schema: Schema) -> str:
    evaluation = config.evaluation
    known = {label.name: label for label in schema.labels}
    if evaluation.label is not None and evaluation.label not in known:
        return (
            f"evaluation.label = {evaluation.label!r}: the data set has no label of this name; it has "
            f"{', '.join(known)}"
        )
    is_compared = evaluation.early_stopping_patience is not None or config.checkpoint.keep_best
    if not is_compared and evaluation.metric == EvaluationConfig().metric:
        return ""
    metric, label = evaluation.metric, known[evaluation.label or schema.labels[0].name]
    if (metric == "mse") != (label.kind == "real"):
        kind, cure = ("real-valued", "mse") if label.kind == "real" else ("0 or 1", "auc or log_loss")
        return f"evaluation.metric = {metric!r}: {label.name} is {kind}; set evaluation.metric to {cure}"
    if metric in ("grouped_auc", "hit_rate", "ndcg") and schema.group is None:
        return f"evaluation.metric = {metric!r}: the data set has no groups; set evaluation.metric to auc or log_loss"
    return ""


def fault_of_dynamic_tables(config: Config, schema: Schema, *, evaluates_only: bool = False) -> str:
    """Return which setting or rule of a dynamic table cannot be; empty if all can.

    Args:
        config: The settings.
        schema: As the data set has it, without the settings of the job.
    """
    dynamic = schema.dynamic_tables
    for name, settings in config.tables.items():
        given = [each for each in SETTINGS if getattr(settings, each) is not None]
        if given and name not in dynamic:
            return f"tables.{name}.{given[0]}: only for dynamic tables, here {', '.join(dynamic) or 'none'}"
    for name, rules in job_schema(config, schema).dynamic_tables.items() if not evaluates_only else ():
        if rules.lifetime_in_time is not None and schema.time is None:
            return (
                f"table {name}: ids expire after {rules.expire_after} of data time, but the samples have no times; set "
                f"tables.{name}.expire_after to a number of iterations, as in `500000 iterations`"
            )
        is_in_order = config.training.shuffle_block is None and config.training.epochs == 1
        if rules.lifetime_in_time is not None and not is_in_order:
            return (
                f"table {name}: ids expire after {rules.expire_after} of data time, so the samples must come in time "
                "order: remove training.shuffle_block, and set training.epochs to 1, or set "
                f"tables.{name}.expire_after to a number of iterations"
            )
    items = item_features(config, schema)[:1] if counts_items(config) else ()
    for item in (each for each in items if each in schema.dynamic_features):
        return (
            f"model.name = {config.model.title!r}: it counts how often each row of {item.name} occurs, and rows of a "
            "dynamic table change hands; give the item a table that is not dynamic"
        )
    return ""


def fault_of_tables(config: Config, schema: Schema) -> str:
    """Return which setting of a table contradicts the data set or the model, and what is allowed.

    The result is empty if no setting does.
    """
    known = {table.name: table for table in schema.tables}
    for name, settings in config.tables.items():
        if name not in known:
            names = ", ".join(known)
            return f"tables.{name}: the data set has no table of this name; it has {names}"
        # A default counts as not set: the config.yaml of a run names all settings of a table, defaults too.
        if settings.pooling != TableConfig().pooling and not known[name].ragged:
            ragged = ", ".join(table.name for table in schema.ragged_tables)
            return f"tables.{name}.pooling: {name} has one id per sample; ragged tables are {ragged or 'none'}"
        if settings.max_length is not None and (not known[name].sequence or known[name].along):
            leading = ", ".join(table.name for table in schema.sequences if table.along is None)
            found = f"here {leading}" if leading else "and the data set has none"
            return f"tables.{name}.max_length: only for sequences that go along with no other one, {found}"
        given = {each for each in ("learning_rate", "embedding_dim") if getattr(settings, each) is not None}
        if given and known[name].shares:
            return (
                f"tables.{name}.{min(given)}: {name} uses the rows of {known[name].shares}; "
                f"set tables.{known[name].shares}.{min(given)} instead"
            )
        if problem := _fault_of_dim(settings.embedding_dim, config.model):
            return f"tables.{name}.embedding_dim = {settings.embedding_dim}: {problem}"
    return _fault_of_items(config, schema) or _fault_of_execution(config, schema)


def _fault_of_execution(config: Config, schema: Schema) -> str:
    if config.training.execution == "eager":
        return ""
    if config.model.factory is None and config.model.name == "two_tower":
        return (
            f"training.execution = {config.training.execution!r}: two_tower compares each sample with the others of "
            "its batch, and runs only eagerly; set training.execution to eager"
        )
    if not (sequences := sequences_of(config, schema)):
        return ""
    return (
        f"training.execution = {config.training.execution!r}: the model gets the sequence {sequences[0].name}, whose "
        "length differs from batch to batch; set training.execution to eager"
    )


def _fault_of_dim(dim: int | None, model: ModelConfig) -> str:
    if dim is None or dim == model.embedding_dim:
        return ""
    if dim > model.embedding_dim:
        return f"rows have model.embedding_dim columns, {model.embedding_dim}; raise that to the largest of all tables"
    if model.factory is None and model.name not in CONCATENATING:
        return (
            f"{model.name} needs embeddings of one size; choose model.name {' or '.join(CONCATENATING)}, "
            "or remove the setting"
        )
    return ""


def _no_sequence(schema: Schema) -> str:
    mend = "make the data set again with these tables, or choose another model.name"
    needed = "caser needs the tables user, candidate item and last items, oldest first, and nothing else"
    if schema.num_dense:
        return f"has {schema.num_dense} dense features: {needed}; {mend}"
    if ragged := ", ".join(table.name for table in schema.ragged_tables):
        return f"has ragged tables ({ragged}): {needed}, with one id per sample in each table; {mend}"
    if schema.num_tables < 3:
        return f"has {schema.num_tables} table{'s' if schema.num_tables > 1 else ''}: {needed}; {mend}"
    if len({table.num_embeddings for table in schema.tables[1:]}) > 1:
        names = ", ".join(f"{table.name}: {table.num_embeddings}" for table in schema.tables[1:])
        return f"has tables of different sizes after the first ({names}): {needed}; all items are of one kind; {mend}"
    return ""
