"""Requirements and constraints name one version of everything, and it is the one these tests run with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import distribution, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.launch import REPO_ROOT

REQUIREMENTS = ("build.txt", "run.txt", "dev.txt")


def pins(file_name: str) -> dict[str, str]:
    """Canonical name -> version."""
    lines = (REPO_ROOT / "env" / "requirements" / file_name).read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


DIRECT = {name: version for file_name in REQUIREMENTS for name, version in pins(file_name).items()}


def needed_by(names: Iterable[str]) -> set[str]:
    """All packages that some packages need, themselves included, on this machine and without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(line) for line in distribution(name).requires or []]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.parametrize("file_name", [*REQUIREMENTS, "constraints.txt"])
def test_what_is_installed_is_what_is_pinned(file_name: str) -> None:
    installed = {name: version(name).partition("+")[0] for name in pins(file_name)}
    assert installed == pins(file_name)


def test_the_simulator_of_cache_policies_is_the_pinned_one() -> None:
    pytest.importorskip("libcachesim")
    assert {"libcachesim": version("libcachesim")} == pins("simulation.txt")


def test_every_package_that_another_needs_is_pinned() -> None:
    only_cuda = {name for name in needed_by(["torch"]) if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert needed_by(DIRECT) - set(DIRECT) - only_cuda == set(pins("constraints.txt"))
