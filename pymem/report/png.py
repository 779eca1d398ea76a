"""The pictures of a report by matplotlib: functions that draw on axes of one's own, and all of them as PNG files.

Each takes what `gather` returned and the axes to draw on (None: new ones), and returns the axes. Needs the extra
`report`. No display is needed, and pyplot's state is not touched.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pymem.report.colours import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, STATE_COLOURS
from pymem.report.heap_map import STATES
from pymem.report.pictures import byte_unit, pictures, row_name, time_unit
from pymem.report.plotted import (
    bars,
    byte_ticks,
    grid_of,
    labelled,
    life_bars,
    paused,
    reach,
    shows_limit,
    stream_colours,
    streams,
    time_ticks,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes

    from pymem.report.data import ReportData

__all__ = [
    "draw",
    "plot_classes",
    "plot_lifetimes",
    "plot_map",
    "plot_memory",
    "plot_mmu",
    "plot_pauses",
    "plot_sawtooth",
    "plot_types",
    "plot_whatif",
]

_SIZE = (10.0, 4.6)
_DPI = 120


# ---- over the run's time ----


def plot_sawtooth(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw the live heap, its goal, and of each collection the trigger, the peak and what it marked."""
    ax = _axes(ax)
    ns, size = _run_time(data, ax), 1.0
    times, live = data.series("heap_live")
    goal_times, goal = data.series("heap_goal")
    marks = data.marks()
    most = max(float(np.nanmax(live, initial=1.0)), max((c.heap1 for c in marks), default=1))
    if np.isfinite(goal).any():
        most = max(most, min(float(np.nanmax(goal)), 3 * most))
    limit = data.limit if shows_limit(data, most) else None
    most = max(most, limit or 0)
    size, unit = byte_unit(most)
    for i, (begin, end, share) in enumerate(zip(*data.bands(), strict=True)):
        name = "_" if i else "collection"
        ax.axvspan(begin / ns, end / ns, color=GREY, alpha=0.3 * share, lw=0, label=name)
    ax.plot(goal_times / ns, goal / size, "--", color=ORANGE, lw=1, label="goal")
    ax.plot(times / ns, live / size, color=BLUE, lw=1.3, label="live")
    for name, marker, colour, at in (
        ("trigger", "^", RED, [(c.mark_ns, c.trigger) for c in marks]),
        ("peak", "d", PURPLE, [(c.term_ns, c.heap1) for c in marks]),
        ("marked", "o", GREEN, [(c.end_ns, c.heap2) for c in marks]),
    ):
        xy = np.array(at, np.float64).reshape(-1, 2)
        ax.plot(xy[:, 0] / ns, xy[:, 1] / size, marker, color=colour, ms=4, label=name)
    if limit is not None:
        ax.axhline(limit / size, color=RED, ls="-.", lw=1, label="memory limit")
    ax.set(ylabel=f"heap ({unit})", ylim=(0, 1.08 * most / size))
    return _legend(ax)


def plot_memory(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw the memory that the runtime holds, stacked by use."""
    ax = _axes(ax)
    ns, parts = _run_time(data, ax), data.footprint()
    layers = ("live", "unused", "other")
    most = float(sum(parts[name] for name in (*layers, "released")).max(initial=1.0))  # type: ignore[union-attr]
    limit = data.limit if data.limit is not None and data.limit < 4 * most else None
    most = max(most, limit or 0)
    size, unit = byte_unit(most)
    labels = ("live heap", "free slots, garbage", "free pages, stacks, runtime")
    x = parts["time_ns"] / ns
    ax.stackplot(
        x, *(parts[name] / size for name in layers), colors=(BLUE, ORANGE, PURPLE), labels=labels, alpha=0.85
    )
    total = sum(parts[name] for name in layers) / size
    ax.fill_between(
        x,
        total,
        total + parts["released"] / size,
        facecolor="none",
        edgecolor=GREY,
        hatch="//",
        lw=0,
        label="given back to the system",
    )
    if limit is not None:
        ax.axhline(limit / size, color=RED, ls="-.", lw=1, label="memory limit")
    ax.set(ylabel=f"memory ({unit})", ylim=(0, 1.08 * most / size))
    return _legend(ax)


def plot_pauses(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw when the world was stopped and for how long, and the assists of each cycle."""
    ax = _axes(ax)
    ns = _run_time(data, ax)
    looks = {"begin": ("^", RED), "end": ("o", BLUE), "assists": ("s", ORANGE)}
    series = paused(data)
    for key, name, x, y in series:
        marker, colour = looks[key]
        ax.plot(x / ns, y, marker, color=colour, ms=4, alpha=0.8, label=name)
    ax.set_yscale("log")
    if series:
        low, high = min(y.min() for *_, y in series), max(y.max() for *_, y in series)
        _ticks(ax.yaxis, time_ticks(float(low), float(high)))
        ax.set_ylim(0.5 * low, 2.5 * high)
    ax.set_ylabel("length")
    return _legend(ax)


# ---- as recorded ----


def plot_types(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw the living objects by type, stacked. Without a census the axes stay empty."""
    ax = _axes(ax)
    if data.census is None:
        return ax
    names, layers = streams(data.census)
    most = float(np.sum(layers, axis=0).max(initial=1.0))
    (ns, time_name), (size, unit) = time_unit(float(data.census.time_ns[-1])), byte_unit(most)
    colours = stream_colours(names)
    ax.stackplot(
        data.census.time_ns / ns,
        *(layer / size for layer in layers),
        colors=colours,
        labels=[_text(name) for name in names],
        alpha=0.85,
    )
    ax.set(
        xlabel=f"time as recorded ({time_name})",
        ylabel=f"living objects ({unit})",
        ylim=(0, 1.05 * most / size),
    )
    ax.set_xlim(0, max(float(data.census.time_ns[-1]), 1.0) / ns)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8
    )
    return ax


def plot_lifetimes(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw how long objects of each type live, in bytes allocated: half dead, 90 %, 99 %."""
    ax = _axes(ax)
    lives = life_bars(data)
    y = np.arange(len(lives))[::-1]
    ax.set_xscale("log")
    for at, one in zip(y, lives, strict=True):
        ax.plot([one.p50, one.p99], [at, at], color=BLUE, alpha=0.35, lw=6, solid_capstyle="butt")
    ax.plot([one.p50 for one in lives], y, "o", color=BLUE, label="half dead")
    ax.plot([one.p90 for one in lives], y, "d", color=ORANGE, label="90 % dead")
    ax.set_yticks(y, [_text(one.name) for one in lives], fontsize=8)
    if lives:
        low, high = max(min(one.p50 for one in lives) / 2, 1.0), 2 * max(one.p99 for one in lives)
        _ticks(ax.xaxis, byte_ticks(low, high))
        ax.set_xlim(low, high)
    ax.set_xlabel("bytes the program allocates between birth and death (bar: half to 99 % dead)")
    return _legend(ax)


def plot_classes(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw what is used and unused in the spans of each size class at the end of the run."""
    ax = _axes(ax)
    names, used, unused = bars(data)
    size, unit = byte_unit(float((used + unused).max(initial=1.0)))
    x = np.arange(len(names))
    ax.bar(x, used / size, color=BLUE, label="in use")
    ax.bar(x, unused / size, bottom=used / size, color=ORANGE, label="free slots and tails")
    ax.set_xticks(x, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    ax.set(xlabel="size class (bytes a slot)", ylabel=f"in spans ({unit})")
    return _legend(ax)


def plot_map(data: ReportData, ax: Axes | None = None, *, moment: int = -1) -> Axes:
    """Draw what lies where in the heap at one moment of the recording: an index into `heap_map.time_ns`."""
    ax = _axes(ax)
    heap = data.heap_map
    images, _, _ = grid_of(heap)
    norm = BoundaryNorm(np.arange(len(STATES) + 1) - 0.5, len(STATES))
    ax.imshow(
        images[moment], cmap=ListedColormap(STATE_COLOURS), norm=norm, aspect="auto", interpolation="none"
    )
    ns, unit = time_unit(float(heap.time_ns[-1]))
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_xlabel(
        f"address, a cell {heap.pages_a_cell * 8} KiB, at {heap.time_ns[moment] / ns:.4g} {unit} of the recording"
    )
    patches = [Patch(color=c, label=s) for s, c in zip(STATES[1:], STATE_COLOURS[1:], strict=True)]
    ax.legend(
        handles=patches, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False, fontsize=8
    )
    return ax


# ---- others ----


def plot_whatif(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw the memory and the processor time of each setting, with their intervals, and the Pareto front."""
    ax = _axes(ax)
    rows = data.rows
    size, unit = byte_unit(max((r.peak_footprint.value for r in rows), default=1.0))
    for on_front, colour, name in ((False, GREY, "setting"), (True, BLUE, "on the Pareto front")):
        some = sorted((r for r in rows if r.pareto is on_front), key=lambda r: r.peak_footprint.value)
        if not some:
            continue
        x, y = (
            np.array([(e.value, e.value - e.low, e.high - e.value) for e in estimates]).T
            for estimates in ([r.peak_footprint for r in some], [r.gc_cpu for r in some])
        )
        ax.errorbar(
            x[0] / size,
            100 * y[0],
            xerr=np.maximum(x[1:], 0) / size,
            yerr=100 * np.maximum(y[1:], 0),
            fmt="o-" if on_front else "o",
            color=colour,
            ecolor=GREY,
            elinewidth=0.8,
            lw=0.8,
            ms=5,
            label=name,
        )
    middle = np.mean(ax.get_xlim())
    for row in labelled(rows):
        at = (row.peak_footprint.value / size, 100 * row.gc_cpu.value)
        side, dx = ("right", -7) if at[0] > middle else ("left", 7)
        ax.annotate(row_name(row, rows), at, (dx, 5), textcoords="offset points", ha=side, fontsize=8)
    ax.set(xlabel=f"peak memory ({unit})", ylabel="GC CPU (% of all processor time)")
    if rows:
        ax.set_xlim(reach((r.peak_footprint for r in rows), size))
        ax.set_ylim(reach((r.gc_cpu for r in rows), 0.01))
    return _legend(ax)


def plot_mmu(data: ReportData, ax: Axes | None = None) -> Axes:
    """Draw the minimum mutator utilisation (`pymem.report.mmu`)."""
    ax = _axes(ax)
    windows, least = data.mmu
    ax.plot(windows, 100 * least, color=BLUE, lw=1.8)
    ax.fill_between(windows, 0, 100 * least, color=BLUE, alpha=0.12, lw=0)
    ax.set_xscale("log")
    _ticks(ax.xaxis, time_ticks(float(windows[0]), float(windows[-1])))
    ax.set(xlim=(windows[0], windows[-1]), ylim=(0, 102), xlabel="length of the window")
    ax.set_ylabel("least share left to the program (%)")
    return ax


# ---- all of them ----

_PLOTS: dict[str, Callable[..., Axes]] = {
    "sawtooth": plot_sawtooth,
    "whatif": plot_whatif,
    "memory": plot_memory,
    "types": plot_types,
    "lifetimes": plot_lifetimes,
    "classes": plot_classes,
    "map": plot_map,
    "pauses": plot_pauses,
    "mmu": plot_mmu,
}


def draw(data: ReportData, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw every picture of the report into a folder, which is made; returns the files. Raises `OSError`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in pictures(data):
        ax = _PLOTS[picture.key](data)
        ax.set_title("\n".join(textwrap.wrap(_text(picture.title), 100)), loc="left", fontsize=11, pad=28)
        figure = ax.get_figure()
        assert isinstance(figure, Figure)
        path = folder / f"{picture.key}.png"
        figure.savefig(path, dpi=_DPI, bbox_inches="tight", metadata={"Software": None})
        paths.append(path)
    return paths


def _axes(ax: Axes | None) -> Axes:
    if ax is None:
        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.25)
    ax.set_axisbelow(True)
    return ax


def _run_time(data: ReportData, ax: Axes) -> float:
    ns, unit = time_unit(data.end_ns)
    ax.set(xlabel=f"time of the program ({unit})", xlim=(0, data.end_ns / ns))
    return ns


def _legend(ax: Axes) -> Axes:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=7, frameon=False, fontsize=8, borderpad=0
        )
    return ax


def _ticks(axis: Any, ticks: Sequence[tuple[float, str]]) -> None:
    axis.set_ticks([at for at, _ in ticks], [name for _, name in ticks])
    axis.set_ticks([], minor=True)


def _text(words: str) -> str:
    """Return words in which no `$` begins a formula."""
    return words.replace("$", r"\$")
