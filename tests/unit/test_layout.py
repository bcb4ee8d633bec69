"""Unit tests stand where their modules stand: `data/test_shard.py` tests `bagpipe_hpc/data/shard.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import REPO_ROOT
from tests.unit.test_layers import PACKAGE

UNIT = REPO_ROOT / "tests" / "unit"

# These test what several modules do together.
SEVERAL_MODULES = {
    "checkpoint/test_damage.py",
    "checkpoint/test_hostile.py",
    "cli/test_output.py",
    "data/test_disk_full.py",
    "data/importing/test_labels.py",
    "data/importing/test_malformed.py",
    "data/importing/test_odd_files.py",
    "data/importing/test_unlabelled.py",
    "lookahead/test_births.py",
    "lookahead/test_brute_force.py",
    "runtime/test_full_disk.py",
    "trainer/test_model_formulas.py",
    "test_api.py",
}
# These test files of the repository: sources as text, documents, scripts, requirements.
REPOSITORY = {
    "test_ci.py",
    "test_docstrings.py",
    "test_env_files.py",
    "test_layers.py",
    "test_layout.py",
    "test_pins.py",
    "test_quickstart.py",
    "test_settings_doc.py",
    "test_setup.py",
}
TESTS = sorted(str(path.relative_to(UNIT)) for path in UNIT.rglob("test_*.py"))


def has_module(test: str) -> bool:
    """Whether the module or package exists that a test is named after."""
    path = REPO_ROOT / PACKAGE / Path(test).parent / Path(test).stem.removeprefix("test_")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("directory", sorted({str(Path(test).parent) for test in TESTS}))
def test_a_directory_of_unit_tests_is_named_after_a_package(directory: str) -> None:
    assert (REPO_ROOT / PACKAGE / directory / "__init__.py").exists()
    assert (UNIT / directory / "__init__.py").exists()


@pytest.mark.parametrize("test", [test for test in TESTS if test not in SEVERAL_MODULES | REPOSITORY])
def test_a_unit_test_is_named_after_its_module(test: str) -> None:
    assert has_module(test), f"tests/unit/{test}: name it after the module it tests; if it tests several, list it here"


def test_exceptions_are_tests_without_a_module() -> None:
    assert {test for test in TESTS if not has_module(test)} == SEVERAL_MODULES | REPOSITORY
