"""`bagpipe bench peers` between virtual hosts with links of known rate and processors of their own. Root only; no test.

    python -m tests.cluster.shaped_peers --trainers 2,4,8 --links 200,1000,10000,shm --output runs/shaped-peers \
        -- --data DATA --margin 24

Each trainer has a host, and the oracle and the server share one. A link is the rate of every host's link in Mbit/s, in
either direction; shm is one host without bounds for all ranks. By default the T + 1 hosts share the cores of this
machine equally: each may use cores / (T + 1). What follows `--` goes to `bagpipe bench peers`.

Every cell (trainers, link) is written to OUTPUT as soon as it has ended. A call that finds files of cells there goes on
with the others. At the end one table and one picture (OUTPUT/peers.png) show all cells.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bagpipe_hpc.bench.peers.figures import Cell, cells_table, explanation, failures
from bagpipe_hpc.bench.peers.picture import draw_cells
from bagpipe_hpc.runtime.console import open_console
from tests.cluster.hosts import VirtualCluster
from tests.launch import run_ranks

SHM = "shm"
Cells = dict[tuple[int, str], Cell]


def cores_per_host(num_trainers: int, cores: float) -> float:
    """Return the share of each host: the trainers have one each, and the oracle and the server have one together."""
    return cores / (num_trainers + 1)


def iterations_for(link: str) -> list[str]:
    """Return options that keep a cell at some minutes: a slow link gets fewer iterations."""
    is_slow = link != SHM and float(link) < 500
    return ["--warm-up", "3", "--iterations", "6"] if is_slow else ["--warm-up", "4", "--iterations", "10"]


def title_of(link: str) -> str:
    """Return the name of a link in the table."""
    return "shared memory" if link == SHM else f"{float(link):g} Mbit/s"


def rows_of(cells: Cells) -> dict[str, dict[str, Cell]]:
    """Return cells by number of trainers, then by link, as the picture shows them."""
    rows: dict[str, dict[str, Cell]] = {}
    for (num_trainers, link), cell in cells.items():
        rows.setdefault(f"T = {num_trainers}", {})[title_of(link)] = cell
    return rows


def measure(num_trainers: int, link: str, cores: float, options: list[str], file: Path, timeout: float) -> None:
    """Measure one cell and write its figures.

    Raises:
        RuntimeError: the benchmark has failed; shows its output.
    """
    unfinished = file.with_suffix(".partial.json")
    command = ["-m", "bagpipe_hpc", "bench", "peers", *iterations_for(link), *options]
    command += ["--run-dir", str(file.with_suffix(".runs").resolve()), "--json", str(unfinished.resolve())]
    if link == SHM:
        done = run_ranks(2 + num_trainers, command, timeout=timeout)
    else:
        share = cores_per_host(num_trainers, cores)
        with VirtualCluster(num_trainers + 1, rate_mbit=float(link), cores=share) as cluster:
            ranks = [cluster.hosts[0], *cluster.hosts]
            done = cluster.run_ranks(ranks, command, timeout=timeout)
    if done.returncode:
        raise RuntimeError(f"T = {num_trainers}, {title_of(link)}: {done.stdout}{done.stderr}")
    unfinished.rename(file)


def show(cells: Mapping[tuple[int, str], Cell], picture: Path) -> None:
    """Print the table of all cells and draw their picture."""
    titled = {f"T = {num_trainers}, {title_of(link)}": cell for (num_trainers, link), cell in cells.items()}
    open_console().print(cells_table(titled))
    for line in [explanation(titled), *failures(titled)]:
        open_console().print(line, markup=False, highlight=False)
    draw_cells(rows_of(dict(cells)), picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", default="2,4,8", help="numbers of trainers, separated by commas")
    parser.add_argument("--links", default="200,1000,10000,shm", help="rates in Mbit/s, or shm, separated by commas")
    parser.add_argument("--cores", type=float, default=os.cpu_count() or 1, help="cores for all hosts together")
    parser.add_argument("--output", type=Path, default=Path("runs/shaped-peers"), help="directory for all figures")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for each cell")
    parser.add_argument("options", nargs="*", help="of bagpipe bench peers")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    cells: Cells = {}
    failed = 0
    for num_trainers in map(int, arguments.trainers.split(",")):
        for link in arguments.links.split(","):
            file = arguments.output / f"T{num_trainers}-{link}.json"
            if not file.exists():
                print(f"T = {num_trainers}, {title_of(link)}", flush=True)
                try:
                    measure(num_trainers, link, arguments.cores, arguments.options, file, arguments.timeout)
                except (RuntimeError, TimeoutError) as error:
                    print(error, file=sys.stderr, flush=True)
                    failed = 1
                    continue
            cells[num_trainers, link] = json.loads(file.read_text(encoding="utf-8"))
    if cells:
        show(cells, arguments.output / "peers.png")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
