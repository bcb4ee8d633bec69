"""The planner against its brute-force twin, field by field, and against playback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import bagpipe_hpc
from bagpipe_hpc.batch import Bags, Batch
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.lookahead.next_use import CompactKeyState
from bagpipe_hpc.lookahead.planner import BATCHES_AHEAD, Planner
from bagpipe_hpc.sharding import KeySpace
from tests.plans import RankPlans, rank_plans

from .brute_force import Batch as TwinBatch
from .brute_force import BruteForcePlanner
from .playback import play
from .streams import Case, batch, cases, full_cases, one_table, wide_case, zipf_case


def batches_of(case: Case, dtype: type[np.integer[Any]] = np.int64) -> Iterator[Batch]:
    """The same batches as the planner takes them."""
    features = case.sizes["features"]
    offsets = KeySpace(case.sizes["num_embeddings"]).table_offsets[list(features.tables)]
    one_hot = [f for f in range(len(features.tables)) if f not in features.ragged]
    for b in case.batches:
        columns = [[key - offsets[f] for (key,) in b.bags[f]] for f in one_hot]
        ids = np.array(columns, dtype).reshape(len(one_hot), len(b.labels)).T.copy()
        bags = {f"feature {f}": bags_of(b, f, offsets[f]) for f in features.ragged}
        yield Batch(b.labels, b.dense, ids, bags, b.read_only)


def bags_of(b: TwinBatch, feature: int, offset: int) -> Bags:
    """One ragged feature of a batch."""
    bags = b.bags[feature]
    ids = np.array([key - offset for bag in bags for key in bag], dtype=np.int64)
    weights = np.array(b.weights(feature), np.float32) if feature in b.weighted else None
    return Bags(np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]).astype(np.int64), ids, weights)


def plan_fast(case: Case, **options: Any) -> Iterator[RankPlans]:
    """The planner's plans."""
    return rank_plans(Planner(**case.sizes, **options).plans(batches_of(case)))


def plan_slowly(case: Case) -> Iterator[RankPlans]:
    """The twin's plans."""
    return BruteForcePlanner(**case.sizes).plans(case.batches)


def until_too_small(plans: Iterator[RankPlans]) -> tuple[list[RankPlans], bool]:
    """Plans up to the end or the error, and whether it was the error."""
    emitted: list[RankPlans] = []
    try:
        for plan in plans:
            emitted.append(plan)
    except CacheTooSmallError:
        return emitted, True
    return emitted, False


def assert_equal(actual: object, expected: object, where: str = "plan") -> None:
    """Equal field by field: types, dtypes, shapes, values."""
    assert type(actual) is type(expected), where
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected, err_msg=where, strict=True)
    elif isinstance(expected, list | tuple):
        assert isinstance(actual, list | tuple)
        assert len(actual) == len(expected), where
        for index, item in enumerate(expected):
            assert_equal(actual[index], item, f"{where}[{index}]")
    elif is_dataclass(expected):
        for field in fields(expected):
            assert_equal(getattr(actual, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    else:
        assert actual == expected, where


@settings(deadline=None, max_examples=300)
@given(cases() | full_cases())
def test_equals_the_twin(case: Case) -> None:
    actual, actual_error = until_too_small(plan_fast(case))
    expected, expected_error = until_too_small(plan_slowly(case))
    assert_equal(actual, expected)
    assert actual_error == expected_error
    assert case.may_not_fit or not actual_error
    play(case.batches, actual, **case.sizes)


@pytest.mark.parametrize(
    ("num_trainers", "window", "prefetch_depth"), [(1, 6, 6), (2, 12, 1), (3, 0, 0), (4, 3, 0), (4, 30, 2)]
)
def test_equals_the_twin_on_longer_streams(num_trainers: int, window: int, prefetch_depth: int) -> None:
    case = zipf_case(num_trainers, num_trainers=num_trainers, window=window, prefetch_depth=prefetch_depth)
    plans = list(plan_fast(case))
    assert_equal(plans, list(plan_slowly(case)))
    play(case.batches, plans, **case.sizes)


def test_equals_the_twin_where_rings_grow() -> None:
    case = wide_case()
    assert_equal(list(plan_fast(case)), list(plan_slowly(case)))


@pytest.mark.parametrize("plan", [plan_fast, plan_slowly], ids=["planner", "twin"])
def test_cache_too_small_says_what_mends_it(plan: Callable[..., Iterator[RankPlans]]) -> None:
    sizes = {
        **one_table(500, 1),
        "num_trainers": 1,
        "num_servers": 1,
        "window": 2,
        "prefetch_depth": 2,
        "cache_rows": 300,
    }
    case = Case([batch([[key] for key in range(500)])], sizes)
    with pytest.raises(CacheTooSmallError, match=r"cache\.rows") as error:
        list(plan(case))
    message = str(error.value)
    assert "lookahead.prefetch_depth" in message
    numbers = {int(number.replace(",", "")) for number in re.findall(r"\d+(?:,\d{3})*", message)}
    assert 300 in numbers, "the limit"
    assert any(number > 300 for number in numbers), "the need"


def test_reads_no_further_than_the_lookahead_window() -> None:
    num_read = 0

    def stream() -> Iterator[Batch]:
        nonlocal num_read
        for i in range(20):
            num_read += 1
            yield Batch(np.zeros(1, np.float32), np.zeros((1, 0), np.float32), np.array([[i % 3, 3]]))

    sizes = {**one_table(4, 2), "num_trainers": 1, "num_servers": 1, "window": 3, "prefetch_depth": 2, "cache_rows": 4}
    for i, plan in enumerate(Planner(**sizes).plans(stream())):
        assert plan.stream_position == i
        assert num_read <= i + sizes["window"] + 1


@settings(deadline=None, max_examples=100)
@given(cases() | full_cases())
def test_a_compact_key_state_changes_nothing(case: Case) -> None:
    compact, _ = until_too_small(plan_fast(case, max_dense_keys=0))
    assert_equal(compact, until_too_small(plan_fast(case))[0])


def test_a_compact_key_state_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bagpipe_hpc.lookahead.planner.CompactKeyState", lambda: CompactKeyState(num_places=4))
    case = zipf_case(0, num_trainers=3, window=4, prefetch_depth=2)
    assert_equal(list(plan_fast(case, max_dense_keys=0)), list(plan_slowly(case)))


def test_int32_ids_are_as_good() -> None:
    case = zipf_case(0, num_trainers=3, window=4, prefetch_depth=2)
    narrow = rank_plans(Planner(**case.sizes).plans(batches_of(case, np.int32)))
    assert_equal(list(narrow), list(plan_fast(case)))


def test_batches_may_enter_ahead_of_the_plans() -> None:
    """As far as a thread of its own may run ahead."""
    case = zipf_case(0, num_trainers=2, window=3, prefetch_depth=2)
    ahead = Planner(**case.sizes)
    plans = []
    for planner_batch in batches_of(case):
        ahead.enter(planner_batch)
        if ahead.num_pending == case.sizes["window"] + 2 + BATCHES_AHEAD:
            plans.append(ahead.emit())
    plans += [ahead.emit() for _ in range(ahead.num_pending)]
    assert_equal(list(rank_plans(plans)), list(plan_slowly(case)))


def test_ten_billion_keys() -> None:
    """A key space that no array could hold."""
    rng = np.random.default_rng(0)
    big = 10**10
    sizes: dict[str, Any] = {
        "num_trainers": 2,
        "num_servers": 2,
        "window": 3,
        "prefetch_depth": 1,
        "cache_rows": 4000,
    }
    ids = [rng.integers(0, big, (300, 2)) // 10**6 * 10**6 for _ in range(12)]
    batches = [Batch(np.zeros(300, np.float32), np.zeros((300, 0), np.float32), i) for i in ids]
    plans = list(rank_plans(Planner(num_embeddings=(big, big), **sizes).plans(batches)))
    fetched = [s + 2 * row for plan in plans for s, server in enumerate(plan.servers) for row in server.fetch_rows]
    assert {key for rows in ids for key in (rows + np.array([0, big])).ravel().tolist()} == set(fetched)
    assert max(fetched) > big


def test_import_is_pure() -> None:
    code = "import sys, bagpipe_hpc.lookahead.planner; print(*sorted({'mpi4py', 'torch', 'h5py'} & set(sys.modules)))"
    root = Path(bagpipe_hpc.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
