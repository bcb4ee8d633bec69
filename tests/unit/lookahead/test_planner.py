"""The planner against its brute-force twin, field by field, and against playback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

import bagpipe_hpc
from bagpipe_hpc.errors import CacheTooSmallError
from bagpipe_hpc.lookahead import planner
from bagpipe_hpc.lookahead.plan import IterationPlan

from .brute_force import Batch, BruteForcePlanner
from .playback import play
from .streams import Case, batch, cases, full_cases, wide_case, zipf_case


def key_batches(batches: Iterable[Batch]) -> Iterator[object]:
    """The same batches as the planner wants them."""
    return (planner.KeyBatch(keys=b.keys, labels=b.labels, dense=b.dense, read_only=b.read_only) for b in batches)


def plan_fast(case: Case) -> Iterator[IterationPlan]:
    """The planner's plans."""
    return planner.Planner(**case.sizes).plans(key_batches(case.batches))


def plan_slowly(case: Case) -> Iterator[IterationPlan]:
    """The twin's plans."""
    return BruteForcePlanner(**case.sizes).plans(case.batches)


def until_too_small(plans: Iterator[IterationPlan]) -> tuple[list[IterationPlan], bool]:
    """Plans up to the end or the error, and whether it was the error."""
    emitted: list[IterationPlan] = []
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
        assert len(actual) == len(expected), where  # type: ignore[arg-type]
        for index, item in enumerate(expected):
            assert_equal(actual[index], item, f"{where}[{index}]")  # type: ignore[index]
    elif is_dataclass(expected):
        for field in fields(expected):
            assert_equal(getattr(actual, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    else:
        assert actual == expected, where


@settings(deadline=None, max_examples=500)
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
def test_cache_too_small_says_what_mends_it(plan: Callable[..., Iterator[IterationPlan]]) -> None:
    sizes = {"num_keys": 500, "num_trainers": 1, "num_servers": 1, "window": 2, "prefetch_depth": 2, "cache_rows": 300}
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
            yield batch([[i % 3, 3]])

    sizes = {"num_keys": 4, "num_trainers": 1, "num_servers": 1, "window": 3, "prefetch_depth": 2, "cache_rows": 4}
    for i, plan in enumerate(planner.Planner(**sizes).plans(key_batches(stream()))):
        assert plan.iteration == i
        assert num_read <= i + sizes["window"] + 1


def test_import_is_pure() -> None:
    code = "import sys, bagpipe_hpc.lookahead.planner; print(*sorted({'mpi4py', 'torch', 'h5py'} & set(sys.modules)))"
    root = Path(bagpipe_hpc.__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
