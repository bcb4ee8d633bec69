"""The network interfaces of a host: what they have sent, and which of them leads to another host."""

from __future__ import annotations

import ipaddress
import socket
from bisect import bisect_left
from pathlib import Path

import psutil

from bagpipe_hpc.bench.sampler import Sampler
from bagpipe_hpc.errors import PlatformError

INTERFACES = Path("/sys/class/net")
SAMPLE_SECONDS = 0.02


def sent_bytes(interfaces: Path = INTERFACES) -> int:
    """Return the bytes that all interfaces but the loopback have sent.

    An interface that belongs to another one, such as a port of a bond, counts there.
    """
    return sum(
        int((path / "statistics" / "tx_bytes").read_text(encoding="ascii"))
        for path in interfaces.iterdir()
        if path.name != "lo" and (path / "statistics").is_dir() and not (path / "master").exists()
    )


class SentBytes(Sampler[int]):
    """Samples what a host sends: the bytes so far."""

    def __init__(self) -> None:
        super().__init__("sent bytes", sent_bytes, SAMPLE_SECONDS)


def bytes_between(samples: list[tuple[float, int]], begin: float, end: float) -> float:
    """Return what was sent between two times, from samples of (time, bytes sent so far) in their order."""
    return _at(samples, end) - _at(samples, begin)


def _at(samples: list[tuple[float, int]], moment: float) -> float:
    """Return the bytes sent up to a moment, on the line between the samples around it."""
    after = bisect_left(samples, (moment, 0))
    if after == 0 or after == len(samples):
        return float(samples[min(after, len(samples) - 1)][1])
    (t0, b0), (t1, b1) = samples[after - 1], samples[after]
    return b0 + (b1 - b0) * (moment - t0) / (t1 - t0)


def address_for_others(interface: str | None = None) -> str:
    """Return an IPv4 address of this host at which other hosts reach it.

    Args:
        interface: The interface whose address to return. None: the one that the host's name has, or else that of the
            first interface that is no loopback.
    Raises:
        PlatformError: There is none.
    """
    if interface is None:
        try:
            named = socket.gethostbyname(socket.gethostname())
        except OSError:
            named = "127.0.0.1"
        if not ipaddress.ip_address(named).is_loopback:
            return named
    for name, address in _addresses():
        if interface in (None, name) and not ipaddress.ip_address(address).is_loopback:
            return address
    raise PlatformError(
        f"{socket.gethostname()}: {interface or 'no interface'} has an IPv4 address that other hosts reach, which gloo "
        "needs; name another interface with --interface"
    )


def interface_towards(address: str) -> str:
    """Return the interface of the route to an address; if it is this host's own, the interface that has it.

    Raises:
        PlatformError: There is no route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # of a datagram socket: sends nothing
        except OSError as error:
            raise PlatformError(f"{socket.gethostname()}: no route to {address} ({error.strerror})") from None
        mine = probe.getsockname()[0]
    for name, own in _addresses():
        if own in (mine, address):
            return name
    raise PlatformError(f"{socket.gethostname()}: no interface has the address {mine}; name one with --interface")


def _addresses() -> list[tuple[str, str]]:
    """Return the IPv4 addresses of all interfaces."""
    return [
        (name, each.address)
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family == socket.AF_INET
    ]
