"""The case and the table of `bench histories`."""

from __future__ import annotations

import pytest
from rich.console import Console

from bagpipe_hpc.bench.histories import MARGIN, WARM_UP, HistoriesCase, HistoriesRun, histories_table
from bagpipe_hpc.errors import ConfigError

CASE = HistoriesCase((50, 2_000), ("din", "hstu"), 16_000, 2, 12)


def test_batches_have_about_as_many_elements_whatever_the_length() -> None:
    assert [CASE.batch_size(length) for length in (50, 2_000, 10_000)] == [320, 8, 2]
    assert CASE.num_samples(2_000) == 8 * (WARM_UP + 12 + MARGIN)


@pytest.mark.parametrize(
    ("lengths", "models", "elements", "fault"),
    [
        ((50,), ("dcn",), 100, "--models has 'dcn'; the models are din, sasrec, bst, hstu"),
        ((50, 0), ("din",), 100, "--lengths has 0, but a length must be from 1 to 10,000"),
        ((50,), (), 100, "--models and --lengths need at least one value each"),
        ((50,), ("din",), 0, "--elements is 0, but must be at least 1"),
    ],
)
def test_values_are_checked(lengths: tuple[int, ...], models: tuple[str, ...], elements: int, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        HistoriesCase(lengths, models, elements, 2, 12)


def test_settings_are_checked_before_the_first_run() -> None:
    CASE.check(["model.attention_blocks=2"])
    with pytest.raises(ConfigError, match="name them in --models"):
        CASE.check(["model.name=bst"])
    with pytest.raises(ConfigError, match="attention_heads"):
        CASE.check(["model.attention_heads=0"])


def test_speeds_are_those_of_all_trainers() -> None:
    run = HistoriesRun("din", 50, 320, 2.0, 12, 200_000, {"oracle": 300_000_000, "server": 1, "trainer": 2})
    assert run.samples_per_second == 1_920
    assert run.elements_per_second == 100_000
    assert run.to_json()["elements_per_second"] == 100_000
    console = Console(width=140, record=True)
    console.print(histories_table([run]))
    text = console.export_text()
    assert "1,920" in text
    assert "300" in text
