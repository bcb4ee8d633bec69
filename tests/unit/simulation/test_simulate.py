"""A whole simulation of a small data set: what must hold between its figures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bagpipe_hpc.data.synthetic import synthesize
from bagpipe_hpc.errors import ConfigError, PlatformError
from bagpipe_hpc.simulation import simulate as module
from bagpipe_hpc.simulation.case import EXTENSIONS, CacheSize, Case
from bagpipe_hpc.simulation.figures import Figures
from bagpipe_hpc.simulation.network import parse_networks
from bagpipe_hpc.simulation.simulate import simulate

NETWORKS = parse_networks("1Gbit,100Gbit")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "data"
    synthesize(path, num_samples=3_000, profile="avazu", scale=0.002, validation_fraction=0.0)
    return path


def small_case(data: Path, **changes: object) -> Case:
    sizes = tuple(CacheSize(share=share) for share in (0.05, 0.5, 1.0))
    case = {
        "trainers": (1, 4),
        "batch": 256,
        "cache_sizes": sizes,
        "trainer_cache": CacheSize(share=1.0),
        "refresh": (2.0,),
    }
    return Case(data, NETWORKS, **{**case, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def figures(data: Path) -> Figures:
    return simulate(small_case(data))


def test_lookahead_has_the_most_hits(figures: Figures) -> None:
    by_size: dict[int, dict[str, float]] = {}
    for row in figures.policies:
        by_size.setdefault(row.cache_rows, {})[row.policy] = row.hits
    assert len(by_size) == 3
    for hits in by_size.values():
        assert hits["lookahead"] == max(found for policy, found in hits.items() if policy != "lru-model")
        assert hits.get("planner", 0) <= hits["lookahead-200"] <= hits["lookahead"]
    everything = by_size[max(by_size)]
    assert everything["planner"] == everything["lookahead"] == everything["hot-set"]


def test_designs_agree_on_what_they_are_asked(figures: Figures) -> None:
    rows = {(row.design, row.trainers, row.network): row for row in figures.systems}
    assert len(rows) == len(figures.systems) == 9 * 2 * 2
    for trainers in (1, 4):
        plain, fresh = (rows[design, trainers, "1Gbit"] for design in ("no-cache", "staleness-0"))
        assert plain.moved_share == fresh.moved_share == 1
        saved = [rows[f"staleness-{bound}", trainers, "1Gbit"].moved_share for bound in (0, 10, 100)]
        assert saved == sorted(saved, reverse=True)
        cached = rows["lookahead", trainers, "1Gbit"]
        assert cached.rows_fetched <= plain.rows_fetched
        assert cached.rows_fetched == pytest.approx(
            next(
                row.rows_moved_per_iteration / 2
                for row in figures.policies
                if row.policy == "planner" and row.cache_share == 1
            )
        )
    for row in figures.systems:
        fast = rows[row.design, row.trainers, "100Gbit"]
        assert fast.milliseconds <= row.milliseconds
        assert 0 < row.efficiency <= 1
        assert fast.bytes_per_trainer == row.bytes_per_trainer


def test_caches_that_are_too_small_and_data_that_are_too_short_are_noted(data: Path) -> None:
    case = small_case(data, batch=600, is_weak=True, trainer_cache=CacheSize(5), staleness=(1,), trainers=(1, 4, 16))
    figures = simulate(case, lambda phase, done, total: None)
    assert {row.trainers for row in figures.systems} == {1, 4}
    assert "lookahead" not in {row.design for row in figures.systems}
    assert [note for note in figures.notes if "T = 1 is left out: --trainer-cache-rows is too small" in note]
    assert any("T = 16 is left out: 3,000 samples are 1 batch of 9,600, but at least 2" in n for n in figures.notes)
    with pytest.raises(ConfigError, match="nothing to simulate: T = 1 is left out"):
        simulate(small_case(data, trainers=(1,), batch=5_000, designs=("no-cache",)))


def test_a_missing_library_is_reported_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Callable[[], None]:
        raise PlatformError("libcachesim is missing")

    monkeypatch.setattr(module, "require_library", missing)
    with pytest.raises(PlatformError, match="libcachesim is missing"):
        simulate(small_case(Path("nowhere"), policies=("lru",)))


def test_only_chosen_designs_are_played(data: Path) -> None:
    figures = simulate(small_case(data, designs=("staleness", "no-cache"), staleness=(3,)))
    assert {row.design for row in figures.systems} == {"staleness-3", "no-cache"}
    assert "planner" not in {row.policy for row in figures.policies}


def test_epochs_make_hits(data: Path) -> None:
    once, twice = (simulate(small_case(data, epochs=epochs, trainers=(1,), designs=("no-cache",))) for epochs in (1, 2))
    assert twice.stream["samples"] == 2 * once.stream["samples"]
    first, second = ([r.hit_ratio for r in each.policies if r.policy == "lookahead"][-1] for each in (once, twice))
    assert second > first


def test_extensions_of_lookahead(data: Path) -> None:
    case = small_case(data, trainers=(4,), designs=("lookahead", *EXTENSIONS), trainers_per_node=2)
    rows = {row.design: row for row in simulate(case).systems if row.network == "1Gbit"}
    assert list(rows) == ["lookahead", *EXTENSIONS]
    plain = rows["lookahead"]
    assert rows["locality"].rows_exchanged < plain.rows_exchanged
    assert rows["16-bit-wire"].critical_bytes == plain.critical_bytes / 2
    assert rows["node-caches"].milliseconds <= rows["shared-links"].milliseconds
    with pytest.raises(ConfigError, match="--trainers has 4; for shared-links and node-caches it must be a multiple"):
        simulate(small_case(data, trainers=(4,), designs=("node-caches",), trainers_per_node=3))
