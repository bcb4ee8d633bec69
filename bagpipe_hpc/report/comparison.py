"""What differs between runs: their settings and their summaries. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bagpipe_hpc.config import Config
from bagpipe_hpc.launch.run_settings import shown_value
from bagpipe_hpc.report.run_directory import Run

MISSING = "-"


@dataclass(frozen=True)
class ComparedRow:
    """A row of a table with one column per run.

    Args:
        name: What is compared.
        values: The value of each run, as text.
        changes: The relative change to the first run, as text; empty where there is none.
    """

    name: str
    values: tuple[str, ...]
    changes: tuple[str, ...] = ()


def settings_of(runs: Sequence[Run]) -> tuple[list[ComparedRow], list[ComparedRow]]:
    """Return the settings that say most, and the others.

    Those of several runs say most where they differ; those of one run, where they differ from the default.
    """
    defaults = _default_settings()
    first: list[ComparedRow] = []
    rest: list[ComparedRow] = []
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        values = [run.settings.get(name, MISSING) for run in runs]
        told = values if len(runs) > 1 else [*values, defaults.get(name, MISSING)]
        row = ComparedRow(name, tuple(shown_value(value) for value in values))
        (first if any(value != told[0] for value in told) else rest).append(row)
    return first, rest


def summaries_of(runs: Sequence[Run]) -> list[ComparedRow]:
    """Return the figures of summary.json; those of several runs only where they differ."""
    flat = [dict(_flat(run.summary)) for run in runs]
    rows = []
    for name in dict.fromkeys(name for figures in flat for name in figures):
        values = [figures.get(name) for figures in flat]
        if len(runs) == 1 or any(value != values[0] for value in values):
            changes = ("", *(_change(values[0], value) for value in values[1:]))
            rows.append(ComparedRow(name, tuple(_shown(value) for value in values), changes))
    return rows


def _default_settings() -> dict[str, Any]:
    return dict(_flat(Config().model_dump(mode="json")))


def _flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and (tree or not prefix):
        for name, value in tree.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, tree


def _change(first: Any, value: Any) -> str:
    if not _is_number(first) or not _is_number(value) or not first or first == value:
        return ""
    change = value / first - 1
    return f"{change:+.1%}" if abs(change) < 10 else f"x {value / first:,.0f}"


def _shown(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return shown_value(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5g}" if abs(value) < 1e5 else f"{value:,.0f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
