"""Files of env/ for tools that are not at hand: they parse, and what they call is there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.launch import REPO_ROOT

ENV = REPO_ROOT / "env"
FILES = ("environment.yml", "spack.yaml", "apptainer.def", "modulefile", "README.md")


def apptainer_sections() -> dict[str, list[str]]:
    """Lines of each section by its name; those above the first by ""."""
    sections: dict[str, list[str]] = {"": []}
    name = ""
    for line in (ENV / "apptainer.def").read_text().splitlines():
        if line.startswith("%"):
            name = line[1:]
            sections[name] = []
        elif line and not line.startswith("#"):
            sections[name].append(line)
    return sections


def test_conda_gives_what_the_set_up_asks_of_a_machine() -> None:
    described = yaml.safe_load((ENV / "environment.yml").read_text())
    assert set(described) == {"name", "channels", "dependencies"}
    packages = {line.partition("=")[0] for line in described["dependencies"]}
    assert {"python", "gxx", "make", "openmpi-mpicxx"} <= packages


def test_spack_gives_interpreter_and_mpi() -> None:
    described = yaml.safe_load((ENV / "spack.yaml").read_text())["spack"]
    assert set(described) == {"specs", "packages", "concretizer", "view"}
    packages = {spec.partition("@")[0] for spec in described["specs"]}
    assert {"python", *described["packages"]["all"]["providers"]["mpi"]} <= packages


def test_the_image_copies_what_is_there_and_runs_scripts() -> None:
    sections = apptainer_sections()
    assert [line.partition(":")[0] for line in sections[""]] == ["Bootstrap", "From"]
    assert set(sections) == {"", "files", "post", "environment", "runscript", "test"}
    assert all((REPO_ROOT / line.split()[0]).exists() for line in sections["files"])
    for name in ("post", "environment", "runscript", "test"):
        checked = subprocess.run(
            ["sh", "-n"], input="\n".join(sections[name]), text=True, capture_output=True, timeout=9
        )
        assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("path", [ENV / name for name in FILES], ids=FILES)
def test_options_of_scripts_exist(path: Path) -> None:
    known = {script: set(re.findall(r"--[a-z-]+", (ENV / script).read_text())) for script in ("setup.sh", "test.sh")}
    for script, arguments in re.findall(r"env/(setup\.sh|test\.sh)([^\n#`]*)", path.read_text()):
        assert set(re.findall(r"(?<!\S)--[a-z-]+", arguments)) <= known[script], arguments
