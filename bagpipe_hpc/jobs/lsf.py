"""IBM Spectrum LSF: `bsub <`."""

from __future__ import annotations

from bagpipe_hpc.jobs.description import JobDescription
from bagpipe_hpc.jobs.shell import MPIRUN, count_ranks

# The directive -Q requeues a job that exits with 75; it keeps its id.
_JOB = """\
job_id=$LSB_JOBID
read -ra hosts <<<"$LSB_MCPU_HOSTS"  # name and slots of each host
num_nodes=$((${#hosts[@]} / 2))
requeue() { exit 75; }
"""


def directives(job: JobDescription) -> list[str]:
    """Return the directives that LSF reads."""
    ranks = job.max_ranks_per_node
    minutes = -(-job.time_limit_seconds // 60)
    options = [
        f"-J {job.name}",
        f"-W {minutes // 60:02}:{minutes % 60:02}",
        f"-wa USR1 -wt {-(-job.warning_seconds // 60)}",
        f"-o {job.name}-%J.log",
        "-r",
        '-Q "75"',
        f"-n {job.nodes * ranks}",
        f'-R "span[ptile={ranks}] affinity[core({job.threads})]"',
    ]
    options += [f'-gpu "num={job.gpus_per_node}"'] if job.gpus_per_node else []
    options += [f'-R "select[{job.constraint}]"'] if job.constraint else []
    options += [f"-P {job.account}"] if job.account else []
    options += [f"-q {job.queue}"] if job.queue else []
    return [f"#BSUB {option}" for option in options]


def body(job: JobDescription) -> list[str]:
    """Return shell code that sets `job_id`, `num_nodes`, `requeue` and `launch`."""
    return [_JOB, count_ranks(job) + MPIRUN[job.mpi]]
