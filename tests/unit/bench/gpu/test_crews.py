"""The commands that start workers."""

from __future__ import annotations

import os

from bagpipe_hpc.bench.gpu.crews import ALONE, crew_command, environment_of_crew


def test_a_process_alone_needs_no_launcher() -> None:
    command, variables = crew_command(ALONE, None)
    assert command[1:] == ("-m", "bagpipe_hpc.bench.gpu.worker", "0")
    assert variables == {}


def test_ranks_are_those_of_oracle_server_and_trainers() -> None:
    command, variables = crew_command(2, "/x/mpirun", lambda path: "mpirun (Open MPI) 5.0.11")
    assert command[:4] == ("/x/mpirun", "-n", "4", "--oversubscribe")
    assert ("OMPI_ALLOW_RUN_AS_ROOT" in variables) == (os.geteuid() == 0)
    command, variables = crew_command(2, "/x/mpirun", lambda path: "HYDRA build details: Version: 5.0.2")
    assert "--oversubscribe" not in command
    assert not any(name.startswith("OMPI") for name in variables)


def test_what_the_user_has_set_stays() -> None:
    environment = environment_of_crew({"OMPI_MCA_btl": "^ofi", "A": "1"}, {"OMPI_MCA_btl": "tcp,self"})
    assert (environment["OMPI_MCA_btl"], environment["A"]) == ("tcp,self", "1")
