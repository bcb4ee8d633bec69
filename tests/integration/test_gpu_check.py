"""`env/gpu_check.sh` in a Python that has little more than PyTorch, without network.

The fetched wheels are the only packages that come over the network, before the test takes it away. The longer check,
with every part:

    env/gpu_check.sh --fetch-wheels WHEELS --python .venv/bin/python
    python -m tests.integration.test_gpu_check BARE
    unshare --net env/gpu_check.sh --wheels WHEELS --python BARE/bin/python --device cpu --minutes 2
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from packaging.requirements import Requirement

from tests.launch import REPO_ROOT, run_command

SCRIPT = str(REPO_ROOT / "env" / "gpu_check.sh")
GIVEN = ("torch", "numpy", "numba", "h5py", "mpi4py", "pip")
SECONDS_TO_FETCH = 120
TINY = ["--trainers", "1", "--batch-sizes", "64", "--dims", "4", "--scale", "0.0001", "--iterations", "2"]
TINY += ["--window", "4", "--repeats", "1"]


def needed_by(names: list[str] | tuple[str, ...]) -> set[str]:
    """The installed packages that some packages need, themselves included."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            needs = [Requirement(line) for line in distribution(name).requires or []]
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def make_bare_python(directory: Path) -> Path:
    """Make a virtual environment with `GIVEN` and what they need. Return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True, timeout=60)
    (packages,) = directory.glob("lib/python*/site-packages")
    for name in needed_by(GIVEN):
        files = distribution(name).files or []
        tops = {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}
        source = Path(str(distribution(name).locate_file("")))
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(source / top)
    return directory / "bin" / "python"


@cache
def without_network() -> tuple[str, ...]:
    """The words that start a command without network; it has not even a loopback interface that is up."""
    words = ("unshare", "--map-root-user", "--net")
    works = shutil.which("unshare") and subprocess.run([*words, "true"], timeout=20, check=False).returncode == 0
    if not works:
        pytest.skip("`unshare --net` does not work here")
    return words


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bare_python(tmp_path_factory.mktemp("bare"))


def check(*options: object) -> CompletedProcess[str]:
    command = [*without_network(), SCRIPT, *map(str, options)]
    return run_command(command, timeout=400, env={"PYTHONPATH": ""})


@pytest.mark.timeout(600)
def test_one_command_checks_a_bare_machine_without_network(bare: Path, tmp_path: Path) -> None:
    fetched = run_command(
        [SCRIPT, "--fetch-wheels", str(tmp_path / "wheels"), "--python", sys.executable], timeout=SECONDS_TO_FETCH
    )
    assert fetched.returncode == 0, fetched.stderr
    out = tmp_path / "out"
    done = check(
        "--wheels", tmp_path / "wheels", "--python", bare, "--output", out, "--device", "cpu", "--minutes", "2",
        "--limit", "tests=1", "--", *TINY,
    )  # fmt: skip
    logs = "\n".join(file.read_text() for file in out.glob("*.log"))
    # The tests do not end within a second: they fail, and the parts after them run.
    assert done.returncode == 1, done.stdout + done.stderr + logs
    summary = (out / "summary.txt").read_text()
    results = {line.split()[0]: line.split(maxsplit=3)[3] for line in summary.splitlines()[:5]}
    assert results.pop("tests") == "FAILED: not finished within 1 s", summary + logs
    assert results == dict.fromkeys(["setup", "doctor", "job", "bench"], "passed"), summary + logs
    assert "kernels on rows" in summary
    assert (out / "bench.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "train=5"], "--limit is 'train=5'; give PART=SECONDS with one of setup doctor tests job bench"),
        (["--only", "test"], "--only has 'test'; the parts are setup doctor tests job bench"),
        (["--device", "tpu"], "--device is 'tpu'; give auto, cpu or gpu"),
        (["--minutes"], "--minutes needs a value"),
        (["--minutes", "soon"], "--minutes is 'soon'; give a number"),
        (["--wheels", "/absent"], "--wheels: /absent is no folder"),
        (["--fast"], "unknown option '--fast'"),
    ],
)
def test_wrong_options_are_refused_before_any_work(options: list[str], message: str) -> None:
    done = subprocess.run([SCRIPT, *options], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"gpu_check: error: {message}")


def test_the_wheels_are_all_that_a_bare_machine_lacks() -> None:
    lines = (REPO_ROOT / "env" / "requirements" / "gpu_check.txt").read_text().splitlines()
    listed = {re.sub(r"[-_.]+", "-", line).lower() for line in lines if not line.startswith("#")}
    assert needed_by(sorted(listed)) == listed


if __name__ == "__main__":
    print(make_bare_python(Path(sys.argv[1])))
