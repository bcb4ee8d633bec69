"""The page of a data set shows what `bagpipe inspect` found."""

from __future__ import annotations

import json
import re

import pytest

from bagpipe_hpc.data.dataset import Dataset
from bagpipe_hpc.data.inspect import inspect_dataset
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.report import page
from bagpipe_hpc.report.dataset_page import page_of_dataset


@pytest.fixture(autouse=True)
def small_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_library", lambda: "/* Vega */")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("data") / "a <b>&"
    return synthesize(path, 14_000, "criteo-kaggle", scale=0.001)


def test_all_that_was_found_is_shown(dataset: Dataset) -> None:
    text = page_of_dataset(dataset, inspect_dataset(dataset))
    assert "<title>a &lt;b&gt;&amp;</title>" in text
    assert re.search(r"(src|href)=.?(https?:|//)", text) is None
    found = re.search(r'id="specs">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    assert list(json.loads(found[1])) == ["reuses", "slots", "batches", "skew", "tables"]
    for said in ("What it means for lookahead.window and cache.rows", "hottest 1 %", "drift", "C26", "Splits"):
        assert said in text


def test_nothing_was_read(dataset: Dataset) -> None:
    text = page_of_dataset(dataset, inspect_dataset(dataset, max_samples=0))
    assert "0 were read" in text
    assert "What it means for" not in text
