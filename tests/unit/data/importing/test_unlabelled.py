"""Samples without labels: for predictions only, and the data set says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bagpipe_hpc.cli.main import app
from bagpipe_hpc.data.dataset import Dataset, open_dataset, require_labels
from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.errors import ConfigError, DatasetError

ImportTable = Callable[..., Dataset]
FEATURES = {"dense": ["d"], "categorical": ["c"], "lists": ["l"]}
WITHOUT = TableDescription.model_validate(FEATURES)
WITH = TableDescription.model_validate({"label": "y", **FEATURES})


@pytest.fixture
def trained(import_table: ImportTable, tmp_path: Path) -> Dataset:
    (tmp_path / "trained.csv").write_text("y,d,c,l\n" + "1,1,a,x|y\n0,2,b,z\n" * 5)
    return import_table([tmp_path / "trained.csv"], tmp_path / "trained", WITH, min_count=1)


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("description", [WITHOUT, WITH.without_label()])
@pytest.mark.parametrize("has_label", [True, False])
def test_a_data_set_of_them(
    import_table: ImportTable,
    trained: Dataset,
    tmp_path: Path,
    num_ranks: int,
    description: TableDescription,
    has_label: bool,
) -> None:
    lines = [f"{number},{'ab'[number % 2]},z" for number in range(10)]
    header, label = ("y,d,c,l", "?,") if has_label else ("d,c,l", "")
    (tmp_path / "new.csv").write_text("\n".join([header, *(label + line for line in lines)]))
    options = {"vocabulary": trained.path, "samples_per_shard": 4, "num_ranks": num_ranks}
    dataset = import_table([tmp_path / "new.csv"], tmp_path / "new", description, **options)
    assert not dataset.schema.labelled
    assert (dataset.train.num_samples, dataset.validation.num_samples) == (0, 10)
    assert dataset.schema.tables == trained.schema.tables
    batch = next(dataset.validation.batches(10))
    assert batch.labels.tolist() == [0] * 10
    assert batch.dense[:, 0].tolist() == list(range(10))
    [expected] = {tuple(row) for row in next(trained.train.batches(1)).ids.tolist()}
    assert batch.ids[0].tolist() == list(expected)
    with pytest.raises(
        DatasetError, match="its samples have no labels, which training needs; use it for `bagpipe predict` only"
    ):
        require_labels(dataset, "training")


def test_without_a_vocabulary_all_values_are_counted(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("d,c,l\n1,a,x\n2,b,\n")
    dataset = import_table([tmp_path / "new.csv"], tmp_path / "new", WITHOUT, min_count=1)
    assert dataset.schema.num_embeddings == (3, 2)


def test_files_without_a_header_may_lack_the_labels_column(import_table: ImportTable, tmp_path: Path) -> None:
    given = {"label": 1, "categorical": ["c", {"column": 2, "name": "d"}], "columns": ["y", "c"]}
    description = TableDescription.model_validate(given)
    (tmp_path / "a.csv").write_text("a\nb\n")
    dataset = import_table([tmp_path / "a.csv"], tmp_path / "lacks", description.without_label(), min_count=1)
    assert dataset.validation.num_samples == 2
    assert dataset.schema.num_embeddings == (3, 3)
    (tmp_path / "b.csv").write_text("0,a\n,b\n")
    dataset = import_table([tmp_path / "b.csv"], tmp_path / "has", description.without_label(), min_count=1)
    assert dataset.validation.num_samples == 2
    with pytest.raises(DatasetError, match=r"but 2 are needed \(is this a file without labels\? then import it"):
        import_table([tmp_path / "a.csv"], tmp_path / "none", description, min_count=1)


def test_a_split_makes_no_sense(import_table: ImportTable, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("d,c,l\n1,a,x\n")
    with pytest.raises(ConfigError, match=r"all become the validation split, .*; remove --validation-fraction"):
        import_table([tmp_path / "new.csv"], tmp_path / "new", WITHOUT, validation_fraction=0.5)


def test_the_commands(tmp_path: Path) -> None:
    line = "\t".join(["5"] * 13 + ["c0ffee"] * 26) + "\n"
    (tmp_path / "test.txt").write_text(line * 3)
    arguments = ["import", "criteo", str(tmp_path / "test.txt"), "--output", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, DatasetError)
    done = CliRunner().invoke(app, [*arguments, "--no-label", "--min-count", "1"], catch_exceptions=False)
    assert "3 samples without labels, only for `bagpipe predict`" in done.output
    assert "give --vocabulary the data set that it was trained on" in " ".join(done.output.split())
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")], catch_exceptions=False).output
    assert "no labels: only for `bagpipe predict`" in shown
    assert "nan" not in shown
    verified = CliRunner().invoke(app, ["inspect", "--verify", str(tmp_path / "out")], catch_exceptions=False)
    assert (verified.exit_code, "damaged" in verified.output) == (0, False)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["schema"]["labelled"] is False
    open_dataset(tmp_path / "out")


def test_weights_and_groups_of_the_training_data_are_not_needed(import_table: ImportTable, tmp_path: Path) -> None:
    description = TableDescription.model_validate({"label": "y", "weight": "w", "group": "u", "categorical": ["c"]})
    (tmp_path / "trained.csv").write_text("y,w,u,c\n" + "1,1,u,a\n0,2,v,b\n" * 5)
    trained = import_table([tmp_path / "trained.csv"], tmp_path / "trained", description, min_count=1)
    (tmp_path / "new.csv").write_text("c\na\nb\n")
    options = {"vocabulary": trained.path}
    dataset = import_table([tmp_path / "new.csv"], tmp_path / "new", description.without_label(), **options)
    assert next(dataset.validation.batches(2)).ids.tolist() == next(trained.train.batches(2)).ids.tolist()
