"""Checks of a whole allocation, for `bagpipe doctor --mpi`: every pair of ranks, clocks, cores and GPUs of every node.

Any rank may play any role, so what holds between every pair of ranks holds between every pair of roles.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.cli.doctor.fabric import RMA, SLOW_GET_MICROSECONDS, filled_windows, measure
from bagpipe_hpc.cli.doctor.finding import Check, Outcome, Status, World, gather_texts

MOST_RANKS = 64  # of more, one rank of every host
SLOW_SHARE = 0.25  # of the median rate of pairs of its kind
MOST_SKEW_SECONDS = 1.0
MICROSECONDS, GIGABYTES_PER_SECOND = 0, 1  # the last axis of what `pairs` measures


def pairs(world: World) -> Outcome:
    """Every rank Gets from every other, all at a time: in round k rank r from rank r + k."""
    comm = world.ranks
    hosts = gather_texts(comm, socket.gethostname())
    chosen = np.array(choose_ranks(hosts) if comm.rank == 0 else [], np.int64)
    count = np.array([len(chosen)])
    comm.Bcast(count)
    chosen = chosen if comm.rank == 0 else np.empty(count[0], np.int64)
    comm.Bcast(chosen)
    mine = np.full((len(chosen), 2), np.nan)
    problem: Exception | None = None
    place = chosen.tolist().index(comm.rank) if comm.rank in chosen else None
    with filled_windows(comm) as window:
        for shift in range(1, len(chosen)):
            if place is not None and problem is None:
                peer = (place + shift) % len(chosen)
                try:
                    mine[peer] = measure(window, int(chosen[peer]))
                except Exception as error:  # the others go on, and wait for this rank
                    problem = error
            comm.Barrier()
    everything = np.empty((comm.size, *mine.shape)) if comm.rank == 0 else None
    comm.Gather(mine, everything)
    if problem is not None:
        raise problem
    if everything is None:
        return Status.OK, "answered", ""
    return judge_pairs(everything[chosen], [hosts[rank] for rank in chosen])


def choose_ranks(hosts: Sequence[str]) -> list[int]:
    """All ranks, or, of many, the first of every host."""
    if len(hosts) <= MOST_RANKS:
        return list(range(len(hosts)))
    return sorted({host: rank for rank, host in reversed(list(enumerate(hosts)))}.values())


def judge_pairs(transfers: NDArray[np.float64], hosts: Sequence[str]) -> Outcome:
    """Median and worst of the pairs within hosts, and of those between hosts.

    Args:
        transfers: Of each pair (reader, target), shape (n, n, 2): microseconds of a small Get, GB/s of a large one.
        hosts: Of each of the n.
    """
    if len(hosts) < 2:
        return Status.OK, "one rank: no pairs", ""
    names = np.array(hosts)
    same = names[:, None] == names[None, :]
    found, is_slow = [], False
    for kind, selected in (("within a host", same & ~np.eye(len(hosts), dtype=bool)), ("between hosts", ~same)):
        if selected.any():
            latency, rate = np.median(transfers[selected], axis=0)
            slowest = _worst(np.where(selected, transfers[..., MICROSECONDS], -np.inf))
            narrowest = _worst(np.where(selected, -transfers[..., GIGABYTES_PER_SECOND], -np.inf))
            most, least = transfers[*slowest, MICROSECONDS], transfers[*narrowest, GIGABYTES_PER_SECOND]
            found.append(
                f"{np.count_nonzero(selected)} pairs {kind}: median {latency:.1f} µs, {rate:.2f} GB/s; slowest "
                f"{most:.1f} µs ({_pair(slowest, hosts)}), {least:.2f} GB/s ({_pair(narrowest, hosts)})"
            )
            is_slow |= most > SLOW_GET_MICROSECONDS or least < SLOW_SHARE * rate
    cure = "look at the hosts named: their links, other jobs there, ranks that share cores; or leave them out"
    return (Status.WARN, "\n".join(found), cure) if is_slow else (Status.OK, "\n".join(found), "")


def _worst(badness: NDArray[np.float64]) -> tuple[int, int]:
    reader, target = np.unravel_index(np.argmax(badness), badness.shape)
    return int(reader), int(target)


def _pair(ranks: tuple[int, int], hosts: Sequence[str]) -> str:
    return f"{hosts[ranks[0]]} from {hosts[ranks[1]]}"


def clocks(world: World) -> Outcome:
    """How far the time of day of each host is from rank 0's."""
    from bagpipe_hpc.roles.tracing import common_origin

    comm = world.ranks
    host = socket.gethostname()
    mine = np.array(common_origin(comm, time.time_ns, host), np.int64)  # what the clock reads, and the error of that
    everybody = np.empty((comm.size, 2), np.int64) if comm.rank == 0 else None
    comm.Gather(mine, everybody)
    hosts = gather_texts(comm, host)
    if everybody is None:
        return Status.OK, "answered", ""
    return judge_clocks((everybody[:, 0] - everybody[0, 0]) / 1e9, everybody[:, 1].max() / 1e9, hosts)


def judge_clocks(skews: NDArray[np.float64], error_seconds: float, hosts: Sequence[str]) -> Outcome:
    """Time limits and the age of files are read from these clocks.

    Args:
        skews: Seconds of each rank's clock ahead of rank 0's.
        error_seconds: How wrong these may be.
    """
    if len(set(hosts)) == 1:
        return Status.OK, "one host: one clock", ""
    worst = int(np.argmax(np.abs(skews)))
    found = f"at most {abs(skews[worst]):.6f} s from rank 0's ({hosts[worst]}), to within {error_seconds:.6f} s"
    if abs(skews[worst]) - error_seconds > MOST_SKEW_SECONDS:
        return Status.WARN, found, f"have the time of {hosts[worst]} set (chrony, ntpd)"
    return Status.OK, found, ""


@dataclass(frozen=True)
class Share:
    """What one rank may use of its host.

    Args:
        gpus: Names of the GPUs in its sight, the same for the same GPU.
    """

    host: str
    cores: frozenset[int]
    gpus: tuple[str, ...]


def binding(world: World) -> Outcome:
    """Which cores and GPUs the ranks of each host may use."""
    mine = Share(socket.gethostname(), frozenset(os.sched_getaffinity(0)), _gpus_in_sight())
    texts = gather_texts(world.ranks, "\n".join([mine.host, " ".join(map(str, mine.cores)), *mine.gpus]))
    return judge_binding(list(map(_read_share, texts))) if texts else (Status.OK, "answered", "")


def _gpus_in_sight() -> tuple[str, ...]:
    import torch

    return tuple(str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count()))


def _read_share(text: str) -> Share:
    host, cores, *gpus = text.split("\n")
    return Share(host, frozenset(map(int, cores.split())), tuple(gpus))


def judge_binding(shares: Sequence[Share]) -> Outcome:
    """A line for each kind of host."""
    by_host = {share.host: [other for other in shares if other.host == share.host] for share in shares}
    lines = Counter(map(_describe_host, by_host.values()))
    examples = {_describe_host(ranks): host for host, ranks in reversed(by_host.items())}
    found = "\n".join(f"{count} host(s) like {examples[line]}: {line}" for line, count in lines.items())
    uneven = [host for host, ranks in by_host.items() if len({len(share.gpus) for share in ranks}) > 1]
    if uneven:
        cure = "give every rank the same GPUs (--gpus-per-node), or one each (--gpus-per-task)"
        return Status.WARN, f"{found}\nranks of {', '.join(uneven)} see different numbers of GPUs", cure
    return Status.OK, found, ""


def _describe_host(ranks: Sequence[Share]) -> str:
    cores = Counter(core for share in ranks for core in share.cores)
    sharing = "which they share" if max(cores.values()) > 1 else "their own"
    gpus = {gpu for share in ranks for gpu in share.gpus}
    in_sight = "no GPU" if not gpus else f"{len(gpus)} GPU(s), {len(ranks[0].gpus)} in sight of each"
    return f"{len(ranks)} rank(s) on {len(cores)} cores, {sharing}; {in_sight}"


PAIRS = Check("Pairs", pairs, RMA.cure)
CLOCKS = Check("Clocks", clocks, "see whether messages arrive at all: mpirun -n 2 bagpipe doctor")
BINDING = Check("Binding", binding, "compare nvidia-smi with what the batch system was asked for")
