"""Which data sets a model can learn from, and what is said about the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import pytest

from bagpipe_hpc.config import Config, ModelConfig
from bagpipe_hpc.data.schema import ElementSchema, LabelSchema, Schema, TableSchema
from bagpipe_hpc.trainer.model_check import fault_of_model, fault_of_tables
from bagpipe_hpc.trainer.models import MODELS, SEQUENCE_MODELS
from tests.launch import run_python

SEQUENCE = (900, 50, 50, 50)


def words(name: str, num_dense: int, sizes: tuple[int, ...], ragged: bool = False) -> str:
    tables = tuple(
        TableSchema(name=f"t{index}", num_embeddings=size, ragged=ragged) for index, size in enumerate(sizes)
    )
    dense = tuple(f"d{index}" for index in range(num_dense))
    return fault_of_model(Config.model_validate({"model": {"name": name}}), Schema(dense=dense, tables=tables))


def test_every_name_has_a_model() -> None:
    assert set(get_args(ModelConfig.model_fields["name"].annotation)) == MODELS.keys() | SEQUENCE_MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_only_a_sequence_has_no_ragged_tables(name: str) -> None:
    expected = "has ragged tables (t0, t1, t2, t3): caser needs " if name == "caser" else ""
    assert words(name, 0, SEQUENCE, ragged=True)[: len(expected) or None] == expected


def test_settings_of_tables_fit_the_data_set() -> None:
    seen = TableSchema(name="seen", num_embeddings=5, ragged=True, shares="site")
    site, tags = TableSchema(name="site", num_embeddings=5), TableSchema(name="tags", num_embeddings=9, ragged=True)
    schema = Schema(tables=(site, tags, seen))

    def words(model: str = "dcn", **tables: Mapping[str, object]) -> str:
        settings = {"model": {"name": model, "embedding_dim": 8}, "tables": tables}
        return fault_of_tables(Config.model_validate(settings), schema)

    mean, narrow = {"pooling": "mean"}, {"embedding_dim": 4}
    assert words(tags=mean, site={"learning_rate": 1, **narrow}, seen=mean) == ""
    assert words(tag=mean) == "tables.tag: the data set has no table of this name; it has site, tags, seen"
    assert words(site=mean).startswith("tables.site.pooling: site has one id per sample; ragged tables are tags, seen")
    assert (
        words(seen=narrow)
        == "tables.seen.embedding_dim: seen uses the rows of site; set tables.site.embedding_dim instead"
    )
    assert words(seen={"learning_rate": 1}).startswith("tables.seen.learning_rate: seen uses the rows of site")
    assert "raise that to the largest" in words(tags={"embedding_dim": 9})
    assert "dlrm needs embeddings of one size; choose model.name wide_deep or dcn or dcn_v2" in words(
        "dlrm", tags=narrow
    )
    assert words("dlrm", tags={"embedding_dim": 8}) == ""
    # A run's config.yaml names every setting of a table, and a job that goes on takes it as it is.
    config = Config.model_validate(
        {"model": {"name": "dcn", "embedding_dim": 8}, "tables": {"site": narrow, "seen": mean}}
    )
    assert fault_of_tables(Config.model_validate(config.model_dump(mode="json")), schema) == ""


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"caser"}))
def test_click_logs_fit_every_other_model(name: str) -> None:
    assert words(name, 13, (7, 400, 3)) == words(name, 0, (7, 400)) == words(name, 1, (7,)) == ""


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "fgcnn"])
def test_one_vector_has_nothing_to_interact_with(name: str) -> None:
    assert words(name, 0, (7,)).endswith(f"no dense features: {name} needs two vectors to interact; add a feature")


def test_an_own_model_says_itself_what_it_cannot_learn_from() -> None:
    config = Config.model_validate({"model": {"factory": "my_model:build"}})
    assert fault_of_model(config, Schema(dense=(), tables=(TableSchema(name="t", num_embeddings=7),))) == ""


@pytest.mark.parametrize("name", ["wide_deep", "dcn", "dcn_v2"])
def test_one_table_is_enough_for_models_without_pairs(name: str) -> None:
    assert words(name, 0, (7,)) == ""


def test_caser_takes_user_candidate_and_items() -> None:
    assert words("caser", 0, SEQUENCE) == words("caser", 0, (900, 50, 50)) == ""


@pytest.mark.parametrize(
    ("num_dense", "sizes", "found"),
    [
        (13, SEQUENCE, "has 13 dense features: "),
        (0, (900,), "has 1 table: "),
        (0, (900, 50), "has 2 tables: "),
        (0, (900, 50, 50, 49), "has tables of different sizes after the first (t1: 50, t2: 50, t3: 49): "),
    ],
)
def test_caser_refuses_what_is_no_sequence(num_dense: int, sizes: tuple[int, ...], found: str) -> None:
    said = words("caser", num_dense, sizes)
    assert said.startswith(f"{found}caser needs the tables user, candidate item and last items, oldest first, ")
    assert said.endswith("make the data set again with these tables, or choose another model.name")


def test_asking_needs_no_torch() -> None:
    """Oracle and servers have no use for it."""
    done = run_python(["-c", "import sys, bagpipe_hpc.trainer.model_check; print('torch' in sys.modules)"], timeout=60)
    assert done.stdout.strip() == "False", done.stderr


SEQUENCES = Schema(
    dense=("d",),
    tables=(
        TableSchema(name="item", num_embeddings=7),
        TableSchema(name="seen", num_embeddings=7, ragged=True, sequence=True, shares="item"),
        TableSchema(name="action", num_embeddings=3, ragged=True, sequence=True, along="seen"),
        TableSchema(name="tags", num_embeddings=3, ragged=True),
    ),
)


def test_built_in_models_need_pooled_sequences() -> None:
    assert fault_of_model(Config(), SEQUENCES).startswith(
        "has the sequence seen, which dlrm cannot read: set tables.seen.pooling to mean or sum, or choose model.name"
    )
    tables = {"seen": {"pooling": "mean"}, "action": {"pooling": "sum"}}
    assert fault_of_model(Config.model_validate({"tables": tables}), SEQUENCES) == ""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seen": {"max_length": 5}}, ""),
        (
            {"action": {"max_length": 5}},
            "tables.action.max_length: only for sequences that go along with no other one, here seen",
        ),
        (
            {"tags": {"max_length": 5}},
            "tables.tags.max_length: only for sequences that go along with no other one, here seen",
        ),
    ],
)
def test_lengths_are_those_of_leading_sequences(settings: dict[str, Any], said: str) -> None:
    assert fault_of_tables(Config.model_validate({"tables": settings}), SEQUENCES) == said


def test_sequences_of_any_length_run_eagerly() -> None:
    config = Config.model_validate({"training": {"execution": "compiled"}, "model": {"factory": "my:model"}})
    assert fault_of_tables(config, SEQUENCES).startswith(
        "training.execution = 'compiled': the model gets the sequence seen"
    )


def words_of_towers(schema: Schema, settings: dict[str, Any]) -> str:
    model = {"name": "two_tower", **settings.pop("model", {})}
    config = Config.model_validate({"model": model, **settings})
    return fault_of_model(config, schema) or fault_of_tables(config, schema)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ""),
        ({"model": {"item_features": ["item", "tags"]}, "tables": {"item": {"embedding_dim": 4}}}, ""),
        ({"tables": {"seen": {"pooling": "mean"}, "action": {"pooling": "sum"}}}, ""),
        (
            {"tables": {"seen": {"pooling": "mean"}}},
            "has the sequence seen, which the settings pool: set tables.action.pooling, too",
        ),
        ({"labels": {"label": {"weight": 2}}}, "has the label label, for which labels.label sets a loss or a weight"),
        ({"labels": {"label": {"loss": "mse"}}}, "has the label label, for which labels.label sets a loss or a weight"),
        ({"labels": {"label": {"loss": "bce"}}}, ""),
        (
            {"model": {"item_features": ["film"]}},
            "model.item_features: film is no table of the data set; the tables are item, seen, action, tags",
        ),
        (
            {"model": {"item_features": ["item", "seen"]}},
            "model.item_features: seen is a sequence, and sequences belong to the user; remove it, or set "
            "tables.seen.pooling",
        ),
        (
            {"model": {"item_features": ["tags"]}},
            "model.item_features: tags comes first, so its id must say which item a sample has, but it is ragged; "
            "begin with a feature of one id per sample: item",
        ),
        (
            {"training": {"execution": "compiled"}},
            "training.execution = 'compiled': two_tower compares each sample with the others of its batch",
        ),
    ],
)
def test_two_towers(settings: dict[str, Any], said: str) -> None:
    found = words_of_towers(SEQUENCES, settings)
    assert found.startswith(said)
    assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (Schema(tables=SEQUENCES.tables[3:], dense=("d",)), "has no feature with one id per sample: two_tower needs"),
        (Schema(tables=SEQUENCES.tables[:1]), "has only features of the item (item): two_tower needs others for its"),
        (Schema(tables=SEQUENCES.tables[:1], dense=("d",)), ""),
        (
            Schema(tables=SEQUENCES.tables, labels=(LabelSchema(name="a"), LabelSchema(name="b"))),
            "has 2 labels: two_tower predicts one; choose another model.name",
        ),
        (
            Schema(tables=SEQUENCES.tables, labels=(LabelSchema(name="stars", kind="real"),)),
            "has the real-valued label stars: two_tower needs one that is 0 or 1; choose another model.name",
        ),
        (Schema(tables=SEQUENCES.tables, labels=(LabelSchema(optional=True),), weighted=True), ""),
    ],
)
def test_two_towers_need_one_binary_label_an_item_and_something_else(schema: Schema, said: str) -> None:
    found = words_of_towers(schema, {})
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_own_models_name_items_that_exist() -> None:
    own = {"factory": "my:model", "item_features": ["film"]}
    found = fault_of_tables(Config.model_validate({"model": own}), SEQUENCES)
    assert found.startswith("model.item_features: film is no table of the data set")


@pytest.mark.parametrize(
    ("tables", "settings", "said"),
    [
        (SEQUENCES.tables, {}, ""),
        (SEQUENCES.tables[:1], {}, "has no sequence for din to read (the data set has none)"),
        (
            SEQUENCES.tables,
            {"seen": {"pooling": "sum"}},
            "has no sequence for din to read (the settings pool seen)",
        ),
        (
            (TableSchema(name="seen", num_embeddings=7, ragged=True, sequence=True),),
            {},
            "has no candidate for the sequence seen: din compares its elements with a one-hot feature",
        ),
    ],
)
def test_din_needs_histories_and_candidates(
    tables: tuple[TableSchema, ...], settings: dict[str, Any], said: str
) -> None:
    if settings:
        settings = {**settings, "action": {"pooling": "sum"}}
    config = Config.model_validate({"model": {"name": "din"}, "tables": settings})
    assert fault_of_model(config, Schema(dense=("d",), tables=tables)).startswith(said)


@pytest.mark.parametrize("model", ["mmoe", "dlrm", "din", "hstu"])
def test_companions_are_pooled_with_their_sequence(model: str) -> None:
    tables = (*SEQUENCES.tables, TableSchema(name="read", num_embeddings=7, ragged=True, sequence=True, shares="item"))
    schema = Schema(dense=("d",), tables=tables)
    pooled = {"seen": {"pooling": "mean"}, **({} if model in ("din", "hstu") else {"read": {"pooling": "sum"}})}
    config = Config.model_validate({"model": {"name": model}, "tables": pooled})
    said = fault_of_model(config, schema)
    assert "action" in said
    assert "tables.action.pooling" in said
    config = Config.model_validate({"model": {"name": model}, "tables": {**pooled, "action": {"pooling": "sum"}}})
    assert fault_of_model(config, schema) == ""


@pytest.mark.parametrize(("named", "said"), [(None, ""), ("time", ""), ("stars", "no integer element stars in its")])
def test_times_of_hstu(named: str | None, said: str) -> None:
    elements = (ElementSchema(name="time", kind="integer"), ElementSchema(name="stars"))
    seen = TableSchema(name="seen", num_embeddings=7, ragged=True, sequence=True, shares="item", elements=elements)
    schema = Schema(tables=(TableSchema(name="item", num_embeddings=7), seen))
    config = Config.model_validate({"model": {"name": "hstu", "time_element": named}})
    found = fault_of_model(config, schema)
    assert said in found
    assert bool(said) == bool(found)
