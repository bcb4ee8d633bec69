"""Which data sets a model can learn from, and what is said about the others."""

from __future__ import annotations

from typing import get_args

import pytest

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.training.misfit import misfit
from bagpipe_hpc.training.models import MODELS
from tests.launch import run_python

SEQUENCE = (900, 50, 50, 50)


def words(name: str, num_dense: int, sizes: tuple[int, ...], ragged: bool = False) -> str:
    tables = tuple(
        TableSchema(name=f"t{index}", num_embeddings=size, ragged=ragged) for index, size in enumerate(sizes)
    )
    dense = tuple(f"d{index}" for index in range(num_dense))
    return misfit(ModelConfig.model_validate({"name": name}), Schema(dense=dense, tables=tables))


def test_every_name_has_a_model() -> None:
    assert set(get_args(ModelConfig.model_fields["name"].annotation)) == MODELS.keys()


@pytest.mark.parametrize("name", MODELS)
def test_no_model_takes_ragged_tables(name: str) -> None:
    assert words(name, 0, SEQUENCE, ragged=True).startswith("has ragged tables (t0, t1, t2, t3); ")


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"caser"}))
def test_click_logs_fit_every_other_model(name: str) -> None:
    assert words(name, 13, (7, 400, 3)) == words(name, 0, (7, 400)) == words(name, 1, (7,)) == ""


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "fgcnn"])
def test_one_vector_has_nothing_to_interact_with(name: str) -> None:
    assert words(name, 0, (7,)).endswith(f"no dense features: {name} needs two vectors to interact; add a feature")


def test_an_own_model_says_itself_what_it_cannot_learn_from() -> None:
    model = ModelConfig(factory="my_model:build")
    assert misfit(model, Schema(dense=(), tables=(TableSchema(name="t", num_embeddings=7),))) == ""


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
    assert said.endswith("make the data set again so, or choose another model.name")


def test_asking_needs_no_torch() -> None:
    """Oracle and servers have no use for it."""
    done = run_python(["-c", "import sys, bagpipe_hpc.training.misfit; print('torch' in sys.modules)"], timeout=60)
    assert done.stdout.strip() == "False", done.stderr
