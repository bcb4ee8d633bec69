"""Checks of an allocation by the ranks of the planned job: roles, GPUs, clocks, transfers between all pairs."""

from __future__ import annotations

import json
import platform
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bagpipe_hpc.cli.doctor.fabric import RMA, SLOW_GET_MICROSECONDS, STAGE_BYTES, pattern_of, seconds_of
from bagpipe_hpc.cli.doctor.finding import Check, Outcome, Status, World, gather_texts
from bagpipe_hpc.errors import TopologyError
from bagpipe_hpc.topology import Role, Topology
from bagpipe_hpc.trainer.device.visible import VISIBLE_GPUS

if TYPE_CHECKING:
    from mpi4py import MPI

MOST_RANKS = 24  # in larger jobs, one rank of each role and host is checked
BUDGET_SECONDS = 30.0  # for transfers between pairs; pairs that remain are not tried, and the finding says so
NUM_SMALL_GETS = 10
MOST_LISTED = 4
OUTLIER = 0.25  # fraction of the median rate of comparable pairs
FEWEST_ALIKE = 4
SKEW_SECONDS = 0.5


@dataclass(frozen=True)
class Pair:
    """One-sided transfers between two ranks.

    Args:
            microseconds: Time of an 8-byte Get.
            get_rate: GB/s of an 8 MiB Get while all other ranks do the same.
            put_rate: GB/s of an 8 MiB Put while all other ranks do the same.
            problem: What went wrong, or "".
    """

    origin: int
    target: int
    microseconds: float = 0.0
    get_rate: float = 0.0
    put_rate: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Binding:
    """The GPU of a trainer, by its UUID ("" if it computes on the CPU), and all GPUs that it sees."""

    name: str
    host: str
    gpu: str
    visible: tuple[str, ...]


def roles(world: World) -> Outcome:
    """Check that the ranks make up a job, and report which hosts the roles are on."""
    topology = Topology(world.ranks.size, world.num_servers)
    return judge_roles(topology, gather_texts(world.ranks, platform.node()))


def judge_roles(topology: Topology, hosts: Sequence[str]) -> Outcome:
    """Report for each role how many ranks it has, on which hosts.

    Args:
        hosts: The hosts of all ranks, in order of rank; empty except on rank 0.
    """
    by_role: dict[str, list[str]] = {}
    for rank, host in enumerate(hosts):
        by_role.setdefault(topology.role_of(rank).value, []).append(host)
    return Status.OK, "\n".join(f"{len(used)} {role}: {_hosts(used)}" for role, used in by_role.items()), ""


def _hosts(hosts: Sequence[str]) -> str:
    return _listed([f"{host} ({count})" for host, count in Counter(hosts).items()])


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - MOST_LISTED} more" if len(items) > MOST_LISTED else ""
    return ", ".join(items[:MOST_LISTED]) + more


def topology_of(world: World) -> Topology:
    """Return the roles of the ranks. Raises RuntimeError if they make up no job."""
    try:
        return Topology(world.ranks.size, world.num_servers)
    except TopologyError as error:
        raise RuntimeError(f"not tried, see {ROLES.name}") from error


def gpu_binding(world: World) -> Outcome:
    """Let each trainer choose its GPU as in training, and check the choices."""
    from bagpipe_hpc.transport.communicators import ranks_of_host

    topology = topology_of(world)
    comm = world.ranks
    is_trainer = topology.role_of(comm.rank) is Role.TRAINER
    trainers = comm.Split(int(is_trainer), comm.rank)
    node = ranks_of_host(trainers)
    local_rank = node.rank
    node.Free()
    trainers.Free()
    visible = _visible_gpus() if is_trainer else ()
    gpu = visible[local_rank % len(visible)] if visible else ""
    mine = Binding(topology.name_of(comm.rank), platform.node(), gpu, visible)
    texts = gather_texts(comm, json.dumps(astuple(mine)))
    if comm.rank > 0:
        return Status.OK, "", ""
    found = [json.loads(texts[rank]) for rank in topology.trainer_ranks]
    return judge_binding([Binding(name, host, gpu, tuple(seen)) for name, host, gpu, seen in found])


def _visible_gpus() -> tuple[str, ...]:
    from bagpipe_hpc.trainer.device.gpus import gpu_ids

    return gpu_ids()


def judge_binding(bindings: Sequence[Binding]) -> Outcome:
    """Check that each trainer has a GPU of its own and that no GPU is left over."""
    users: dict[str, list[str]] = {}
    for binding in bindings:
        users.setdefault(binding.gpu, []).append(f"{binding.name} on {binding.host}")
    on_cpu = users.pop("", [])
    if not users:
        return Status.OK, f"{len(on_cpu)} trainer(s), all on the CPU", ""
    shared = [f"{' and '.join(names)} share GPU {gpu}" for gpu, names in users.items() if len(names) > 1]
    idle = {gpu for binding in bindings for gpu in binding.visible} - set(users)
    found = [f"{len(bindings) - len(on_cpu)} trainer(s) on {len(users)} GPU(s)", *shared[:MOST_LISTED]]
    found += [f"{_listed(on_cpu)} on the CPU"] if on_cpu else []
    found += [f"{len(idle)} GPU(s) without a trainer"] if idle else []
    if not (shared or on_cpu or idle):
        return Status.OK, "\n".join(found), ""
    cure = "start as many trainers per node as it has GPUs: --gpus-per-task=1 or --gpus-per-node (Slurm)"
    return Status.WARN, "\n".join(found), cure


def clocks(world: World) -> Outcome:
    """Let every rank on another host compare its clock with rank 0's."""
    from bagpipe_hpc.transport.common_clock import common_origin

    comm = world.ranks
    moment, error = common_origin(comm, time.time_ns, platform.node())
    skew = (moment - comm.bcast(moment)) / 1e9
    texts = gather_texts(comm, json.dumps([platform.node(), skew, error / 1e9]))
    return judge_clocks({host: (skew, error) for host, skew, error in map(json.loads, texts)})


def judge_clocks(skews: Mapping[str, tuple[float, float]]) -> Outcome:
    """Warn if clocks differ so much that time limits, logs and file times disagree.

    Args:
        skews: Host -> seconds ahead of rank 0's clock, and a bound of the error; empty except on rank 0.
    """
    if len(skews) < 2:
        return Status.OK, f"{len(skews)} host(s), one clock", ""
    host, (skew, error) = max(skews.items(), key=lambda item: abs(item[1][0]))
    found = f"{len(skews)} hosts; {host} differs most from rank 0: {skew * 1e3:+.3f} ms (within {error * 1e3:.3f} ms)"
    if abs(skew) - error <= SKEW_SECONDS:
        return Status.OK, found, ""
    return Status.WARN, found, "time limits, logs and file times disagree: ask the site to synchronise clocks (chrony)"


def transfers(world: World) -> Outcome:
    """Measure transfers. In each round every rank Gets from and Puts to one other rank, all at the same time."""
    topology = topology_of(world)
    comm = world.ranks
    hosts = comm.bcast(gather_texts(comm, platform.node()))
    members = choose_ranks(topology, hosts)
    measured = list(_measure_all(comm, members))
    texts = gather_texts(comm, json.dumps([astuple(pair) for pair in measured]))
    if comm.rank > 0:
        return Status.OK, "", ""
    pairs = [Pair(*fields) for text in texts for fields in json.loads(text)]
    return judge_pairs(pairs, len(members) * (len(members) - 1), topology, hosts)


def choose_ranks(topology: Topology, hosts: Sequence[str]) -> list[int]:
    """Return all ranks or, if there are many, the first rank of each role on each host."""
    if len(hosts) <= MOST_RANKS:
        return list(range(len(hosts)))
    first: dict[tuple[Role, str], int] = {}
    for rank, host in enumerate(hosts):
        first.setdefault((topology.role_of(rank), host), rank)
    return sorted(first.values())


def _measure_all(comm: MPI.Intracomm, members: Sequence[int]) -> Iterator[Pair]:
    """Yield this rank's pairs. Communication: collective over comm; rank 0, which is a member, keeps the time."""
    from mpi4py import MPI

    group = comm.Split(0 if comm.rank in members else MPI.UNDEFINED, comm.rank)
    if group == MPI.COMM_NULL:
        return
    # A fixed order that mixes near and far ranks, in case there is no time for all.
    shifts = np.random.default_rng(0).permutation(group.size - 1) + 1
    began = time.perf_counter()
    with _stages(group) as (window, inbox):
        for shift in shifts:
            if group.bcast(time.perf_counter() - began > BUDGET_SECONDS):
                break
            target, origin = (group.rank + shift) % group.size, (group.rank - shift) % group.size
            yield _measure(window, comm.rank, target, members[target])
            group.Barrier()  # every target stays inside MPI, and so answers, until all origins are done
            window.Sync()
            if not (inbox == pattern_of(members[origin])).all():
                yield Pair(members[origin], comm.rank, problem="a Put brought wrong bytes")
            group.Barrier()  # every rank has read its inbox
    group.Free()


@contextmanager
def _stages(group: MPI.Comm) -> Iterator[tuple[MPI.Win, Any]]:
    """Give an open window of two stages: an outbox that holds this rank's pattern, and an inbox."""
    from mpi4py import MPI

    window = MPI.Win.Allocate(2 * STAGE_BYTES, comm=group)  # type: ignore[arg-type]
    window.Lock_all(MPI.MODE_NOCHECK)
    memory = np.asarray(window.tomemory())
    memory[:STAGE_BYTES] = pattern_of(MPI.COMM_WORLD.rank)
    window.Sync()
    group.Barrier()
    yield window, memory[STAGE_BYTES:]
    window.Unlock_all()
    window.Free()


def _measure(window: MPI.Win, rank: int, target: int, target_rank: int) -> Pair:
    """Time one pair. An MPI error becomes the pair's problem, so that the other ranks go on."""
    stage = np.zeros(STAGE_BYTES, dtype=np.uint8)
    mine = np.full(STAGE_BYTES, pattern_of(rank), dtype=np.uint8)
    try:
        small = np.median([seconds_of(window, target, window.Get, stage[:8]) for _ in range(NUM_SMALL_GETS)])
        get = min(seconds_of(window, target, window.Get, stage) for _ in range(2))
        put = min(seconds_of(window, target, window.Put, mine, STAGE_BYTES) for _ in range(2))
    except Exception as error:
        return Pair(rank, target_rank, problem=f"{type(error).__name__}: {error}".splitlines()[0])
    if not (stage == pattern_of(target_rank)).all():
        return Pair(rank, target_rank, problem="a Get brought wrong bytes")
    return Pair(rank, target_rank, float(small) * 1e6, STAGE_BYTES / get / 1e9, STAGE_BYTES / put / 1e9)


def judge_pairs(pairs: Sequence[Pair], num_wanted: int, topology: Topology, hosts: Sequence[str]) -> Outcome:
    """Report a line for each pair of roles, and name the pairs that fail or are far slower than comparable ones."""

    def called(pair: Pair) -> str:
        origin, target = (f"{topology.name_of(rank)} on {hosts[rank]}" for rank in (pair.origin, pair.target))
        return f"{origin} -> {target}"

    good = [pair for pair in pairs if not pair.problem]
    bad = [f"{called(pair)}: {pair.problem}" for pair in pairs if pair.problem]
    num_tried = len({(pair.origin, pair.target) for pair in pairs})
    found = [f"{num_tried} of {num_wanted} pairs tried, all ranks at once"]
    found += bad[:MOST_LISTED] + [_line(*group) for group in _by_roles(good, topology)]
    slow = [pair for pair in good if pair.microseconds > SLOW_GET_MICROSECONDS] or list(_outliers(good, hosts))
    found += [
        f"slow: {called(pair)}: {pair.microseconds:.1f} µs, {pair.get_rate:.2f} GB/s" for pair in slow[:MOST_LISTED]
    ]
    if bad:
        return Status.FAIL, "\n".join(found), RMA.cure
    if slow:
        cure = "give every rank a core of its own; check the hosts named here alone; let MPI use the fast network"
        return Status.WARN, "\n".join(found), cure
    return Status.OK, "\n".join(found), ""


def _by_roles(pairs: Iterable[Pair], topology: Topology) -> Iterator[tuple[str, list[Pair]]]:
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        key = (topology.role_of(pair.origin).value, topology.role_of(pair.target).value)
        groups.setdefault(key, []).append(pair)
    return ((" -> ".join(key), groups[key]) for key in sorted(groups))


def _line(label: str, pairs: Sequence[Pair]) -> str:
    microseconds, get, put = np.median([(p.microseconds, p.get_rate, p.put_rate) for p in pairs], axis=0)
    lowest = min(pair.get_rate for pair in pairs)
    return f"{label}: {microseconds:.1f} µs, Get {get:.2f} (lowest {lowest:.2f}), Put {put:.2f} GB/s"


def _outliers(pairs: Sequence[Pair], hosts: Sequence[str]) -> Iterator[Pair]:
    """Yield pairs whose rate is far below the others', separately within a host and between hosts."""
    for is_local in (True, False):
        alike = [pair for pair in pairs if (hosts[pair.origin] == hosts[pair.target]) is is_local]
        if len(alike) >= FEWEST_ALIKE:
            median = np.median([pair.get_rate for pair in alike])
            yield from (pair for pair in alike if pair.get_rate < OUTLIER * median)


ROLES = Check("Roles", roles, "start it as the job: with the same number of ranks, and --servers as roles.servers")
BINDING = Check("GPU binding", gpu_binding, f"compare nvidia-smi with {VISIBLE_GPUS} in a step of the job")
CLOCKS = Check("Clocks", clocks, "see the other findings")
TRANSFERS = Check("Transfers", transfers, RMA.cure)
