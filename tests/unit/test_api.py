"""The package itself: the Python API is there, and costs nothing until it is used."""

from __future__ import annotations

import pytest

import bagpipe_hpc
from bagpipe_hpc.config import load_config
from bagpipe_hpc.errors import ConfigError
from tests.launch import run_python


def test_importing_the_package_imports_neither_mpi_nor_torch() -> None:
    program = "import sys, bagpipe_hpc; print(*({'mpi4py', 'torch', 'horovod', 'h5py'} & sys.modules.keys()))"
    done = run_python(["-c", program], timeout=60)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_a_session_is_entered_before_it_is_iterated() -> None:
    program = "import bagpipe_hpc; iter(bagpipe_hpc.session(data='clicks', run_dir='run'))"
    done = run_python(["-c", program], timeout=60)
    assert (
        "OwnModelError: a session must be entered before its loop: use `with bagpipe_hpc.session(...) as session:`"
        in done.stderr
    )


def test_what_there_is_not() -> None:
    assert {"run", "session", "ModelInputs", "JaggedSequence"} < set(bagpipe_hpc.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        bagpipe_hpc.train  # noqa: B018


@pytest.mark.parametrize("config", [5, b"x", [], "\0", "\ud800", "job\0.yaml"])
def test_settings_that_are_none_are_refused(config: object) -> None:
    with pytest.raises(ConfigError):
        load_config(config, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["\0", 5, None])
def test_a_directory_that_is_no_path_is_refused(path: object) -> None:
    with pytest.raises(ConfigError, match=r"run_dir = .* is not a path"):
        bagpipe_hpc.run(data="clicks", run_dir=path, local=True)  # type: ignore[arg-type]
