"""A disk that is full at any moment: one error that says so, and nothing is left."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bagpipe_hpc.data.importing.description import TableDescription
from bagpipe_hpc.data.importing.importer import ImportSettings, import_files
from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.errors import DatasetError
from tests.launch import run_python
from tests.small_disk import SmallDisk, small_disk

DESCRIPTION = TableDescription.model_validate(
    {"label": 1, "categorical": [{"column": 2, "name": "user"}], "columns": ["y", "u"]}
)
PAGE = 4096
NO_SPACE = "(cannot be written|cannot be made|cannot be finished).*No space left on device.*(free space|choose another)"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", PAGE) as disk:
        yield disk


def synthetic(output: Path) -> None:
    synthesize(output, 3000, "avazu", scale=0.001, bag_size=3, samples_per_shard=1000)


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[Path], None]:
    table = tmp_path / "clicks.csv"
    table.write_text("".join(f"{i % 2},user{i % 2000}\n" for i in range(4000)))
    settings = ImportSettings(min_count=1, samples_per_shard=1000)
    return lambda output: import_files([table], output, DESCRIPTION, settings)


def fill_up_with(disk: SmallDisk, make: Callable[[Path], None]) -> int:
    """Make a data set on disks that grow until it fits; returns how many were too small."""
    for attempt in range(1000):
        disk.resize((attempt + 1) ** 3 * PAGE)
        try:
            make(disk.path / "clicks")
        except DatasetError as error:
            gc.collect()  # what is destroyed late must not complain either: warnings are errors
            said = str(error)
        else:
            assert disk.names() == ["clicks"]
            return attempt
        assert disk.names() == [], "nothing is left"
        assert re.search(NO_SPACE, said), said
    raise AssertionError("no disk is large enough")


def test_synthetic_data(disk: SmallDisk) -> None:
    assert fill_up_with(disk, synthetic) > 5


def test_imported_data(disk: SmallDisk, imported: Callable[[Path], None]) -> None:
    """The vocabulary is written first, dataset.json last: disks of every size between are full at each of them."""
    assert fill_up_with(disk, imported) > 3


def test_the_command_ends_with_one_line(disk: SmallDisk) -> None:
    disk.resize(100 * PAGE)
    command = ["-m", "bagpipe_hpc", "synth", "--output", str(disk.path / "clicks"), "--samples", "20000"]
    done = run_python(command, timeout=120)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("preparing", "writing"))]
    assert (done.returncode, len(lines)) == (2, 1), done.stderr
    assert "cannot be written (No space left on device); free space" in lines[0]
    assert disk.names() == []
