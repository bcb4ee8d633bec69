"""How long an iteration takes: a model of links, not of switches.

Every trainer and every server has a full-duplex link of a bandwidth; the links meet in a switch that is never the
bottleneck. With the compute time c of the trainer with the most samples, the bandwidth b, the latency l and the number
of waits r of a design, an iteration takes

    the largest of   c + critical bytes / b + r l
                     all bytes / b
                     bytes of the busiest server / b

where bytes are those of the busiest trainer in its busier direction. If trainers wait for servers, critical bytes are
at least those of the busiest server. Dense gradients, if they are counted, are summed over a ring after the backward
pass: their bytes and waits are critical. Copies in memory, contention within a node and the work of the CPU are not
modelled. If trainers share a link (`Traffic.trainers_per_link`), bytes are those of the busiest link.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.protocol.plan import Float64Array, Int64Array
from bagpipe_hpc.simulation.traffic import Traffic, allreduce_rounds

LATENCY_SECONDS = 10e-6
_SPEED = re.compile(r"(\d+(?:\.\d+)?)([GM])bit", re.IGNORECASE)


@dataclass(frozen=True)
class Network:
    """The links.

    Args:
        name: As the user wrote it, such as "25Gbit".
        bytes_per_second: Of each link and direction.
        latency_seconds: From one trainer to another.
    """

    name: str
    bytes_per_second: float
    latency_seconds: float = LATENCY_SECONDS


@dataclass(frozen=True)
class Compute:
    """What trainers do besides moving rows.

    Args:
        seconds_per_sample: Forward and backward pass.
        dense_bytes: Of the dense gradients.
    """

    seconds_per_sample: float
    dense_bytes: float = 0.0


def parse_networks(
    text: str, latency_seconds: float = LATENCY_SECONDS, option: str = "--networks"
) -> tuple[Network, ...]:
    """Return the networks of a list with commas, such as "10Gbit,100Gbit". Messages name the option.

    Raises:
        ConfigError: a speed is malformed or 0, or there is none.
    """
    networks = []
    for name in filter(None, text.replace(" ", "").split(",")):
        found = _SPEED.fullmatch(name)
        if not found or not float(found[1]):
            raise ConfigError(f"{option} has '{name}'; write speeds as 25Gbit or 800Mbit, with commas between them")
        bits = float(found[1]) * (1e9 if found[2].upper() == "G" else 1e6)
        networks.append(Network(name, bits / 8, latency_seconds))
    if not networks:
        raise ConfigError(f"{option} is empty; write speeds such as 10Gbit,100Gbit")
    return tuple(networks)


def iteration_seconds(traffic: Traffic, num_samples: Int64Array, compute: Compute, network: Network) -> Float64Array:
    """Return how long each iteration takes.

    Args:
        traffic: What a design moves.
        num_samples: Samples of each batch, int64, shape (num_iterations,).
        compute: What trainers do besides.
        network: The links.
    Returns:
        float64, shape (num_iterations,).
    """
    num_links = traffic.critical.sent.shape[1]
    num_trainers = num_links * traffic.trainers_per_link
    dense = 2 * (num_links - 1) / num_links * compute.dense_bytes
    critical = traffic.critical.busiest
    if traffic.servers_are_critical:
        critical = np.maximum(critical, traffic.server_bytes)
    waits = traffic.rounds + (allreduce_rounds(num_trainers) if compute.dense_bytes else 0)
    computing = np.ceil(num_samples / num_trainers) * compute.seconds_per_sample
    bandwidth = network.bytes_per_second
    waiting = computing + (critical + dense) / bandwidth + waits * network.latency_seconds
    moving = ((traffic.critical + traffic.late).busiest + dense) / bandwidth
    seconds: Float64Array = np.maximum(np.maximum(waiting, moving), traffic.server_bytes / bandwidth)
    return seconds


def efficiency(seconds: Float64Array, num_samples: Int64Array, num_trainers: int, compute: Compute) -> float:
    """Return the share of the time in which trainers compute: 1 if nothing is ever waited for."""
    return float(num_samples.sum() * compute.seconds_per_sample / (num_trainers * seconds.sum()))
