"""Flux: `flux batch`."""

from __future__ import annotations

from bagpipe_hpc.jobs.description import JobDescription
from bagpipe_hpc.jobs.shell import count_ranks

# Flux has no requeue. The next run is a new job, which uses the first job's id for its log and for counting failures.
_JOB = """\
job_id=${BAGPIPE_JOB:-$FLUX_JOB_ID}
exec >>"bagpipe-$job_id.log" 2>&1
num_nodes=$(flux getattr size)
requeue() {
  flux --parent batch --env=BAGPIPE_JOB="$job_id" "$script" || fail "Flux does not accept $script: submit it again"
  exit 75
}
"""
# Whole nodes, so that every trainer sees the GPUs of its node.
_RUN = """\
launch=(flux run --nodes="$num_nodes" --ntasks="$ranks" --exclusive --taskmap=cyclic)
launch+=(--time-limit="$(($(flux job timeleft) - 10))s" --signal="SIGUSR1@${warning_seconds}s")
"""
_PMI = {
    "openmpi": """\
launch+=(-o pmi=pmix)  # needs the plugin flux-pmix
""",
    "mpich": "",
}


def directives(job: JobDescription) -> list[str]:
    """Return the directives that Flux reads."""
    options = [f"--job-name={job.name}", f"--time-limit={job.time_limit_seconds}s", f"--nodes={job.nodes}"]
    options += ["--exclusive"]
    options += [f"--requires={job.constraint}"] if job.constraint else []
    options += [f"--bank={job.account}"] if job.account else []
    options += [f"--queue={job.queue}"] if job.queue else []
    return [f"#flux: {option}" for option in options]


def variables(job: JobDescription) -> list[tuple[str, object, str]]:
    """Return the variables for the user to edit that only Flux needs."""
    return [
        ("script", "train.flux", "this file, as seen from where you submit it: the job submits it again"),
        ("warning_seconds", job.warning_seconds, "seconds before the time limit for the last checkpoint"),
    ]


def body(job: JobDescription) -> list[str]:
    """Return shell code that sets `job_id`, `num_nodes`, `requeue` and `launch`."""
    return [_JOB, count_ranks(job) + _RUN + _PMI[job.mpi]]
