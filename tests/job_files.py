"""The scripts under jobs/, made from the default description: `python -m tests.job_files` writes them."""

from __future__ import annotations

from pathlib import Path

from bagpipe_hpc.jobs.description import describe
from bagpipe_hpc.jobs.render import file_name, render
from tests.launch import REPO_ROOT

JOBS = REPO_ROOT / "jobs"
KINDS = (
    ("slurm", "train"),
    ("slurm", "train-mpirun"),
    ("slurm", "train-het"),
    ("slurm", "import"),
    ("slurm", "bench"),
    ("pbs", "train"),
    ("lsf", "train"),
    ("flux", "train"),
)


def scripts() -> dict[Path, str]:
    """Every stored script and what it should hold."""
    jobs = [describe({"system": system, "template": template}) for system, template in KINDS]
    return {JOBS / file_name(job): render(job) for job in jobs}


if __name__ == "__main__":
    for path, text in scripts().items():
        path.write_text(text, encoding="utf-8")
