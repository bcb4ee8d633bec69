"""`bagpipe bench ladder` between virtual hosts with links of known rate. Root only; not a test.

    python -m tests.cluster.shaped_ladder --mbit 800 -- --data DATA --run-dir runs/shaped --set training.batch_size=4096

Oracle and server 0 share the first host, server 1 has the second, two trainers have one each. What follows `--` goes to
the command; without --mbit links are not shaped.
"""

from __future__ import annotations

import argparse
import subprocess

from tests.cluster.hosts import VirtualCluster

ROLES_ON_HOSTS = ("bp0", "bp0", "bp1", "bp2", "bp3")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mbit", type=float, help="rate of every link, each direction")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for the whole")
    parser.add_argument("options", nargs="*", help="of bagpipe bench ladder")
    arguments = parser.parse_args()
    command = ["-m", "bagpipe_hpc", "bench", "ladder", *arguments.options, "--set", "roles.servers=2"]
    with VirtualCluster(4, rate_mbit=arguments.mbit) as cluster:
        done: subprocess.CompletedProcess[str] = cluster.run_ranks(ROLES_ON_HOSTS, command, timeout=arguments.timeout)
    print(done.stdout, done.stderr if done.returncode else "", sep="")
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
