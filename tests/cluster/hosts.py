"""Several hosts on one machine, in namespaces: own network, host name, IPC, processes, /dev/shm and scratch.

    head, 10.77.0.254                  mpirun runs here
      bridge "switch"
        port bp0 ===== e0  bp0, 10.77.0.1       each link is a veth pair; tbf shapes what leaves either end
        port bp1 ===== e0  bp1, 10.77.0.2
        ...

All hosts see the machine's files, as they would a parallel file system; only /dev/shm, /run (where TMPDIR is), /sys
(with their own link in it) and /etc/hosts are their own. Of /dev/shm they may share one directory.

There is hardly anything to clean up. Only the control groups of hosts with a bound on their processor time have names
on the machine (cpu_quota.py). Namespaces, links and mounts have none: they last as long as processes in them. The
hosts' process namespaces are within the head's, whose init ends when its stdin does: when the cluster is closed, or
when this process dies, in whichever way. So clusters of several processes never meet.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType

import psutil

from tests.cluster.cpu_quota import CpuQuota
from tests.launch import OPEN_MPI, Run, find_mpirun, open_mpi_version, run_command, start_command

HEAD = "head"
SUBNET = "10.77.0"
SECONDS = 30.0  # for what takes milliseconds, unless the kernel is still busy with the end of other namespaces
NAMESPACES = ("--net", "--uts", "--ipc", "--pid", "--mount")
ENTER_HOST = str(Path(__file__).with_name("enter_host.sh"))
# What Open MPI needs to know of these hosts, 5 and 4: neither looks at the other's variables.
MPI_ENVIRONMENT = {
    "TMPDIR": "/run",
    "PRTE_MCA_plm_ssh_agent": ENTER_HOST,
    "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
    "PRTE_MCA_prte_if_include": f"{SUBNET}.0/24",
    "OMPI_MCA_plm_rsh_agent": ENTER_HOST,
    "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
    "OMPI_MCA_oob_tcp_if_include": f"{SUBNET}.0/24",
    "OMPI_MCA_btl_tcp_if_include": f"{SUBNET}.0/24",
    "OMPI_MCA_pml": "ob1",
    **OPEN_MPI,
    "OMPI_MCA_osc": "^pt2pt" if open_mpi_version() == 4 else "^ucx",  # over TCP, Open MPI 4 has none but osc/ucx
}

# The init of the head and of every host: it waits for the end of the pipe to this process, and meanwhile for orphans,
# as an init must. When it ends, the kernel kills what is left in its process namespace. The first word of
# /proc/self/stat is its process id in the outer namespace, as long as that one's /proc is mounted.
_BEGIN = """
read -r pid _ </proc/self/stat
hostname "$1"
mount -t proc proc /proc
ip link set lo up
"""
_HEAD = """
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/hosts
printf '%s\n' "$3" >/run/names
mount --bind /run/names /etc/hosts
ip link add switch type bridge
ip address add "$2" dev switch
ip link set switch up
"""
_HOST = """
echo "$pid" >"/run/hosts/$1"
mount -t tmpfs -o mode=1777 tmpfs /run
if [ -n "$2" ]; then
  mkdir /run/shared
  mount --bind "$2" /run/shared
fi
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
if [ -n "$2" ]; then
  mkdir -p "$2"
  mount --move /run/shared "$2"
fi
mkdir /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
"""
_END = """
echo "$pid"
exec 3<&0 >/dev/null 2>&1
cat <&3 &
wait
"""
_PROBE = """
ip link add name bp0 type veth peer name bp1
tc qdisc replace dev bp0 root tbf rate 1mbit burst 10kb latency 50ms
"""


def why_not() -> str | None:
    """Why this machine cannot have virtual hosts; None if it can."""
    try:
        probe = _call(_unshare(_PROBE))
    except FileNotFoundError:
        return "virtual hosts need unshare, of util-linux"
    if probe.returncode == 0:
        return None
    return f"virtual hosts need root, ip, tc, and veth and tbf in the kernel: {probe.stderr.strip()}"


@dataclass(frozen=True)
class Traffic:
    """Bytes that crossed a host's link so far, headers included."""

    received: int
    sent: int


class VirtualCluster:
    """Hosts bp0, bp1, ... from `with` to the end of its block.

    Args:
        num_hosts: At most 200.
        rate_mbit: What each link carries in either direction, in Mbit/s; None: as fast as the machine can.
        shared: A directory that all hosts see though it is in /dev/shm.
        cores: The processor time of each host: so many cores' worth, may be a fraction; None: no limit.
    Raises:
        RuntimeError: a host does not start; quotes the first complaint.
    """

    def __init__(
        self,
        num_hosts: int,
        rate_mbit: float | None = None,
        shared: Path | None = None,
        cores: float | None = None,
    ) -> None:
        self.hosts = tuple(f"bp{index}" for index in range(num_hosts))
        self._addresses = {HEAD: f"{SUBNET}.254"} | {host: f"{SUBNET}.{i}" for i, host in enumerate(self.hosts, 1)}
        self._shared = shared
        self._rate_mbit = rate_mbit
        self._cores = cores
        self.quotas: dict[str, CpuQuota] = {}  # by host
        self._inits: list[subprocess.Popen[str]] = []
        self._pids: dict[str, int] = {}  # the head's as this process sees it, the hosts' as the head does

    def __enter__(self) -> VirtualCluster:
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the cluster; on return all are gone, and with them links and mounts."""
        for init in self._inits:  # the head's is the first: it waits for the end of all others
            assert init.stdin is not None
            assert init.stdout is not None
            init.stdin.close()
            try:
                init.wait(SECONDS)
            except subprocess.TimeoutExpired:  # it never came to wait for the end of stdin
                init.kill()
                init.wait(SECONDS)
            init.stdout.close()
        self._inits.clear()
        self._pids.clear()
        while self.quotas:
            self.quotas.popitem()[1].remove()

    def set_rate(self, mbit: float | None) -> None:
        """Shape all links, both directions of each; see the class."""
        if mbit is None:
            discipline = ["noqueue"]
        else:
            # A burst holds what may leave between two ticks of a slow clock, and two of the kernel's largest packets.
            burst = max(2 * 65536, round(mbit * 1e6 / 8 / 250))
            discipline = ["tbf", "rate", f"{mbit}mbit", "burst", f"{burst}b", "latency", "200ms"]
        for host in self.hosts:
            if host in self._pids:
                self.run(HEAD, ["tc", "qdisc", "replace", "dev", host, "root", *discipline])
                self.run(host, ["tc", "qdisc", "replace", "dev", "e0", "root", *discipline])

    def enter(self, host: str, command: Sequence[str]) -> list[str]:
        """The command of this machine that runs a command on a host, or on `HEAD`."""
        if host not in self._pids:
            raise ValueError(f"{host} is not up; {', '.join(self._pids) or 'no host'} is")
        hops = [HEAD] if host == HEAD else [HEAD, host]
        entered = [word for hop in hops for word in ("nsenter", "--all", "--target", str(self._pids[hop]), "--")]
        return [*self._joining(host), *entered, *command]

    def _joining(self, host: str) -> list[str]:
        """The words in front of a command that put it under the quota of a host."""
        if host not in self.quotas:
            return []
        return ["sh", "-euc", 'echo 0 >"$0"; exec "$@"', str(self.quotas[host].members)]

    def run(self, host: str, command: Sequence[str], *, timeout: float = SECONDS) -> str:
        """Run a command on a host, or on `HEAD`, and return what it prints.

        Raises:
            TimeoutError, RuntimeError: it does not end in time, or not well; show its output.
        """
        done = run_command(self.enter(host, command), timeout=timeout)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)} on {host} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    def run_ranks(
        self, hosts: Sequence[str], args: Sequence[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> CompletedProcess[str]:
        """Run `python *args` with world rank r on hosts[r] and wait; otherwise like `tests.launch.run_ranks`."""
        return run_command(self._on_ranks(hosts, args), timeout=timeout, env=MPI_ENVIRONMENT | dict(env or {}))

    def start_ranks(
        self, hosts: Sequence[str], args: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Run]:
        """The same without waiting, like `tests.launch.start_ranks`."""
        return start_command(self._on_ranks(hosts, args), env=MPI_ENVIRONMENT | dict(env or {}))

    def processes(self, host: str) -> list[psutil.Process]:
        """All that runs on a host, its init included, as this machine sees it."""
        space = self.run(host, ["readlink", "/proc/self/ns/pid"]).strip()
        found = []
        for process in psutil.process_iter():
            with suppress(OSError):  # ended meanwhile
                found += [process] if os.readlink(f"/proc/{process.pid}/ns/pid") == space else []
        return found

    def traffic(self, host: str) -> Traffic:
        """What has crossed the host's link since it started."""
        (link,) = json.loads(self.run(host, ["ip", "-json", "-stats", "link", "show", "dev", "e0"]))
        return Traffic(received=link["stats64"]["rx"]["bytes"], sent=link["stats64"]["tx"]["bytes"])

    def power_off(self, host: str) -> None:
        """End a host as a power failure would: silence on its link, then no process is left."""
        self.run(HEAD, ["ip", "link", "delete", host])
        self.run(HEAD, ["kill", "-KILL", str(self._pids.pop(host))])

    def power_on(self, host: str) -> None:
        """Start a host that is off, with nothing of what was in its memory. Its link has no limit."""
        if self._cores is not None and host not in self.quotas:
            self.quotas[host] = CpuQuota(self._cores)
            self.run(
                HEAD, ["sh", "-euc", 'printf %s "$1" >"$0"', f"/run/hosts/{host}.quota", str(self.quotas[host].members)]
            )
        command = self.enter(HEAD, _unshare(_BEGIN + _HOST + _END, host, str(self._shared or "")))
        pid = self._start_init([*self._joining(host), *command], host)
        link = ["link", "add", "name", host, "type", "veth", "peer", "name", "e0", "netns", str(pid)]
        self.run(HEAD, ["ip", *link])
        self.run(HEAD, ["ip", "link", "set", host, "master", "switch", "up"])
        self.run(host, ["ip", "address", "add", f"{self._addresses[host]}/24", "dev", "e0"])
        self.run(host, ["ip", "link", "set", "e0", "up"])

    def _boot(self) -> None:
        names = "\n".join(["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self._addresses.items())])
        self._start_init(_unshare(_BEGIN + _HEAD + _END, HEAD, f"{self._addresses[HEAD]}/24", names), HEAD)
        for host in self.hosts:
            self.power_on(host)
        if self._rate_mbit is not None:
            self.set_rate(self._rate_mbit)

    def _start_init(self, command: list[str], host: str) -> int:
        pipe = subprocess.PIPE
        init = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        self._inits.append(init)
        assert init.stdout is not None
        answer = init.stdout.readline() if select.select([init.stdout], [], [], SECONDS)[0] else "no answer"
        if not answer.strip().isdigit():
            raise RuntimeError(f"virtual host {host} does not start: {answer.strip()}")
        self._pids[host] = int(answer)
        return self._pids[host]

    def _on_ranks(self, hosts: Sequence[str], args: Sequence[str]) -> list[str]:
        slots = [f"{host}:{len(list(ranks))}" for host, ranks in groupby(hosts)]
        if len({*hosts}) != len(slots):
            raise ValueError(f"ranks are on {', '.join(hosts)}; the ranks of a host must follow one another")
        if open_mpi_version():
            mapping = ["--host", ",".join(slots), "--map-by", "slot", "--bind-to", "none", "--leave-session-attached"]
        else:
            mapping = ["-hosts", ",".join(slots), "-launcher-exec", ENTER_HOST, "-localhost", self._addresses[HEAD]]
        return self.enter(HEAD, [find_mpirun(), *mapping, "-n", str(len(hosts)), sys.executable, *args])


def _unshare(script: str, *arguments: str) -> list[str]:
    return ["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", "-euc", script, "boot", *arguments]


def _call(command: Sequence[str]) -> CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
