"""What only shows between hosts: bytes that cross a network, accesses that take time, a failure on another host."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.cluster.hosts import VirtualCluster
from tests.cluster.programs.one_sided import NUM_BYTES
from tests.contract import SCENARIOS
from tests.launch import REPO_ROOT, run_ranks

ONE_SIDED = str(Path(__file__).parent / "programs" / "one_sided.py")
CONTRACT = str(REPO_ROOT / "tests" / "parallel" / "programs" / "transport.py")
FAILURE = str(REPO_ROOT / "tests" / "parallel" / "programs" / "failure.py")
ROLES_ON_HOSTS = ("bp0", "bp0", "bp1", "bp2", "bp3")  # oracle and server, server, trainer, trainer
START_SECONDS = 60  # until a job trains, on a slow machine
END_SECONDS = 10  # from a fault until no process is left

# No Get or Put is waited for: neither until it is complete at the trainer, nor until it is at the server.
WITHOUT_COMPLETION = f"""
import runpy
from bagpipe_hpc.transport import staged, window
staged.wait_all = window.wait_all = lambda requests: None
window.RowWindow.flush = lambda window, server: None
runpy.run_path({CONTRACT!r}, run_name="__main__")
"""


def train(dataset: Path, run_dir: Path, *settings: str) -> list[str]:
    settings = ("roles.servers=2", "training.threads=1", "model.embedding_dim=8", *settings)
    overrides = [word for setting in settings for word in ("--set", setting)]
    return ["-m", "bagpipe_hpc", "train", "--data", str(dataset), "--run-dir", str(run_dir), *overrides]


def summary(done: CompletedProcess[str], run_dir: Path) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return content


def bytes_sent(cluster: VirtualCluster) -> dict[str, int]:
    return {host: cluster.traffic(host).sent for host in cluster.hosts}


def test_rank_r_is_on_the_host_asked_for(cluster: VirtualCluster) -> None:
    program = "from mpi4py import MPI; import socket; print(MPI.COMM_WORLD.gather(socket.gethostname()))"
    done = cluster.run_ranks(["bp2", "bp0", "bp0", "bp3"], ["-c", program], timeout=30)
    assert "['bp2', 'bp0', 'bp0', 'bp3']" in done.stdout, done.stdout + done.stderr


def test_put_and_get_cross_the_network(cluster: VirtualCluster) -> None:
    before = bytes_sent(cluster)
    done = cluster.run_ranks(["bp0", "bp1"], ["-m", "mpi4py", ONE_SIDED], timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    after = bytes_sent(cluster)
    assert after["bp0"] - before["bp0"] > NUM_BYTES  # the Get
    assert after["bp1"] - before["bp1"] > NUM_BYTES  # the Put


def test_transports_keep_their_contract(cluster: VirtualCluster) -> None:
    done = cluster.run_ranks(["bp0", "bp1", "bp2", "bp3"], ["-m", "mpi4py", CONTRACT, "2"], timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("as it should be") == 3 * len(SCENARIOS)


def test_without_completion_the_contract_is_broken(cluster: VirtualCluster) -> None:
    cluster.set_rate(100)
    done = cluster.run_ranks(["bp0", "bp1"], ["-m", "mpi4py", "-c", WITHOUT_COMPLETION, "1"], timeout=30)
    assert done.returncode != 0
    assert "rows fetched by trainer 0" in done.stderr, done.stderr


def test_training_on_four_hosts_equals_training_on_one(
    cluster: VirtualCluster, small_dataset: Path, tmp_path: Path
) -> None:
    settings = ("lookahead.window=8", "lookahead.prefetch_depth=4", "training.batch_size=100")
    one = run_ranks(5, train(small_dataset, tmp_path / "one", *settings), timeout=START_SECONDS)
    before = bytes_sent(cluster)
    command = train(small_dataset, tmp_path / "four", *settings)
    four = cluster.run_ranks(ROLES_ON_HOSTS, command, timeout=START_SECONDS)
    after = bytes_sent(cluster)
    expected, found = summary(one, tmp_path / "one"), summary(four, tmp_path / "four")
    assert found["model_digest"] == expected["model_digest"]
    assert found["validation_auc"] == expected["validation_auc"]
    assert "oracle on bp0; servers on bp0, bp1; trainers on bp2, bp3" in four.stdout
    sent = {host: after[host] - before[host] for host in cluster.hosts}
    assert sent["bp0"] + sent["bp1"] > found["bytes_fetched"]
    assert sent["bp2"] + sent["bp3"] > found["bytes_written_back"]
    placement = ("roles.placement=by-hostname", "roles.server_hosts=[bp1, bp2, bp3]")
    command = train(small_dataset, tmp_path / "placed", *settings, *placement)
    placed = cluster.run_ranks(ROLES_ON_HOSTS, command, timeout=START_SECONDS)
    assert summary(placed, tmp_path / "placed")["model_digest"] == expected["model_digest"]
    assert "oracle on bp1; servers on bp2, bp3; trainers on bp0 x 2" in placed.stdout


def test_an_error_on_one_host_ends_the_job_on_all(cluster: VirtualCluster) -> None:
    done = cluster.run_ranks(["bp0", "bp1", "bp2"], [FAILURE, "2", "main", "own"], timeout=30)
    assert done.returncode != 0
    assert "bagpipe: error: trainer 0 (rank 2) on host bp2: raise cache.rows\n" in done.stderr


@pytest.mark.parametrize("rank", [4])
def test_a_rank_that_is_killed_ends_the_job_on_all_hosts(
    cluster: VirtualCluster, small_dataset: Path, tmp_path: Path, rank: int
) -> None:
    host = ROLES_ON_HOSTS[rank]
    command = train(small_dataset, tmp_path / "run", "training.epochs=1000000")
    with cluster.start_ranks(ROLES_ON_HOSTS, command) as run:
        metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + START_SECONDS
        while not (metrics.exists() and metrics.stat().st_size > 0):
            assert run.process.poll() is None, run.output()
            assert time.monotonic() < deadline, run.output()
            time.sleep(0.02)
        run.kill_rank(rank, signal.SIGKILL)
        done = run.wait(timeout=END_SECONDS)  # until no host has a process of it
    assert done.returncode != 0
    # The launcher names the host, of this one, or of a peer that saw its connection close and was first to abort.
    named = rf"process rank \d+ with PID \d+ on node \w+|Peer host: +{host}|PID \d+ RUNNING AT {host}"
    assert re.search(named, done.stdout + done.stderr), done.stdout + done.stderr
