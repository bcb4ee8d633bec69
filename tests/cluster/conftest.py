"""Virtual hosts for the tests of this directory, which are skipped where there can be none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import VirtualCluster, why_no_ranks, why_not
from tests.cluster.slurm import SlurmCluster, why_no_slurm
from tests.integration.conftest import memory_directory, small_dataset

__all__ = ["small_dataset"]  # a fixture


@pytest.fixture(scope="session")
def _virtual_hosts() -> Iterator[VirtualCluster]:
    if reason := why_not():
        pytest.skip(reason)
    with VirtualCluster(4) as cluster:
        yield cluster


@pytest.fixture
def cluster(_virtual_hosts: VirtualCluster) -> VirtualCluster:
    """Four hosts with links that nothing limits."""
    _virtual_hosts.set_rate(None)
    return _virtual_hosts


@pytest.fixture
def mpi_cluster(cluster: VirtualCluster) -> VirtualCluster:
    """The same, where this environment's mpirun can start ranks on them."""
    if reason := why_no_ranks():
        pytest.skip(reason)
    return cluster


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A Slurm of four nodes, for all tests that ask for one."""
    if reason := why_not() or why_no_ranks() or why_no_slurm():
        pytest.skip(reason)
    with memory_directory(tmp_path_factory.mktemp("slurm")) as path, SlurmCluster(Path(path), 4) as cluster:
        yield cluster
