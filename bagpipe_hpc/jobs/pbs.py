"""PBS Professional and OpenPBS: `qsub`."""

from __future__ import annotations

from bagpipe_hpc.jobs.description import JobDescription
from bagpipe_hpc.jobs.shell import MPIRUN, count_ranks

# Users may not requeue. The next run is a new job, which uses the first job's id for its log and for counting failures.
# PBS does not warn before the time limit either: `warn_after` does.
_JOB = """\
cd "$PBS_O_WORKDIR" || exit 2
job_id=${BAGPIPE_JOB:-$PBS_JOBID}
exec >>"$PBS_JOBNAME-$job_id.log" 2>&1
num_nodes=$(sort -u "$PBS_NODEFILE" | wc -l)
requeue() {
  qsub -v BAGPIPE_JOB="$job_id" "$script" || fail "PBS does not accept $script: submit it again to continue"
  exit 75
}
"""


def directives(job: JobDescription) -> list[str]:
    """Return the directives that PBS reads."""
    ranks = job.max_ranks_per_node
    gpus = f":ngpus={job.gpus_per_node}" if job.gpus_per_node else ""
    memory = f":mem={job.memory.lower()}b" if job.memory else ""
    chunk = f"select={job.nodes}:ncpus={ranks * job.threads}:mpiprocs={ranks}{gpus}{memory}"
    # -V: the job gets the environment of the shell that submits it.
    options = [f"-N {job.name}", "-S /bin/bash", "-V", "-j oe", "-r y", f"-l {chunk}", "-l place=scatter"]
    options += [f"-A {job.account}"] if job.account else []
    options += [f"-q {job.queue}"] if job.queue else []
    return [f"#PBS {option}" for option in [*options, f"-l walltime={job.time_limit}"]]


def variables(job: JobDescription) -> list[tuple[str, object, str]]:
    """Return the variables for the user to edit that only PBS needs."""
    return [
        ("script", "train.pbs", "this file, as seen from where you submit it: the job submits it again"),
        ("warn_after", job.time_limit_seconds - job.warning_seconds, "seconds: walltime minus the last checkpoint"),
    ]


def body(job: JobDescription) -> list[str]:
    """Return shell code that sets `job_id`, `num_nodes`, `requeue` and `launch`."""
    return [_JOB, count_ranks(job) + MPIRUN[job.mpi]]
