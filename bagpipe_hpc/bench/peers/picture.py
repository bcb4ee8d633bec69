"""The picture of `bagpipe bench peers`: groups of bars, one group per run and one bar per system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bagpipe_hpc.bench.peers.figures import Cell, Spread, rates
from bagpipe_hpc.bench.peers.systems import SYSTEMS
from bagpipe_hpc.errors import ConfigError

FORMATS = (".png", ".svg", ".pdf")
# Peers with all tables everywhere are grey, those that shard tables blue, bagpipe_hpc orange.
COLOURS = {
    "plain": "#c9c9c9", "ddp": "#8d8d8d",
    "hybrid": "#3f78c0", "torchrec-table": "#6baed6", "torchrec-table-pipeline": "#a6cee3",
    "torchrec-row": "#1b7c84", "torchrec-row-pipeline": "#7fcdbb",
    "synchronous": "#fdd0a2", "contiguous": "#fdae6b", "locality": "#f16913", "wire": "#d98b5f",
}  # fmt: skip
OTHERS = ("#5e3c99", "#9e6ebd", "#c2a5cf")  # for systems without a colour above
GROUP_WIDTH = 0.86


def check_picture(path: Path) -> None:
    """Raise ConfigError unless the name of the file ends in a format that can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"{path} has no format that can be drawn: end its name in {', '.join(FORMATS)}")


def draw_cells(cells: Mapping[str, Mapping[str, Cell]], path: Path) -> None:
    """Draw samples/s of all systems.

    Args:
        cells: The figures by row of the picture ("T = 2"), then by group ("200 Mbit/s").
        path: The file. Its name says the format.
    Raises:
        ConfigError: The format cannot be drawn.
    """
    check_picture(path)
    figure = Figure(figsize=(12.0, 0.9 + 3.1 * len(cells)), layout="constrained")
    FigureCanvasAgg(figure)
    ran = {name for row in cells.values() for cell in row.values() for name in cell["turns"]}
    names = [system.name for system in SYSTEMS if system.name in ran]
    all_axes = figure.subplots(len(cells), squeeze=False)[:, 0]
    for axes, (title, row) in zip(all_axes, cells.items(), strict=True):
        _draw_row(axes, row, names)
        axes.set_title(title, loc="left", fontsize="medium")
    figure.suptitle(_context([cell for row in cells.values() for cell in row.values()]), fontsize="medium")
    bars, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(bars, labels, loc="outside lower center", ncols=4, frameon=False, fontsize="small")
    figure.savefig(path, dpi=130)


def _context(cells: Sequence[Cell]) -> str:
    """Return what was trained, and what bars and lines are."""
    batches, dims, repeats = (
        " or ".join(sorted({f"{cell['case'][key]:,}" for cell in cells}))
        for key in ("batch_size", "embedding_dim", "repeats")
    )
    return f"B = {batches}, D = {dims}; bars: medians of {repeats} repeat(s), lines: lowest to highest"


def _draw_row(axes: Axes, row: Mapping[str, Cell], names: list[str]) -> None:
    """Draw the groups of one row. A thin line on each bar goes from the lowest to the highest repeat."""
    titles = {system.name: system.title + ("" if system.is_exact else " (not exact)") for system in SYSTEMS}
    inexact = {system.name for system in SYSTEMS if not system.is_exact}
    unnamed = iter(OTHERS * len(names))
    width = GROUP_WIDTH / len(names)
    for position, name in enumerate(names):
        spreads = {group: Spread.of(rates(cell, name)) for group, cell in enumerate(row.values()) if rates(cell, name)}
        places = [group + (position + 0.5) * width - GROUP_WIDTH / 2 for group in spreads]
        medians = [each.median / 1e3 for each in spreads.values()]
        errors = [
            [(each.median - each.low) / 1e3 for each in spreads.values()],
            [(each.high - each.median) / 1e3 for each in spreads.values()],
        ]
        colour = COLOURS.get(name) or next(unnamed)
        hatch = "///" if name in inexact else None
        axes.bar(places, medians, width * 0.92, color=colour, label=titles[name], hatch=hatch, edgecolor="white", lw=0)
        axes.errorbar(places, medians, yerr=errors, fmt="none", ecolor="#222222", elinewidth=0.8)
    axes.set_xticks(range(len(row)), list(row))
    axes.set_ylabel("thousand samples/s")
    axes.spines[["top", "right"]].set_visible(False)
