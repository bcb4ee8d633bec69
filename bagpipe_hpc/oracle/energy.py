"""The energy of a job, from what its ranks have read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def energy_of(readings: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the energy of all hosts, and of each: `joules` and `source`; None if no rank could read any.

    Ranks of one host read the same counters, so the largest reading counts.

    Args:
        readings: What the meters of the ranks read; see EnergyMeter. Empty ones do not count.
    """
    nodes: dict[str, float] = {}
    gpus: dict[str, dict[str, float]] = {}
    for reading in filter(None, readings):
        host = reading["host"]
        if reading["node"] is not None:
            nodes[host] = max(reading["node"], nodes.get(host, 0.0))
        for name, joules in reading["gpus"].items():
            of_host = gpus.setdefault(host, {})
            of_host[name] = max(joules, of_host.get(name, 0.0))
    hosts = {host: _of_host(nodes.get(host), gpus.get(host, {})) for host in sorted(nodes.keys() | gpus.keys())}
    if not hosts:
        return None
    sources = sorted({source for host in hosts.values() for source in host["source"].split(" + ")}, reverse=True)
    return {"joules": sum(host["joules"] for host in hosts.values()), "source": " + ".join(sources), "hosts": hosts}


def _of_host(node: float | None, gpus: Mapping[str, float]) -> dict[str, Any]:
    sources = [*(["RAPL"] if node is not None else []), *(["NVML"] if gpus else [])]
    return {"joules": (node or 0.0) + sum(gpus.values()), "source": " + ".join(sources)}
