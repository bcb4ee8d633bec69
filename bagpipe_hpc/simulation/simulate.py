"""Plays a stream under all policies and designs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from bagpipe_hpc.data.dataset import Progress, no_progress, open_dataset
from bagpipe_hpc.errors import CacheTooSmallError, ConfigError
from bagpipe_hpc.simulation.accesses import Accesses, accesses_of
from bagpipe_hpc.simulation.all_to_all import play_all_to_all
from bagpipe_hpc.simulation.approximate_keys import (
    NO_REFRESH,
    group_keys,
    model_approximate,
    play_approximate,
)
from bagpipe_hpc.simulation.bounded_staleness import play_bounded_staleness
from bagpipe_hpc.simulation.case import EXTENSIONS, Case
from bagpipe_hpc.simulation.che import lru_hit_ratio
from bagpipe_hpc.simulation.exact_lookahead import UNLIMITED, count_hits
from bagpipe_hpc.simulation.extensions import play_extension
from bagpipe_hpc.simulation.figures import ApproximateFigures, Figures, PolicyFigures, SystemFigures
from bagpipe_hpc.simulation.hot_set import count_hot_hits, play_hot_set
from bagpipe_hpc.simulation.network import Network, efficiency, iteration_seconds
from bagpipe_hpc.simulation.no_cache import play_no_cache
from bagpipe_hpc.simulation.planned_lookahead import play_lookahead
from bagpipe_hpc.simulation.policies import MIN_ROWS, count_policy_hits, require_library
from bagpipe_hpc.simulation.replicated import play_replicated
from bagpipe_hpc.simulation.stream import KeyStream, read_stream
from bagpipe_hpc.simulation.traffic import Traffic

MIN_ITERATIONS = 2


def simulate(case: Case, progress: Progress = no_progress) -> Figures:
    """Read the stream of a data set and play it.

    Args:
        case: What to simulate.
        progress: Is called with what happens now, and how much of it is done.
    Raises:
        DatasetError: the data set is damaged, or a table is dynamic.
        ConfigError: there are too few samples for any number of trainers.
        PlatformError: libCacheSim is missing.
    """
    if case.policies:
        require_library()
    stream = read_stream(open_dataset(case.data), case.samples, progress).repeated(case.epochs)
    notes: list[str] = []
    policies = _policies(case, stream, notes, progress)
    systems = _systems(case, stream, notes, progress)
    approximate = _approximate(case, stream, progress)
    played = {
        "samples": stream.num_samples,
        "ids": len(stream.keys),
        "rows_that_occur": stream.num_keys,
        "rows_of_tables": stream.num_table_rows,
    }
    return Figures(played, policies, systems, approximate, notes)


def _policies(case: Case, stream: KeyStream, notes: list[str], progress: Progress) -> list[PolicyFigures]:
    """Play one shared cache under each policy and size; the batch is that of one trainer."""
    accesses = accesses_of(stream, case.batch, 1)
    sizes = sorted({size.of(stream.num_keys) for size in case.cache_sizes})
    num_accesses, num_iterations = len(accesses.entries), accesses.num_iterations
    num_runs = len(case.policies) * len(sizes)
    runs = iter(range(num_runs))

    def note(policy: str, size: int) -> None:
        progress("playing cache policies", next(runs), num_runs)

    progress("playing exact lookahead", 0, 0)
    hits: dict[tuple[str, int], float] = {}
    for size in sizes:
        hits["lookahead", size] = int(count_hits(accesses, UNLIMITED, size).sum())
        hits[f"lookahead-{case.window}", size] = int(count_hits(accesses, case.window, size).sum())
        if (planned := _planned_hits(case, stream, accesses, size, progress)) is not None:
            hits["planner", size] = planned
    counts = np.bincount(accesses.entries, minlength=stream.num_keys)
    hits |= {("hot-set", size): found for size, found in count_hot_hits(accesses, sizes).items()}
    hits |= {("lru-model", size): lru_hit_ratio(counts, size) * num_accesses for size in sizes}
    hits |= count_policy_hits(accesses, case.policies, sizes, note)
    for policy in case.policies:
        if too_small := [size for size in sizes if size < MIN_ROWS.get(policy, 1)]:
            notes.append(f"{policy} needs a cache of {MIN_ROWS[policy]} rows, so it is left out below ({too_small})")
    return [
        PolicyFigures(
            policy=policy,
            cache_rows=size,
            cache_share=size / stream.num_keys,
            accesses=num_accesses,
            hits=found,
            hit_ratio=found / num_accesses,
            rows_moved_per_iteration=2 * (num_accesses - found) / num_iterations,
        )
        for (policy, size), found in hits.items()
    ]


def _planned_hits(case: Case, stream: KeyStream, accesses: Accesses, cache_rows: int, progress: Progress) -> int | None:
    """Return the hits of the planner with one trainer; None: the rows of a batch and the next P do not fit."""
    if "lookahead" not in case.designs:
        return None
    try:
        traffic = play_lookahead(
            stream,
            accesses,
            window=case.window,
            prefetch_depth=case.prefetch_depth,
            cache_rows=cache_rows,
            num_servers=1,
            row_bytes=case.row_bytes,
            note=lambda planned: progress("planning for one trainer", planned, accesses.num_iterations),
        )
    except CacheTooSmallError:
        return None
    return len(accesses.entries) - traffic.rows_fetched


def _systems(case: Case, stream: KeyStream, notes: list[str], progress: Progress) -> list[SystemFigures]:
    figures = []
    for number, num_trainers in enumerate(case.trainers):
        batch_size = case.batch_size(num_trainers)
        num_iterations = -(-stream.num_samples // batch_size)
        if num_iterations < MIN_ITERATIONS:
            notes.append(
                f"T = {num_trainers:,} is left out: {stream.num_samples:,} samples are {num_iterations} batch of "
                f"{batch_size:,}, but at least {MIN_ITERATIONS} are needed; lower --batch or raise --epochs"
            )
            continue
        accesses = accesses_of(stream, batch_size, num_trainers)
        moved_without_cache = 2 * len(accesses.pairs)
        for play in _designs(case, stream, accesses, progress):
            progress(f"playing designs with {num_trainers:,} trainers", number, len(case.trainers))
            try:
                traffic = play()
            except CacheTooSmallError as error:
                notes.append(
                    f"lookahead with T = {num_trainers:,} is left out: --trainer-cache-rows is too small for a batch "
                    f"of {batch_size:,}; {error}"
                )
                continue
            for network in case.networks:
                figures.append(_system(case, accesses, traffic, network, moved_without_cache))
    if not figures:
        raise ConfigError(f"{case.data}: nothing to simulate: {'; '.join(notes)}")
    return figures


def _designs(case: Case, stream: KeyStream, accesses: Accesses, progress: Progress) -> list[Callable[[], Traffic]]:
    """Return a call for each design that plays it."""
    num_servers, row_bytes = case.num_servers(accesses.num_trainers), case.row_bytes
    cache_rows = case.trainer_cache.of(stream.num_keys)
    num_trainers, per_node = accesses.num_trainers, case.trainers_per_node
    if num_trainers % per_node and {"shared-links", "node-caches"} & set(case.designs):
        raise ConfigError(
            f"--trainers has {num_trainers:,}; for shared-links and node-caches it must be a multiple of "
            f"--trainers-per-node ({per_node})"
        )

    def note(planned: int) -> None:
        progress(f"planning for {accesses.num_trainers:,} trainers", planned, accesses.num_iterations)

    lookahead = partial(
        play_lookahead,
        window=case.window,
        prefetch_depth=case.prefetch_depth,
        cache_rows=cache_rows,
        num_servers=num_servers,
        row_bytes=row_bytes,
        note=note,
    )
    extension = partial(
        play_extension, stream, accesses, case.batch_size(num_trainers), lookahead, row_bytes, cache_rows
    )
    plays: dict[str, list[Callable[[], Traffic]]] = {
        "lookahead": [lambda: lookahead(stream, accesses)],
        **{name: [partial(extension, name, trainers_per_node=per_node)] for name in EXTENSIONS},
        "replicated": [lambda: play_replicated(accesses, case.window, num_servers, row_bytes)],
        "hot-set": [lambda: play_hot_set(accesses, cache_rows, num_servers, row_bytes)],
        "staleness": [
            partial(
                play_bounded_staleness,
                accesses,
                staleness=staleness,
                cache_rows=cache_rows,
                num_servers=num_servers,
                row_bytes=row_bytes,
            )
            for staleness in case.staleness
        ],
        "all-to-all": [
            lambda: play_all_to_all(stream, accesses, row_bytes, unique=False),
            lambda: play_all_to_all(stream, accesses, row_bytes, unique=True),
        ],
        "no-cache": [lambda: play_no_cache(accesses, num_servers, row_bytes)],
    }
    return [play for design in case.designs for play in plays[design]]


def _system(
    case: Case, accesses: Accesses, traffic: Traffic, network: Network, moved_without_cache: int
) -> SystemFigures:
    n = accesses.num_iterations
    seconds = iteration_seconds(traffic, accesses.num_samples, case.compute, network)
    return SystemFigures(
        design=traffic.design,
        trainers=accesses.num_trainers,
        network=network.name,
        batch=case.batch_size(accesses.num_trainers),
        iterations=n,
        local_ratio=traffic.local_ratio,
        rows_fetched=traffic.rows_fetched / n,
        rows_written=traffic.rows_written / n,
        rows_exchanged=traffic.rows_exchanged / n,
        moved_share=traffic.rows_moved / moved_without_cache,
        bytes_per_trainer=traffic.bytes_per_trainer,
        critical_bytes=float(traffic.critical.busiest.mean()),
        milliseconds=1e3 * float(seconds.mean()),
        efficiency=efficiency(seconds, accesses.num_samples, accesses.num_trainers, case.compute),
        staleness=traffic.staleness.mean,
        largest_staleness=traffic.staleness.largest,
        held_back=traffic.staleness.largest_pending,
        cache_rows=traffic.cache_rows,
    )


def _approximate(case: Case, stream: KeyStream, progress: Progress) -> list[ApproximateFigures]:
    groups = group_keys(stream, case.similar)
    sizes = sorted({min(groups.num_groups, size.of(groups.num_groups)) for size in case.cache_sizes})
    runs = [(ideal, size, beta) for ideal in (False, True) for size in sizes for beta in (NO_REFRESH, *case.refresh)]
    figures = []
    for number, (ideal, size, beta) in enumerate(runs):
        progress("playing approximate keys", number, len(runs))
        played = play_approximate(stream, groups, size, beta, ideal=ideal)
        expected = model_approximate(stream, groups, size, beta, ideal=ideal)
        figures.append(
            ApproximateFigures(
                cache="ideal" if ideal else "lru",
                cache_rows=size,
                cache_share=size / groups.num_groups,
                refresh=beta,
                hit_ratio=played.hit_ratio,
                error_ratio=played.error_ratio,
                refresh_ratio=played.refresh_ratio,
                model_hit_ratio=expected.hit_ratio,
                model_error_ratio=expected.error_ratio,
                model_refresh_ratio=expected.refresh_ratio,
            )
        )
    return figures
