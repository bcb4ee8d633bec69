"""`bagpipe doctor` as a user runs it: alone, under mpirun, and on a broken installation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch import run_python, run_ranks

DOCTOR = ["-c", "import typer; from bagpipe_hpc.cli.doctor import doctor; typer.run(doctor)"]
ONE_LINE_A_CHECK = {"COLUMNS": "400", "SLURM_NTASKS": "", "PMI_SIZE": ""}
LIMIT = 90.0


def lines(table: str) -> dict[str, list[str]]:
    """Check name -> [status, found, what to do]; of a check of several lines the first."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]
    return {name: cells for name, *cells in rows if name}


def broken(package: str, directory: Path) -> dict[str, str]:
    """Environment in which `import package` fails."""
    (directory / f"{package}.py").write_text('raise ImportError("libmissing.so: cannot open shared object file")\n')
    return ONE_LINE_A_CHECK | {"PYTHONPATH": str(directory)}


def test_alone_every_check_reports_and_none_fails() -> None:
    done = run_python(DOCTOR, timeout=LIMIT, env=ONE_LINE_A_CHECK)
    assert done.returncode == 0, done.stdout + done.stderr
    found = lines(done.stdout)
    assert list(found) == [
        "Packages",
        "Compiled code",
        "MPI",
        "Launcher",
        "Cores",
        "/dev/shm",
        "Memory",
        "Open files",
        "GPUs",
        "Exchange of rows",
        "HDF5",
        "RMA",
        "Dense backends",
        "Horovod",
    ]
    assert "thread level MULTIPLE" in found["MPI"][1]
    assert found["RMA"][1].startswith("Get from rank 0")
    assert "allreduce over 1 rank(s) is right" in found["Horovod"][1]


def test_three_ranks_print_one_table_and_time_both_peers() -> None:
    done = run_ranks(3, DOCTOR, timeout=LIMIT, env=ONE_LINE_A_CHECK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bagpipe doctor") == 1
    found = lines(done.stdout)
    assert "3 rank(s)" in found["MPI"][1]
    assert "Get from rank 1" in done.stdout
    assert "Get from rank 2" in done.stdout
    assert "allreduce over 3 rank(s) is right" in found["Horovod"][1]


def test_slurm_that_starts_singletons_fails_with_the_right_command() -> None:
    done = run_python(DOCTOR, timeout=LIMIT, env=ONE_LINE_A_CHECK | {"SLURM_NTASKS": "4"})
    assert done.returncode == 1
    status, found, cure = lines(done.stdout)["Launcher"]
    assert (status, "SLURM_NTASKS=4" in found) == ("fail", True)
    assert "srun --mpi=pm" in cure
    assert "-n 4" in cure


@pytest.mark.parametrize("package", ["h5py", "horovod"])
def test_a_package_that_cannot_be_imported_is_a_finding_with_a_cure(package: str, tmp_path: Path) -> None:
    done = run_python(DOCTOR, timeout=LIMIT, env=broken(package, tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    status, found, cure = lines(done.stdout)[{"h5py": "HDF5", "horovod": "Horovod"}[package]]
    assert (status, bool(cure)) == ("fail", True)
    assert "libmissing.so" in found


def test_without_mpi_the_other_checks_still_report(tmp_path: Path) -> None:
    done = run_python(DOCTOR, timeout=LIMIT, env=broken("mpi4py", tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    found = lines(done.stdout)
    assert {name: cells[0] for name, cells in found.items() if cells[0] == "fail"} == dict.fromkeys(
        ("MPI", "Launcher", "Exchange of rows", "RMA", "Horovod"), "fail"
    )
    assert "libmissing.so" in found["MPI"][1]
    assert found["HDF5"][0] == "ok"


def test_a_directory_that_cannot_be_written_is_a_finding(tmp_path: Path) -> None:
    arguments = [*DOCTOR, "--directory", str(tmp_path / "absent")]
    done = run_python(arguments, timeout=LIMIT, env=ONE_LINE_A_CHECK)
    assert done.returncode == 1
    assert lines(done.stdout)["HDF5"][0] == "fail"


def test_the_ranks_of_a_job_try_each_other() -> None:
    done = run_ranks(5, [*DOCTOR, "--mpi", "--servers", "2"], timeout=LIMIT, env=ONE_LINE_A_CHECK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bagpipe doctor") == 1
    found = lines(done.stdout)
    assert list(found) == [
        "MPI",
        "Launcher",
        "Roles",
        "Cores",
        "GPU binding",
        "Exchange of rows",
        "Clocks",
        "Transfers",
    ]
    assert found["Transfers"][1] == "20 of 20 pairs tried, all ranks at once"
    for pair in ("trainer -> server", "server -> trainer", "trainer -> trainer", "oracle -> server"):
        assert f"{pair}: " in done.stdout
    assert "2 trainer(s)" in found["GPU binding"][1]
    assert "a job exchanges rows" in found["Exchange of rows"][1]


def test_one_rank_is_no_job() -> None:
    done = run_python([*DOCTOR, "--mpi"], timeout=LIMIT, env=ONE_LINE_A_CHECK)
    assert done.returncode == 1
    found = lines(done.stdout)
    assert found["Roles"][0] == "fail"
    assert "start it with `mpirun -n 3` or more ranks" in found["Roles"][1]
    for name in ("Exchange of rows", "Transfers"):
        assert "not tried, see Roles" in found[name][1]


TAMPERED = """
from pathlib import Path
from mpi4py import MPI
from bagpipe_hpc.cli.doctor import allocation
from bagpipe_hpc.cli.doctor.command import examine

if MPI.COMM_WORLD.rank == 2:
    {change}
assert not examine([allocation.TRANSFERS], Path("."), 60)
"""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("allocation.pattern_of = lambda rank: 0", "a Get brought wrong bytes"),
        ("allocation.seconds_of = lambda *args: 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_pair_that_fails_is_named_and_fails_the_check(change: str, problem: str) -> None:
    done = run_ranks(3, ["-c", TAMPERED.format(change=change)], timeout=LIMIT, env=ONE_LINE_A_CHECK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "trainer 0 (rank 2)" in done.stdout
    assert problem in done.stdout


HANGING = """
import ctypes, sys, time
from pathlib import Path
from bagpipe_hpc.cli.doctor.command import MPI_LIBRARY, examine
from bagpipe_hpc.cli.doctor.finding import Check

def hang(world):
    if world.rank == {rank}:
        {how}
    return "ok", "", ""

examine([MPI_LIBRARY, Check("Stuck", hang, "shake it")], Path("."), 2)
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_ends_the_run_with_what_was_found(rank: int) -> None:
    program = HANGING.format(rank=rank, how="time.sleep(600)")
    done = run_ranks(2, ["-c", program], timeout=60, env=ONE_LINE_A_CHECK)
    assert done.returncode != 0
    found = lines(done.stdout)
    assert found["MPI"][0] == "ok"
    assert found["Stuck" if rank == 0 else "Report"][:1] == ["fail"]
    assert rank == 0 or "rank 1" in done.stderr


def test_a_library_that_hangs_with_pythons_lock_held_is_cut_off_too() -> None:
    program = HANGING.format(rank=0, how="ctypes.PyDLL(None).sleep(600)")
    done = run_python(["-c", program], timeout=60, env=ONE_LINE_A_CHECK)
    assert done.returncode == 1
    assert "in hang" in done.stderr
