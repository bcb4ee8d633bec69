"""Virtual hosts are what they say: apart, connected at the rate asked for, and gone without a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.hosts import HEAD, VirtualCluster
from tests.launch import REPO_ROOT, start_command

SEND_BYTES = [sys.executable, str(Path(__file__).parent / "programs" / "send_bytes.py")]


def python(cluster: VirtualCluster, host: str, program: str, *arguments: str) -> str:
    return cluster.run(host, [sys.executable, "-c", program, *arguments])


def processes(cluster: VirtualCluster, host: str) -> set[str]:
    program = "import psutil; print(*(process.name() for process in psutil.process_iter()))"
    return set(python(cluster, host, program).split())


def queueing(cluster: VirtualCluster) -> Iterator[dict[str, Any]]:
    """The queueing discipline at both ends of every link."""
    for host in cluster.hosts:
        for place, device in ((HEAD, host), (host, "e0")):
            (discipline,) = json.loads(cluster.run(place, ["tc", "-json", "qdisc", "show", "dev", device]))
            yield discipline


def test_hosts_have_names_and_know_each_other(cluster: VirtualCluster) -> None:
    program = "import socket, sys; print(socket.gethostname(), *map(socket.gethostbyname, sys.argv[1:]))"
    for host in cluster.hosts:
        found = python(cluster, host, program, *cluster.hosts).split()
        assert found == [host, "10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4"]
    assert "bp0" not in Path("/etc/hosts").read_text()


def test_hosts_share_files_but_neither_memory_nor_scratch(cluster: VirtualCluster, tmp_path: Path) -> None:
    cluster.run("bp0", ["touch", str(tmp_path / "shared"), "/dev/shm/own", "/run/own"])
    assert (tmp_path / "shared").exists()
    for own in ("/dev/shm/own", "/run/own"):
        assert not Path(own).exists()
        with pytest.raises(RuntimeError, match="No such file"):
            cluster.run("bp1", ["ls", own])


def test_a_host_sees_its_own_processes_only(cluster: VirtualCluster) -> None:
    assert processes(cluster, "bp0") == {"sh", "cat", "python"}  # its init and who asks


def test_links_are_shaped_in_both_directions_and_carry_all(cluster: VirtualCluster) -> None:
    num_bytes = 2_000_000
    cluster.set_rate(200)
    for discipline in queueing(cluster):
        assert discipline["kind"] == "tbf"
        assert discipline["options"]["rate"] == 200e6 / 8
    before = [cluster.traffic(host) for host in cluster.hosts]
    with start_command(cluster.enter("bp2", [*SEND_BYTES, str(num_bytes)])) as receiver:
        while "listening" not in receiver.output():
            assert receiver.process.poll() is None, receiver.output()
            time.sleep(0.01)
        cluster.run("bp1", [*SEND_BYTES, str(num_bytes), "bp2"])
        assert receiver.wait(timeout=10).stdout == f"listening\n{num_bytes}\n"
    after = [cluster.traffic(host) for host in cluster.hosts]
    sent = [late.sent - early.sent for late, early in zip(after, before, strict=True)]
    received = [late.received - early.received for late, early in zip(after, before, strict=True)]
    assert num_bytes < sent[1] < 1.2 * num_bytes
    assert num_bytes < received[2] < 1.2 * num_bytes
    assert max(sent[0], sent[3], received[0], received[3]) < 0.1 * num_bytes
    cluster.set_rate(None)
    assert {discipline["kind"] for discipline in queueing(cluster)} == {"noqueue"}


def test_a_command_that_hangs_is_killed(cluster: VirtualCluster) -> None:
    with pytest.raises(TimeoutError, match="killed after 1 s"):
        cluster.run("bp3", ["sleep", "600"], timeout=1)
    assert processes(cluster, "bp3") == {"sh", "cat", "python"}


def test_a_host_without_power_is_silent_and_the_others_go_on(cluster: VirtualCluster) -> None:
    with VirtualCluster(3, rate_mbit=100) as other:  # beside the first: same names, same addresses
        with start_command(other.enter("bp1", ["sleep", "600"])) as sleeper:
            other.power_off("bp1")
            assert sleeper.wait(timeout=10).returncode != 0
        with pytest.raises(ValueError, match="bp1 is not up; head, bp0, bp2 is"):
            other.run("bp1", ["true"])
        other.set_rate(None)
        probe = "import socket, sys; socket.create_connection((sys.argv[1], 9), timeout=0.5)"
        with pytest.raises(RuntimeError, match="ConnectionRefused"):  # somebody is there to refuse
            python(other, "bp0", probe, "bp2")
        with pytest.raises(RuntimeError, match=r"[Tt]imed ?out"):
            python(other, "bp0", probe, "bp1")
        other.power_on("bp1")
        with pytest.raises(RuntimeError, match="ConnectionRefused"):
            python(other, "bp0", probe, "bp1")
    assert cluster.run("bp1", ["hostname"]) == "bp1\n"


@pytest.mark.usefixtures("cluster")
def test_nothing_outlives_a_process_that_is_killed() -> None:
    program = (
        "import time; from tests.cluster.hosts import VirtualCluster; from tests.launch import MARK\n"
        "with VirtualCluster(2) as cluster:\n"
        "    cluster.run('bp1', ['sh', '-c', f'env --unset={MARK} setsid sleep 600 </dev/null >/dev/null 2>&1 &'])\n"
        "    print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=REPO_ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    assert len(family) > 6  # three inits and what started them
    assert not psutil.wait_procs(family, timeout=10)[1]
