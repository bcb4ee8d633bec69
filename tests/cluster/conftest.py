"""Virtual hosts for the tests of this directory, which are skipped or fail where there can be none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cluster.hosts import VirtualCluster, why_not
from tests.cluster.slurm import SlurmCluster, why_no_slurm
from tests.conftest import TEMPORARY
from tests.integration.conftest import make_dataset
from tests.parts import skip_or_fail


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """On a disk: every host has a /dev/shm of its own."""
    with TemporaryDirectory(prefix="bagpipe-") as path:
        yield Path(path)


@pytest.fixture(scope="session")
def small_dataset() -> Iterator[Path]:
    """As in integration tests, where all hosts see it."""
    with TemporaryDirectory(prefix="bagpipe-") as path:
        yield make_dataset(Path(path) / "small")


@pytest.fixture(scope="session")
def _virtual_hosts() -> Iterator[VirtualCluster]:
    if reason := why_not():
        skip_or_fail("cluster", reason)
    with VirtualCluster(4) as cluster:
        yield cluster


@pytest.fixture
def cluster(_virtual_hosts: VirtualCluster) -> VirtualCluster:
    """Four hosts with links that nothing limits."""
    _virtual_hosts.set_rate(None)
    return _virtual_hosts


@pytest.fixture(scope="session")
def _slurm() -> Iterator[SlurmCluster]:
    if reason := why_not() or why_no_slurm():
        skip_or_fail("cluster", reason)
    with TemporaryDirectory(dir=TEMPORARY, prefix="bagpipe-") as path, SlurmCluster(Path(path), 4) as cluster:
        yield cluster


@pytest.fixture
def slurm(_slurm: SlurmCluster) -> Iterator[SlurmCluster]:
    """A Slurm of four nodes that are idle; what a test leaves running is cancelled."""
    yield _slurm
    _slurm.clear()
