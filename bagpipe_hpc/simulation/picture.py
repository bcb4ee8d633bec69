"""Pictures of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.simulation.figures import ApproximateFigures, Figures, PolicyFigures, SystemFigures

# This package is orange, designs with caches everywhere green, with servers alone grey, with sharded tables blue.
COLOURS = {
    "lookahead": "#e66101", "replicated": "#66a61e", "hot-set": "#bf812d", "no-cache": "#8d8d8d",
    "all-to-all": "#9ecae1", "all-to-all-unique": "#3f78c0",
    "lru": "#3f78c0", "lru-model": "#3f78c0", "lfu": "#1b7c84", "s3fifo": "#9e6ebd", "arc": "#66a61e",
    "sieve": "#e78ac3", "belady": "#222222", "planner": "#a63603",
    "locality": "#1b7c84", "16-bit-wire": "#3f78c0", "hot-replicas": "#7a0177", "shared-links": "#8d8d8d",
    "node-caches": "#66a61e",
}  # fmt: skip
STALE = ("#d4b9da", "#c994c7", "#dd3497", "#7a0177")  # bounded staleness, the smallest bound first
WINDOWED, OTHER = "#fdae6b", "#5e3c99"
STALENESS = "staleness-"  # how the names of designs with bounded staleness begin
MARKERS = "osD^vP*X<>"
DPI = 110


def draw_figures(figures: Figures, directory: Path) -> list[Path]:
    """Draw policies, systems, efficiency, staleness and approximate.png, those that have figures; return the files.

    Raises:
        ConfigError: a file cannot be written.
    """
    drawn: list[tuple[str, Figure]] = []
    if figures.policies:
        drawn.append(("policies.png", _draw_policies(figures.policies)))
    if figures.systems:
        drawn.append(("systems.png", _draw_systems(figures.systems)))
        drawn.append(("efficiency.png", _draw_efficiency(figures.systems)))
    if any(row.design.startswith(STALENESS) for row in figures.systems):
        drawn.append(("staleness.png", _draw_staleness(figures.systems)))
    if figures.approximate:
        drawn.append(("approximate.png", _draw_approximate(figures.approximate)))
    for name, figure in drawn:
        try:
            figure.savefig(directory / name, dpi=DPI)
        except OSError as error:
            raise ConfigError(
                f"{directory / name} cannot be written: {error.strerror}; choose another --output"
            ) from None
    return [directory / name for name, _ in drawn]


def _blank(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finish(axes: Axes) -> None:
    axes.grid(True, color="#e8e8e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(name: str, stale: Sequence[str] = ()) -> str:
    if name in stale:
        return STALE[min(stale.index(name) * len(STALE) // max(1, len(stale)), len(STALE) - 1)]
    return COLOURS.get(name, WINDOWED if name.startswith("lookahead") else OTHER)


def _draw_policies(rows: Sequence[PolicyFigures]) -> Figure:
    """Draw the hit ratio over the size of the cache, one line per policy."""
    figure = _blank(9.0, 5.2)
    axes = figure.subplots()
    for number, policy in enumerate(dict.fromkeys(row.policy for row in rows)):
        own = [row for row in rows if row.policy == policy]
        shares, ratios = [100 * row.cache_share for row in own], [row.hit_ratio for row in own]
        is_model = policy == "lru-model"
        axes.plot(
            shares,
            ratios,
            {"lru-model": "--", "belady": ":"}.get(policy, "-"),
            color=_colour(policy),
            marker="" if is_model else MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=3.0 if policy == "lookahead" else 1.4,
            zorder=2.0 if policy == "lookahead" else 2.5,
            label="lru, Che's model" if is_model else policy,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}%"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(0, 1)
    axes.set_xlabel("cache, share of the rows that occur")
    axes.set_ylabel("hit ratio, unique rows of batches")
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    _finish(axes)
    return figure


def _draw_systems(rows: Sequence[SystemFigures]) -> Figure:
    """Draw what designs move over T. Networks do not change it, so the first one stands for all."""
    own = [row for row in rows if row.network == rows[0].network]
    panels: list[tuple[str, Callable[[SystemFigures], float], bool]] = [
        ("accesses served by own memory", lambda row: row.local_ratio, False),
        ("rows moved per iteration", lambda row: row.rows_fetched + row.rows_written + row.rows_exchanged, True),
        ("bytes per trainer and iteration", lambda row: row.bytes_per_trainer, True),
        ("critical bytes, busiest link", lambda row: row.critical_bytes, True),
    ]
    figure = _blank(11.0, 7.6)
    all_axes = list(figure.subplots(2, 2).flat)
    for axes, (title, value, is_log) in zip(all_axes, panels, strict=True):
        _lines(axes, own, value)
        axes.set_title(title, loc="left", fontsize="medium")
        if is_log:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.set_ylim(-0.02, 1.02)
    _legend_below(figure, all_axes[0])
    return figure


def _draw_efficiency(rows: Sequence[SystemFigures]) -> Figure:
    """Draw the efficiency over T, one panel per network."""
    networks = list(dict.fromkeys(row.network for row in rows))
    num_columns = min(2, len(networks))
    num_rows = -(-len(networks) // num_columns)
    figure = _blank(5.5 * num_columns, 0.9 + 3.3 * num_rows)
    all_axes = list(figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).flat)
    for axes, network in zip(all_axes, networks, strict=False):
        _lines(axes, [row for row in rows if row.network == network], lambda row: row.efficiency)
        axes.set_title(f"efficiency, {network}/s", loc="left", fontsize="medium")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylim(-0.02, 1.02)
    for axes in all_axes[len(networks) :]:
        axes.set_visible(False)
    _legend_below(figure, all_axes[0])
    return figure


def _draw_staleness(rows: Sequence[SystemFigures]) -> Figure:
    """Draw what bounded staleness saves and costs over the bound, one line per number of trainers."""
    own = [row for row in rows if row.network == rows[0].network and row.design.startswith(STALENESS)]
    figure = _blank(11.0, 4.6)
    saved, seen = figure.subplots(1, 2)
    for number, trainers in enumerate(dict.fromkeys(row.trainers for row in own)):
        line = [row for row in own if row.trainers == trainers]
        bounds = [int(row.design.removeprefix(STALENESS)) for row in line]
        marker, label = f"-{MARKERS[number % len(MARKERS)]}", f"T = {trainers:,}"
        saved.plot(bounds, [1 - row.moved_share for row in line], marker, markersize=5, label=label)
        seen.plot(bounds, [row.staleness for row in line], marker, markersize=5, label=label)
    saved.axhline(0.88, color="#222222", linestyle=":", linewidth=1.2)
    saved.annotate("88 %, claimed by HET", (0, 0.9), fontsize="small")
    saved.set_title("rows not moved, compared with no cache", loc="left", fontsize="medium")
    saved.yaxis.set_major_formatter(PercentFormatter(1.0))
    saved.set_ylim(-0.02, 1.02)
    seen.set_title("updates of other trainers that a row lacks, mean", loc="left", fontsize="medium")
    seen.set_yscale("symlog", linthresh=1.0)
    seen.set_ylim(bottom=0)
    for axes in (saved, seen):
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlabel("bound of staleness, in updates")
        bounds = sorted({int(row.design.removeprefix(STALENESS)) for row in own})
        axes.set_xticks(bounds, [f"{bound:,}" for bound in bounds])
        axes.set_xlim(bounds[0] - 0.2, 1.3 * bounds[-1] + 0.2)
        _finish(axes)
    saved.legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def _lines(axes: Axes, rows: Sequence[SystemFigures], value: Callable[[SystemFigures], float]) -> None:
    """Draw one line per design over the number of trainers."""
    designs = sorted(dict.fromkeys(row.design for row in rows), key=lambda design: design != "lookahead")
    stale = [design for design in designs if design.startswith(STALENESS)]
    for number, design in enumerate(designs):
        own = [row for row in rows if row.design == design]
        axes.plot(
            [row.trainers for row in own],
            [value(row) or float("nan") for row in own],  # a logarithmic axis has no 0
            color=_colour(design, stale),
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=2.4 if design == "lookahead" else 1.4,
            label=design,
        )
    trainers = sorted({row.trainers for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(trainers, [f"{each:,}" for each in trainers])
    axes.set_xlabel("trainers")
    _finish(axes)


def _legend_below(figure: Figure, axes: Axes) -> None:
    lines, labels = axes.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=5, frameon=False, fontsize="small")


def _draw_approximate(rows: Sequence[ApproximateFigures]) -> Figure:
    """Draw errors over hits: a point for each factor of auto-refresh, a line for each size of the cache."""
    figure = _blank(11.0, 5.0)
    all_axes: Any = figure.subplots(1, 2, sharey=True)
    for axes, cache in zip(all_axes, ("lru", "ideal"), strict=True):
        own = [row for row in rows if row.cache == cache]
        sizes = sorted({row.cache_rows for row in own})
        for number, size in enumerate(sizes):
            curve = sorted((row for row in own if row.cache_rows == size), key=lambda row: row.refresh or float("inf"))
            colour = f"C{number}"
            label = f"{round(100 * curve[0].cache_share, 1):g}%"
            axes.plot(
                [row.hit_ratio for row in curve],
                [row.error_ratio for row in curve],
                MARKERS[number % len(MARKERS)],
                color=colour,
                markersize=6,
                label=label,
            )
            axes.plot(
                [row.model_hit_ratio for row in curve], [row.model_error_ratio for row in curve], "--", color=colour
            )
        axes.set_title(f"{cache} cache", loc="left", fontsize="medium")
        axes.set_xlabel("answered without computing, share of requests")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        _finish(axes)
    all_axes[0].set_ylabel("answered wrongly, share of requests")
    all_axes[0].legend(
        frameon=False,
        fontsize="small",
        loc="upper left",
        title="cache, share of approximate keys",
        title_fontsize="small",
    )
    figure.suptitle(
        "points: played, for each factor of auto-refresh, without it at the top; dashed: the model", fontsize="small"
    )
    return figure
