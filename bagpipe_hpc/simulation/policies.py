"""Cache policies of libCacheSim: what caches without lookahead would do with the same accesses.

The library reads a trace of the entries from a temporary file, 24 bytes each: a time, the key, a size of 1 and the
place of the next access, which its Belady policy needs. The rows of a batch come one after the other.

Source: J. Yang et al., https://libcachesim.com. S3-FIFO: SOSP 2023. ARC: Megiddo and Modha, FAST 2003.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bagpipe_hpc.errors import ConfigError, PlatformError
from bagpipe_hpc.scratch import scratch_directory
from bagpipe_hpc.simulation.accesses import NEVER, Accesses

POLICIES = {"lru": "LRU", "lfu": "LFU", "s3fifo": "S3FIFO", "arc": "ARC", "sieve": "Sieve", "belady": "Belady"}
# The library ends the process if the small queue of S3-FIFO, a tenth of the cache, has no room for a row.
MIN_ROWS = {"s3fifo": 100}
_RECORD = np.dtype([("time", "<u4"), ("key", "<u8"), ("size", "<u4"), ("next", "<i8")])


def parse_policies(text: str) -> tuple[str, ...]:
    """Return the policies of a list with commas, such as "lru,arc"; empty: none.

    Raises:
        ConfigError: a policy is unknown.
    """
    names = tuple(name for name in text.replace(" ", "").split(",") if name)
    for name in names:
        if name not in POLICIES:
            raise ConfigError(f"--policies has '{name}'; allowed: {', '.join(POLICIES)}")
    return names


def require_library() -> Any:
    """Import libCacheSim.

    Raises:
        PlatformError: it is not installed.
    """
    try:
        return importlib.import_module("libcachesim")
    except ImportError as error:
        raise PlatformError(
            f"cache policies need the library libcachesim ({error}); install it with "
            "`pip install --no-deps libcachesim`, or go without: --policies ''"
        ) from None


def count_policy_hits(
    accesses: Accesses,
    policies: Sequence[str],
    sizes: Sequence[int],
    note: Callable[[str, int], None] = lambda policy, size: None,
) -> dict[tuple[str, int], int]:
    """Count the hits of each policy in a cache of each size.

    Args:
        accesses: The stream; one cache is asked for all entries.
        policies: Keys of POLICIES.
        sizes: Numbers of rows.
        note: Is called before each run with its policy and its size.
    Returns:
        The number of hits by policy and size; without those whose size is below MIN_ROWS.
    Raises:
        PlatformError: libCacheSim is not installed.
    """
    if not policies:
        return {}
    library = require_library()
    hits = {}
    with scratch_directory("bagpipe-simulate-") as directory:
        trace = directory / "accesses.oracleGeneral"
        _write_trace(accesses, trace)
        for policy in policies:
            for size in (size for size in sizes if size >= MIN_ROWS.get(policy, 1)):
                note(policy, size)
                hits[policy, size] = _play(library, trace, policy, size, len(accesses.entries))
    return hits


def _write_trace(accesses: Accesses, path: Path) -> None:
    following = accesses.next_entries().astype(np.int64)
    records = np.empty(len(accesses.entries), dtype=_RECORD)
    records["time"], records["size"] = 1, 1
    records["key"] = accesses.entries.astype(np.int64) + 1  # the library takes 0 for no key
    records["next"] = np.where(following == NEVER, -1, following + 1)  # it counts accesses from 1 on
    records.tofile(path)


def _play(library: Any, trace: Path, policy: str, size: int, num_accesses: int) -> int:
    reader = library.TraceReader(str(trace), library.TraceType.ORACLE_GENERAL_TRACE)
    hash_bits = int(np.clip(np.ceil(np.log2(size + 1)) + 1, 10, 24))
    cache = getattr(library, POLICIES[policy])(size, hashpower=hash_bits)
    miss_ratio, _ = cache.process_trace(reader)
    return round((1.0 - float(miss_ratio)) * num_accesses)
