"""Learning rates over the iterations."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bagpipe_hpc.config import ScheduleConfig
from bagpipe_hpc.learning_rate import LearningRate, factor

DECAYS = ["constant", "linear", "cosine", "inverse_sqrt", "step"]


def factors(num_iterations: int, **settings: object) -> list[float]:
    schedule = ScheduleConfig.model_validate(settings)
    return [factor(schedule, num_trained) for num_trained in range(1, num_iterations + 1)]


def test_without_a_schedule_the_rate_is_the_base_rate() -> None:
    assert {LearningRate(0.1)(num_trained) for num_trained in (1, 2, 10**9)} == {0.1}


def test_golden_schedules() -> None:
    warm = {"warm_up_iterations": 2}
    assert factors(4, **warm) == [0.5, 1, 1, 1]
    assert factors(7, **warm, decay="linear", decay_iterations=4, decay_factor=0) == [0.5, 1, 0.75, 0.5, 0.25, 0, 0]
    assert factors(5, decay="linear", decay_iterations=2, decay_factor=0.5) == [0.75, 0.5, 0.5, 0.5, 0.5]
    assert factors(6, **warm, decay="step", decay_iterations=2, decay_factor=0.5) == [0.5, 1, 1, 0.5, 0.5, 0.25]
    assert factors(8, **warm, decay="inverse_sqrt")[1::6] == [1, 0.5]
    assert factors(6, **warm, decay="cosine", decay_iterations=4, decay_factor=0) == pytest.approx(
        [0.5, 1, 0.8535534, 0.5, 0.1464466, 0]
    )


@given(st.sampled_from(DECAYS), st.integers(0, 20), st.integers(1, 20), st.floats(0, 1), st.floats(1e-6, 10))
def test_rates_grow_to_the_base_and_then_never_again(
    decay: str, warm_up: int, length: int, last: float, base: float
) -> None:
    schedule = ScheduleConfig.model_validate(
        {"warm_up_iterations": warm_up, "decay": decay, "decay_iterations": length, "decay_factor": last}
    )
    rates = [LearningRate(base, schedule)(num_trained) for num_trained in range(1, 61)]
    assert all(0 <= rate <= base for rate in rates)
    assert all(a < b for a, b in itertools.pairwise(rates[:warm_up]))
    assert all(a >= b - 1e-12 * base for a, b in itertools.pairwise(rates[max(0, warm_up - 1) :]))
    assert rates[warm_up - 1] == base or warm_up == 0
