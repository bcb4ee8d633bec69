"""The rules of dynamic tables, in schemas, in shards, and with the settings of a job."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.config import load_config
from bagpipe_hpc.data.dataset import DatasetWriter, open_dataset
from bagpipe_hpc.data.inspect import inspect_dataset
from bagpipe_hpc.data.job_schema import job_schema
from bagpipe_hpc.data.schema import Schema, TableSchema
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import ConfigError, DatasetError
from bagpipe_hpc.trainer.model_check import fault_of_dynamic_tables

RULES = DynamicSchema(capacity=10, default_rows=2)
TABLES = (
    TableSchema(name="item", num_embeddings=5),
    TableSchema(name="user", num_embeddings=12, dynamic=RULES),
    TableSchema(name="friends", num_embeddings=12, ragged=True, shares="user"),
)
SCHEMA = Schema(tables=TABLES)
ANY = [-(2**63), -1, 0, 2**63 - 1]


@pytest.mark.parametrize(
    ("given", "iterations", "time"),
    [
        (None, None, None),
        ("500000 iterations", 500_000, None),
        ("30d", None, 30 * 86400),
        ("2 h", None, 7200),
        ("5m", None, 300),
        ("7s", None, 7),
        ("12 units", None, 12),
    ],
)
def test_lifetimes(given: str | None, iterations: int | None, time: int | None) -> None:
    rules = DynamicSchema(capacity=1, expire_after=given)
    assert (rules.lifetime, rules.lifetime_in_time) == (iterations, time)


@pytest.mark.parametrize("given", ["0d", "-1d", "1", "d", "1.5d", "1 day", "1w", "iterations", "", "1" * 19 + "d"])
def test_lifetimes_that_are_none(given: str) -> None:
    with pytest.raises(ValidationError, match="must be a number of iterations, as in `500000 iterations`, or a time"):
        DynamicSchema(capacity=1, expire_after=given)
    with pytest.raises(ConfigError, match=r"tables\.user\.expire_after = .*: must be a number of iterations"):
        load_config(None, [f"tables.user.expire_after='{given}'"])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"num_embeddings": 11, "dynamic": RULES}, "has 11 rows, but capacity and default_rows make 12"),
        ({"num_embeddings": 12, "shares": "x", "dynamic": RULES}, "uses the rows of x, so x says what is dynamic"),
    ],
)
def test_schemas_that_cannot_be(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TableSchema(name="user", **table)


def test_who_is_dynamic() -> None:
    assert [table.name for table in SCHEMA.dynamic_features] == ["user", "friends"]
    assert SCHEMA.dynamic_tables == {"user": RULES}
    assert SCHEMA.num_embeddings == (5, 12)


def batch_of(items: list[int], users: list[int]) -> Batch:
    ids = np.stack([np.array(items), np.array(users)], axis=1)
    friends = Bags(np.array([0, 0, len(users), len(users), len(users)]), np.array(users))
    return Batch(np.zeros(4, np.float32), np.zeros((4, 0), np.float32), ids, {"friends": friends})


def test_any_id_is_stored(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", SCHEMA) as writer:
        writer.append("train", batch_of([0, 1, 2, 4], ANY))
    dataset = open_dataset(tmp_path / "data")
    found = dataset.train.read(0, 4)
    assert found.ids[:, 1].tolist() == found.bags["friends"].ids.tolist() == ANY
    report = inspect_dataset(dataset)
    assert [(table.num_distinct, table.num_accesses) for table in report.tables] == [(4, 4), (3, 3), (3, 3)]


def test_ids_of_other_tables_are_checked(tmp_path: Path) -> None:
    with (
        pytest.raises(DatasetError, match=r"sample 3: table 'item': row id 5 is outside \[0, 5\)"),
        DatasetWriter(tmp_path / "data", SCHEMA) as writer,
    ):
        writer.append("train", batch_of([0, 1, 2, 5], ANY))


def test_settings_of_a_job() -> None:
    settings = ["capacity=20", "admit_after=3", "expire_after=5 iterations", "at_capacity=oldest"]
    config = load_config(None, [f"tables.user.{setting}" for setting in settings])
    schema = job_schema(config, SCHEMA)
    rules = DynamicSchema(capacity=20, admit_after=3, expire_after="5 iterations", at_capacity="oldest", default_rows=2)
    assert schema.dynamic_tables == {"user": rules}
    assert [table.num_embeddings for table in schema.tables] == [5, 22, 22]
    never = job_schema(load_config(None, ["tables.user.expire_after=never"]), schema)
    assert never.dynamic_tables["user"].expire_after is None
    assert job_schema(load_config(None, []), SCHEMA) == SCHEMA


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("tables.item.capacity=3", r"tables\.item\.capacity: only for dynamic tables, here user"),
        ("tables.friends.admit_after=3", r"tables\.friends\.admit_after: only for dynamic tables, here user"),
        ("model.name=two_tower model.item_features=[user]", "counts how often each row of user occurs, and rows of a"),
        ("tables.user.expire_after=3d training.epochs=2", "the samples must come in time order: remove training.shuf"),
        ("tables.user.expire_after=3d training.shuffle_block=9", "so the samples must come in time order"),
        ("tables.user.expire_after=3d", r"ids expire after 3d of data time, but the samples have no times; set tables"),
    ],
)
def test_settings_that_do_not_fit(setting: str, said: str) -> None:
    schema = SCHEMA.model_copy(update={"time": "t"}) if "training" in setting else SCHEMA
    fault = fault_of_dynamic_tables(load_config(None, setting.split()), schema)
    assert re.search(said, fault)
    evaluates_only = fault_of_dynamic_tables(load_config(None, setting.split()), schema, evaluates_only=True)
    assert bool(evaluates_only) == ("expire_after" not in setting)
    assert fault_of_dynamic_tables(load_config(None, ["tables.user.capacity=3"]), SCHEMA) == ""
