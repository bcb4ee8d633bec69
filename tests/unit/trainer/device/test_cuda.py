"""CUDA has one home: the device layer. What it does on a GPU is for tests/gpu/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.launch import REPO_ROOT

PACKAGE = REPO_ROOT / "bagpipe_hpc"
LAYER = PACKAGE / "trainer" / "device"
SOURCES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if LAYER not in path.parents)
# To look at the kind of a device, and to move a tensor to another one, is for the layer too.
FOREIGN = re.compile(r"cuda|nvidia_|\.device\.type|\.cpu\(\)|pin_memory|non_blocking|\.to\(device\)", re.IGNORECASE)
# The model is read when training is over or stands still; the peers of a benchmark are systems of their own.
ALLOWED = {"trainer/dense_gradients.py": {".cpu()"}, "trainer/dense_state.py": {".cpu()"}}
ALLOWED |= {"bench/peers/sharded.py": {"non_blocking", "pin_memory"}}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_no_other_module_names_it(source: Path) -> None:
    found = {match.lower() for match in FOREIGN.findall((PACKAGE / source).read_text(encoding="utf-8"))}
    foreign = found - ALLOWED.get(source.as_posix(), set())
    assert not foreign, f"{source}: {sorted(foreign)} belongs into bagpipe_hpc/trainer/device/"
