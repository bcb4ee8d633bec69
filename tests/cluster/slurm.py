"""A real Slurm on virtual hosts: slurmctld and munged on the head, a slurmd on every host, two fake GPUs in each.

Nothing is changed on the machine and nothing is left: daemons and jobs live in the namespaces of `VirtualCluster`, all
files in one directory. What Slurm wants to find elsewhere is mounted over in the hosts' own mount namespaces.
"""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType

from tests.cluster.hosts import HEAD, MPI_ENVIRONMENT, VirtualCluster
from tests.launch import MARK, start_command

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
PACKAGES = "slurmctld slurmd munge slurm-client libpmix2 libpmi2-0"  # of Debian
PMIX = Path("/usr/lib/x86_64-linux-gnu/pmix2/lib")  # whose libpmix.so Slurm opens, and Debian has in no such package
CPUS_PER_NODE = 8
GPUS_PER_NODE = 2
START_SECONDS = 60.0
ATTEMPTS = 4
# With more ranks than cores, mpirun tells those that wait to yield; here they share the cores with Slurm's daemons.
NO_YIELD = {"OMPI_MCA_mpi_yield_when_idle": "0"}
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}

# Jobs share no memory limits and no cgroups here, so none are left behind: process namespaces hold all processes.
_CONF = """
ClusterName=bagpipe
SlurmctldHost={head}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
TmpFS=/run
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
MpiDefault=none
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=15
KillWait=5
InactiveLimit=0
MinJobAge=3600
JobRequeue=1
NodeName=DEFAULT CPUs={cpus} RealMemory=1000 Gres=gpu:{gpus}
NodeName={nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_SLURMD = """
mount --bind "$1/pmix" "$2"
for gpu in $(seq 0 "$3"); do mknod "/run/gpu$gpu" c 1 3; done
exec slurmd -D
"""


def why_no_slurm() -> str | None:
    """Why Slurm cannot run here; None if it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    missing += [] if PMIX.is_dir() else [str(PMIX)]
    return f"no {', '.join(missing)}: as root, apt-get install --no-install-recommends {PACKAGES}" if missing else None


class SlurmCluster:
    """Nodes bp0, bp1, ... under Slurm from `with` to the end of its block.

    Args:
        directory: Empty, seen by all nodes, best in /dev/shm; its path goes into socket names, so it must be short.
        num_nodes: As of `VirtualCluster`.
    Raises:
        TimeoutError: the nodes do not come up; shows the daemons' logs.
    """

    def __init__(self, directory: Path, num_nodes: int) -> None:
        self.hosts = VirtualCluster(num_nodes, shared=directory)
        self.directory = directory
        self._daemons = ExitStack()

    def __enter__(self) -> SlurmCluster:
        with ExitStack() as stack:
            stack.enter_context(self.hosts)
            self._configure()
            self._boot(stack)
            self._daemons = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._daemons.close()

    def run(self, *command: str, timeout: float = 30.0, env: Mapping[str, str] | None = None) -> str:
        """Run one of Slurm's commands on the head and return what it prints; raises as `VirtualCluster.run`."""
        variables = MPI_ENVIRONMENT | NO_YIELD | {"SLURM_CONF": str(self.directory / "slurm.conf")} | dict(env or {})
        # Without the mark: jobs inherit this environment, and outlive the command.
        own = ["env", f"--unset={MARK}", *(f"{name}={value}" for name, value in variables.items())]
        return self.hosts.run(HEAD, [*own, *command], timeout=timeout)

    def submit(self, script: Path, *options: str, env: Mapping[str, str] | None = None) -> int:
        """Submit a script from the directory it is in; returns the job's id."""
        command = ["sbatch", "--parsable", f"--chdir={script.parent}", *options, str(script)]
        return int(self.run(*command, env=env).strip().partition(";")[0])

    def job(self, job_id: int | str) -> dict[str, str]:
        """What `scontrol show job` says; of a heterogeneous job or an array, about its first part."""
        lines = self._ask("scontrol", "--oneliner", "show", "job", str(job_id)).splitlines()
        return dict(re.findall(r"(\w+)=(\S*)", lines[0]))

    def nodes_of(self, job_id: int) -> list[str]:
        """Names of the nodes a job runs on."""
        return self.run("scontrol", "show", "hostnames", self.job(job_id)["NodeList"]).split()

    def wait(self, job_id: int | str, timeout: float, log: Callable[[], str]) -> dict[str, str]:
        """Wait until a job has ended for good and return what `job` says.

        Raises:
            TimeoutError: shows the job and its log.
        """
        deadline = time.monotonic() + timeout
        while (job := self.job(job_id))["JobState"] not in FINAL:
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {job_id} after {timeout:g} s: {job}\n{log()}")
            time.sleep(0.5)
        return job

    def clear(self) -> None:
        """Cancel what is left of jobs, and have all nodes back.

        Raises:
            TimeoutError: a node does not come back; shows the daemons' logs.
        """
        self.run("scancel", "--user=root")
        for host, state in self._states().items():
            if state.startswith("drain"):
                self.run("scontrol", "update", f"NodeName={host}", "State=RESUME")
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until every node is up and has nothing to do.

        Raises:
            TimeoutError: shows the daemons' logs.
        """
        _wait_until(self._all_idle, self._logs)

    def wait_until_free(self, host: str) -> None:
        """Wait until a node is up and has nothing to do.

        Raises:
            TimeoutError: shows the daemons' logs.
        """
        _wait_until(lambda: self._states()[host] == "idle", self._logs)

    def _configure(self) -> None:
        directory = self.directory
        settings = {
            "directory": directory,
            "head": HEAD,
            "cpus": CPUS_PER_NODE,
            "gpus": GPUS_PER_NODE,
            "nodes": ",".join(self.hosts.hosts),
        }
        (directory / "slurm.conf").write_text(_CONF.format(**settings))
        (directory / "gres.conf").write_text(f"Name=gpu File=/run/gpu[0-{GPUS_PER_NODE - 1}]\n")
        (directory / "munge.key").write_bytes(secrets.token_bytes(128))
        (directory / "munge.key").chmod(0o600)
        shutil.copytree(PMIX, directory / "pmix", symlinks=True)
        if not (directory / "pmix" / "libpmix.so").exists():
            (directory / "pmix" / "libpmix.so").symlink_to("libpmix.so.2")
        for name in ("state", *self.hosts.hosts):
            (directory / name).mkdir()

    def _boot(self, stack: ExitStack) -> None:
        directory = self.directory
        files = {option: directory / f"munge.{option}" for option in ("socket", "pid", "log", "seed")}
        options = {"key-file": directory / "munge.key"} | {
            option if option == "socket" else f"{option}-file": path for option, path in files.items()
        }
        munged = ["munged", "--foreground", "--force", *(f"--{option}={path}" for option, path in options.items())]
        self._start(stack, HEAD, munged)
        _wait_until(files["socket"].exists, self._logs)
        self._start(stack, HEAD, ["slurmctld", "-D"])
        for host in self.hosts.hosts:
            self._start_slurmd(stack, host)
        self.wait_until_idle()

    def power_on(self, host: str) -> None:
        """Start a node that `VirtualCluster.power_off` has ended."""
        self.hosts.power_on(host)
        self._start_slurmd(self._daemons, host)

    def _start_slurmd(self, stack: ExitStack, host: str) -> None:
        arguments = (str(self.directory), str(PMIX), str(GPUS_PER_NODE - 1))
        self._start(stack, host, ["sh", "-euc", _SLURMD, "slurmd", *arguments])

    def _start(self, stack: ExitStack, host: str, command: list[str]) -> None:
        env = {"SLURM_CONF": str(self.directory / "slurm.conf")}
        stack.enter_context(start_command(self.hosts.enter(host, command), env=env))

    def _all_idle(self) -> bool:
        try:
            return [*self._states().values()] == ["idle"] * len(self.hosts.hosts)
        except RuntimeError:  # slurmctld does not answer yet
            return False

    def _ask(self, *command: str) -> str:
        """Run a command that changes nothing, again if need be: slurmctld is deaf while it waits for a lost node."""
        for _ in range(ATTEMPTS - 1):
            with suppress(RuntimeError, TimeoutError):
                return self.run(*command)
        return self.run(*command)

    def _states(self) -> dict[str, str]:
        lines = self._ask("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def _logs(self) -> str:
        return "".join(
            f"--- {path.name} ---\n{path.read_text(errors='replace')}" for path in sorted(self.directory.glob("*.log"))
        )


def _wait_until(is_so: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Slurm is not ready after {START_SECONDS:g} s\n{explain()}")
        time.sleep(0.1)
