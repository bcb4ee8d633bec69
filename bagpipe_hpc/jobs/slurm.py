"""Slurm: `sbatch`."""

from __future__ import annotations

from bagpipe_hpc.jobs.description import JobDescription
from bagpipe_hpc.jobs.shell import MPIRUN, SET_BLOCKS, count_ranks

# A requeued job keeps its id.
_JOB = """\
job_id=$SLURM_JOB_ID
num_nodes=$SLURM_JOB_NUM_NODES
requeue() {
  scontrol requeue "$job_id" || fail "Slurm does not requeue this job: submit it again to continue"
  exit 75
}
"""
_ARRAY = """\
settings+=("${sweep[SLURM_ARRAY_TASK_ID]}")
run_dir=$run_dir/task-$SLURM_ARRAY_TASK_ID
"""
# Without `unset`, srun would compare the allocation's tasks per node with the number of ranks, and refuse.
_CHECK_ROOM = """\
((ranks <= SLURM_NTASKS)) ||
  fail "$ranks ranks (1 + servers + nodes * trainers_per_node), but room for $SLURM_NTASKS: raise --ntasks-per-node"
unset SLURM_NTASKS_PER_NODE
"""
# With a range of nodes the job asks for cores. If it asked for tasks, it would again need the nodes of its first run.
_CHECK_CORES = """\
fullest=$(((servers + num_nodes) / num_nodes + trainers_per_node))  # ranks on the node with the most ranks
((fullest * threads <= SLURM_CPUS_ON_NODE)) ||
  fail "$fullest ranks of $threads threads on a node, but $SLURM_CPUS_ON_NODE cores: raise --mincpus"
"""
# If a rank dies and MPI does not end the job, srun ends it 30 s later. --kill-on-bad-exit=1 would end it at once: it
# would kill ranks that are about to exit with 75, and srun would report that.
_SRUN = {
    "openmpi": """\
export PMIX_MCA_psec=native  # Open MPI 5; other versions ignore it
launch=(srun --mpi=pmix --cpus-per-task="$threads" --distribution=cyclic --kill-on-bad-exit=0 --wait=30)
""",
    "mpich": """\
launch=(srun --mpi=pmi2 --cpus-per-task="$threads" --distribution=cyclic --kill-on-bad-exit=0 --wait=30)
""",
}
# The number of a job's step is one higher in each of its runs.
_SKIP_STEPS = """\
# A node that lost power may still have the socket of a step. There Slurm cannot start a step of the same number again.
for ((step = 0; step < ${SLURM_RESTART_COUNT:-0}; step++)); do srun --mpi=none --ntasks=1 true; done
"""
_SRUN_ONE_KIND = """\
launch+=(--ntasks="$ranks")
"""
_SRUN_BOTH_KINDS = """\
launch+=(--het-group=0,1)
"""


def directives(job: JobDescription) -> list[str]:
    """Return the directives that Slurm reads."""
    options = [*_common(job), *_place(job)]
    if job.template == "train-het":
        tasks = [f"ntasks={job.nodes * job.num_trainers_per_node}", f"ntasks-per-node={job.num_trainers_per_node}"]
        cpu_nodes = [f"nodes={job.server_nodes}", f"ntasks={1 + job.servers}", _cores(job)]
        gpu_nodes = [f"nodes={job.nodes}", *tasks, _cores(job), *_gpus(job)]
        return [*_lines([*options, *cpu_nodes]), "#SBATCH hetjob", *_lines([*_place(job), *gpu_nodes])]
    if job.template == "import":
        return _lines([*options, f"nodes={job.nodes}", f"ntasks-per-node={job.threads}", "cpus-per-task=1"])
    if job.min_nodes:
        nodes = [f"nodes={job.min_nodes}-{job.nodes}", f"mincpus={job.max_ranks_per_node * job.threads}"]
    else:
        nodes = [f"nodes={job.nodes}", f"ntasks-per-node={job.max_ranks_per_node}", _cores(job)]
    return _lines([*options, *nodes, *_gpus(job)])


def body(job: JobDescription) -> list[str]:
    """Return shell code that sets `job_id`, `num_nodes`, `requeue` and `launch`."""
    parts = [_JOB, _ARRAY] if job.sweep else [_JOB]
    if job.template == "import":
        return [*parts, "threads=1\n" + _SRUN[job.mpi]]
    if job.template == "train-het":
        return [*parts, (SET_BLOCKS if job.blocks else "") + _SRUN[job.mpi] + _SRUN_BOTH_KINDS, _SKIP_STEPS]
    count = count_ranks(job) + (_CHECK_CORES if job.min_nodes else _CHECK_ROOM)
    if job.template == "train-mpirun":
        return [*parts, count + MPIRUN[job.mpi]]
    return [*parts, count + _SRUN[job.mpi] + _SRUN_ONE_KIND, *([_SKIP_STEPS] if job.is_training else [])]


def _lines(options: list[str]) -> list[str]:
    return [f"#SBATCH --{option}" for option in options]


def _common(job: JobDescription) -> list[str]:
    log = "%x-%A_%a.log" if job.sweep else "%x-%j.log"
    options = [f"job-name={job.name}", f"time={job.time_limit}", f"output={log}"]
    if job.is_training:
        options += ["open-mode=append", "requeue", f"signal=B:USR1@{job.warning_seconds}"]
    return [*options, f"array=0-{len(job.sweep) - 1}"] if job.sweep else options


def _place(job: JobDescription) -> list[str]:
    given = {
        "account": job.account,
        "partition": job.queue,
        "qos": job.qos,
        "constraint": job.constraint,
        "mem": job.memory,
    }
    return [f"{name}={value}" for name, value in given.items() if value]


def _cores(job: JobDescription) -> str:
    return f"cpus-per-task={job.threads}"


def _gpus(job: JobDescription) -> list[str]:
    return [f"gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []
