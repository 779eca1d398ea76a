"""The pictures of a report as Bokeh figures. Needs the extra `report`; imported where a page is made.

Bokeh, as its script lies in the Python package (1.3 MB without widgets, tables and formulas) and runs without the net,
draws on canvas, zooms, and shares ranges and cursors between figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import (
    CDSView,
    ColumnDataSource,
    CrosshairTool,
    FactorRange,
    FixedTicker,
    HoverTool,
    IndexFilter,
    LinearColorMapper,
    Range1d,
)
from bokeh.models.annotations import LabelSet, Span, Whisker
from bokeh.plotting import figure

from pymem.report.colours import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    STATE_COLOURS,
)
from pymem.report.pictures import byte_unit, row_name, time_unit
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
    from collections.abc import Callable, Sequence

    from pymem.report.data import ReportData

__all__ = ["Figures"]

_HEIGHT = 340
_TOOLS = "xpan,xbox_zoom,xwheel_zoom,reset,save"


class Figures:
    """Draws the figures of one report; those that show the same clock share its range and cursor."""

    def __init__(self, data: ReportData) -> None:
        self.data = data
        self._ns, self._unit = time_unit(data.end_ns)
        end = data.end_ns / self._ns
        self._range = Range1d(start=0, end=end, bounds=(0, end), name="run")
        self._cursor = _cursor()

    def draw(self, key: str) -> Any:
        """Return the figure of a picture."""
        makers: dict[str, Callable[[], Any]] = {
            "sawtooth": self._sawtooth,
            "whatif": self._whatif,
            "memory": self._memory,
            "types": self._types,
            "lifetimes": self._lifetimes,
            "classes": self._classes,
            "map": self._map,
            "pauses": self._pauses,
            "mmu": self._mmu,
        }
        made = makers[key]()
        made.name = key
        return made

    # ---- over the run's time ----

    def _over_time(self, y_label: str, **options: Any) -> Any:
        p = _figure(
            x_range=self._range,
            x_axis_label=f"time of the program ({self._unit})",
            y_axis_label=y_label,
            **options,
        )
        p.add_tools(CrosshairTool(overlay=self._cursor))
        return p

    def _sawtooth(self) -> Any:
        data = self.data
        times, live = data.series("heap_live")
        goal_times, goal = data.series("heap_goal")
        marks = data.marks()
        most = max(np.nanmax(live, initial=1.0), max((c.heap1 for c in marks), default=1))
        if np.isfinite(goal).any():
            most = max(most, min(float(np.nanmax(goal)), 3 * most))
        if shows_limit(data, most):
            most = max(most, float(data.limit or 0))
        size, unit = byte_unit(most)
        p = self._over_time(f"heap ({unit})", y_range=(0, 1.08 * most / size))
        begins, ends, share = data.bands()
        p.vstrip(
            x0="x0",
            x1="x1",
            fill_alpha="alpha",
            fill_color=GREY,
            line_color=None,
            legend_label="collection",
            source=_source(x0=begins / self._ns, x1=ends / self._ns, alpha=0.32 * share),
        )
        p.line(goal_times / self._ns, goal / size, color=ORANGE, line_dash="dashed", legend_label="goal")
        line = p.line(
            "x",
            "y",
            color=BLUE,
            line_width=1.6,
            legend_label="live",
            source=_source(x=times / self._ns, y=live / size),
        )
        points = (
            ("trigger", "triangle", RED, [(c.mark_ns, c.trigger) for c in marks]),
            ("peak", "diamond", PURPLE, [(c.term_ns, c.heap1) for c in marks]),
            ("marked", "circle", GREEN, [(c.end_ns, c.heap2) for c in marks]),
        )
        for name, marker, colour, at in points:
            xy = np.array(at, np.float64).reshape(-1, 2)
            p.scatter(
                xy[:, 0] / self._ns, xy[:, 1] / size, marker=marker, size=6, color=colour, legend_label=name
            )
        if shows_limit(data, most):
            limit = (data.limit or 0) / size
            ends_of_run = [0, data.end_ns / self._ns]
            p.line(ends_of_run, [limit, limit], color=RED, line_dash="dotdash", legend_label="memory limit")
        _hover(p, line, [("at", f"@x{{0.0000}} {self._unit}"), ("live", f"@y{{0.00}} {unit}")])
        return _finish(p)

    def _memory(self) -> Any:
        data, parts = self.data, self.data.footprint()
        total = parts["live"] + parts["unused"] + parts["other"]
        most = float((total + parts["released"]).max(initial=1.0))
        limit = data.limit
        if limit is not None and limit < 4 * most:
            most = max(most, limit)
        size, unit = byte_unit(most)
        p = self._over_time(f"memory ({unit})", y_range=(0, 1.08 * most / size))
        columns = {k: v / size for k, v in parts.items() if k != "time_ns"}
        source = _source(x=parts["time_ns"] / self._ns, total=total / size, **columns)
        layers = (
            ("live", "live heap", BLUE),
            ("unused", "free slots, garbage", ORANGE),
            ("other", "free pages, stacks, runtime", PURPLE),
        )
        p.varea_stack(
            [name for name, _, _ in layers],
            x="x",
            color=[colour for _, _, colour in layers],
            fill_alpha=0.85,
            legend_label=[label for _, label, _ in layers],
            source=source,
        )
        p.varea_stack(
            ["total", "released"],
            x="x",
            fill_color=["#00000000", GREY],
            fill_alpha=[0, 0.12],
            hatch_pattern=[" ", "/"],
            hatch_color=GREY,
            hatch_alpha=[0.0, 0.5],
            legend_label=["", "given back to the system"],
            source=source,
        )
        p.legend.items = [item for item in p.legend.items if item.label.value]
        line = p.line("x", "total", color=GREY, line_width=1.2, source=source)
        if limit is not None and limit < 4 * most:
            ends = [0, data.end_ns / self._ns]
            p.line(ends, [limit / size] * 2, color=RED, line_dash="dotdash", legend_label="memory limit")
        tips = [("at", f"@x{{0.0000}} {self._unit}"), ("in all", f"@total{{0.00}} {unit}")]
        tips += [(label, f"@{name}{{0.00}} {unit}") for name, label, _ in reversed(layers)]
        _hover(p, line, [*tips, ("given back", f"@released{{0.00}} {unit}")])
        return _finish(p)

    def _pauses(self) -> Any:
        series = paused(self.data)
        values = np.concatenate([y for _, _, _, y in series])
        ticks = time_ticks(float(values.min()), float(values.max()))
        p = self._over_time(
            "length", y_axis_type="log", y_range=(0.5 * float(values.min()), 2.5 * float(values.max()))
        )
        _ticks(p.yaxis, ticks)
        looks = {"begin": ("triangle", RED), "end": ("circle", BLUE), "assists": ("square", ORANGE)}
        drawn = []
        for key, name, x, y in series:
            marker, colour = looks[key]
            source = _source(x=x / self._ns, y=y, us=y / 1e3)
            drawn.append(
                p.scatter(
                    "x", "y", marker=marker, size=6, color=colour, alpha=0.8, legend_label=name, source=source
                )
            )
        tips = [("at", f"@x{{0.0000}} {self._unit}"), ("length", "@us{0,0.0} µs")]
        p.add_tools(HoverTool(renderers=drawn, tooltips=tips))
        return _finish(p)

    # ---- as recorded ----

    def _types(self) -> Any:
        census = self.data.census
        assert census is not None
        names, layers = streams(census)
        ns, time_name = time_unit(float(census.time_ns[-1]))
        size, unit = byte_unit(float(np.sum(layers, axis=0).max(initial=1.0)))
        end = max(float(census.time_ns[-1]), 1.0) / ns
        p = _figure(
            x_range=Range1d(start=0, end=end, bounds=(0, end)),
            y_range=(0, 1.05 * float(np.sum(layers, axis=0).max(initial=1.0)) / size),
            x_axis_label=f"time as recorded ({time_name})",
            y_axis_label=f"living objects ({unit})",
        )
        keys = [f"t{i}" for i in range(len(names))]
        columns = dict(zip(keys, (layer / size for layer in layers), strict=True))
        source = _source(x=census.time_ns / ns, total=np.sum(layers, axis=0) / size, **columns)
        colours = stream_colours(names)
        p.varea_stack(keys, x="x", color=colours, fill_alpha=0.85, source=source)
        line = p.line("x", "total", color=GREY, line_width=1.2, source=source)
        tips = [("at", f"@x{{0.0000}} {time_name}"), ("in all", f"@total{{0.00}} {unit}")]
        tips += [(name, f"@{key}{{0.00}} {unit}") for name, key in zip(names, keys, strict=True)]
        _hover(p, line, tips)
        p.add_tools(CrosshairTool(overlay=_cursor()))
        moment = float(self.data.heap_map.time_ns[-1]) / ns if self.data.heap_map.states.size else 0.0
        p.add_layout(
            Span(
                location=moment,
                dimension="height",
                line_color=RED,
                line_dash="dashed",
                name="moment",
                tags=[ns],
            )
        )
        return _finish(p)

    def _lifetimes(self) -> Any:
        lives = life_bars(self.data)
        low, high = min((b.p50 for b in lives), default=16.0), max((b.p99 for b in lives), default=1024.0)
        p = _figure(
            height=90 + 24 * max(len(lives), 2),
            x_axis_type="log",
            x_range=(max(low / 2, 1.0), 2 * high),
            y_range=FactorRange(factors=[b.name for b in lives][::-1]),
            x_axis_label="bytes the program allocates between birth and death",
            tools="reset,save",
        )
        _ticks(p.xaxis, byte_ticks(max(low / 2, 1.0), 2 * high))
        source = _source(
            y=[b.name for b in lives],
            p50=[b.p50 for b in lives],
            p90=[b.p90 for b in lives],
            p99=[b.p99 for b in lives],
            young=[100 * b.young for b in lives],
        )
        bar = p.hbar(y="y", left="p50", right="p99", height=0.3, color=BLUE, fill_alpha=0.35, line_alpha=0.6,
                     legend_label="half dead to 99 % dead", source=source)  # fmt: skip
        p.scatter("p50", "y", size=10, color=BLUE, legend_label="half dead", source=source)
        p.scatter("p90", "y", size=9, marker="diamond", color=ORANGE, legend_label="90 % dead", source=source)
        tips = [
            ("type", "@y"),
            ("half", "@p50{0.0 ib}"),
            ("90 %", "@p90{0.0 ib}"),
            ("99 %", "@p99{0.0 ib}"),
            ("dead before a GC", "@young{0.0} %"),
        ]
        p.add_tools(HoverTool(renderers=[bar], tooltips=tips))
        return _finish(p)

    def _classes(self) -> Any:
        names, used, unused = bars(self.data)
        size, unit = byte_unit(float((used + unused).max(initial=1.0)))
        p = _figure(
            x_range=FactorRange(factors=names),
            x_axis_label="size class (bytes a slot)",
            y_axis_label=f"in spans ({unit})",
            tools="reset,save",
        )
        source = _source(x=names, used=used / size, unused=unused / size)
        drawn = p.vbar_stack(
            ["used", "unused"],
            x="x",
            width=0.8,
            color=[BLUE, ORANGE],
            legend_label=["in use", "free slots and tails"],
            source=source,
        )
        p.y_range.start = 0
        p.xaxis.major_label_orientation = 1.1
        tips = [("class", "@x"), ("in use", f"@used{{0.00}} {unit}"), ("unused", f"@unused{{0.00}} {unit}")]
        p.add_tools(HoverTool(renderers=drawn, tooltips=tips))
        return _finish(p)

    def _map(self) -> Any:
        heap = self.data.heap_map
        images, columns, lines = grid_of(heap)
        p = _figure(
            height=max(110, min(420, 40 + 12 * lines)),
            x_range=(0, columns),
            y_range=(0, lines),
            tools="save",
            min_border_left=20,
        )
        n = len(images)
        source = ColumnDataSource(
            {"image": [np.ascontiguousarray(one[::-1]) for one in images], "x": [0] * n, "y": [0] * n}
        )
        last = IndexFilter(indices=[n - 1], name="map_moment", tags=heap.time_ns.tolist())
        mapper = LinearColorMapper(palette=list(STATE_COLOURS), low=-0.5, high=len(STATE_COLOURS) - 0.5)
        p.image(
            image="image",
            x="x",
            y="y",
            dw=columns,
            dh=lines,
            color_mapper=mapper,
            source=source,
            view=CDSView(filter=last),
        )
        p.axis.visible = False
        p.grid.visible = False
        return _finish(p)

    # ---- others ----

    def _whatif(self) -> Any:
        rows = self.data.rows
        size, unit = byte_unit(max(r.peak_footprint.value for r in rows))
        p = _figure(
            height=400,
            x_axis_label=f"peak memory ({unit})",
            y_axis_label="GC CPU (% of all processor time)",
            x_range=reach((r.peak_footprint for r in rows), size),
            y_range=reach((r.gc_cpu for r in rows), 0.01),
            tools="pan,box_zoom,wheel_zoom,reset,save",
        )
        source = _source(
            name=[row_name(r, rows) for r in rows],
            x=[r.peak_footprint.value / size for r in rows],
            left=[r.peak_footprint.low / size for r in rows],
            right=[r.peak_footprint.high / size for r in rows],
            y=[100 * r.gc_cpu.value for r in rows],
            bottom=[100 * r.gc_cpu.low for r in rows],
            top=[100 * r.gc_cpu.high for r in rows],
            gcs=[r.num_gc.value for r in rows],
            colour=[BLUE if r.pareto else GREY for r in rows],
        )
        thin: dict[str, Any] = {
            "source": source,
            "line_color": GREY,
            "line_alpha": 0.7,
            "upper_head": None,
            "lower_head": None,
        }
        p.add_layout(Whisker(base="x", lower="bottom", upper="top", dimension="height", **thin))
        p.add_layout(Whisker(base="y", lower="left", upper="right", dimension="width", **thin))
        front = sorted((r for r in rows if r.pareto), key=lambda r: r.peak_footprint.value)
        p.line(
            [r.peak_footprint.value / size for r in front],
            [100 * r.gc_cpu.value for r in front],
            color=BLUE,
            line_alpha=0.6,
            legend_label="Pareto front",
        )
        dots = p.scatter(
            "x", "y", size=9, color="colour", source=source, legend_label="setting, with its interval"
        )
        named = labelled(rows)
        middle = (min(r.peak_footprint.value for r in rows) + max(r.peak_footprint.value for r in rows)) / 2
        left = [r.peak_footprint.value > middle for r in named]
        texts = _source(
            x=[r.peak_footprint.value / size for r in named],
            y=[100 * r.gc_cpu.value for r in named],
            text=[row_name(r, rows) for r in named],
            align=["right" if one else "left" for one in left],
            dx=[-8 if one else 8 for one in left],
        )
        p.add_layout(
            LabelSet(
                x="x",
                y="y",
                text="text",
                text_align="align",
                x_offset="dx",
                y_offset=6,
                text_font_size="12px",
                source=texts,
            )
        )
        tips = [
            ("setting", "@name"),
            ("peak memory", f"@x{{0.00}} {unit} (@left{{0.00}} to @right{{0.00}})"),
            ("GC CPU", "@y{0.00} % (@bottom{0.00} to @top{0.00})"),
            ("collections", "@gcs{0,0}"),
        ]
        p.add_tools(HoverTool(renderers=[dots], tooltips=tips))
        return _finish(p)

    def _mmu(self) -> Any:
        windows, least = self.data.mmu
        p = _figure(
            x_axis_type="log",
            x_range=(float(windows[0]), float(windows[-1])),
            y_range=(0, 102),
            x_axis_label="length of the window",
            y_axis_label="least share left to the program (%)",
            tools="reset,save",
        )
        _ticks(p.xaxis, time_ticks(float(windows[0]), float(windows[-1])))
        source = _source(x=windows, y=100 * least, ms=windows / 1e6)
        p.varea("x", 0, "y", color=BLUE, fill_alpha=0.12, source=source)
        line = p.line("x", "y", color=BLUE, line_width=2, source=source)
        _hover(p, line, [("window", "@ms{0,0.000} ms"), ("program gets", "@y{0.0} %")])
        p.add_tools(CrosshairTool(overlay=_cursor()))
        return _finish(p)


# ---- what all figures have ----


def _figure(**options: Any) -> Any:
    settings: dict[str, Any] = {"height": _HEIGHT, "tools": _TOOLS, "active_scroll": None} | options
    p = figure(
        sizing_mode="stretch_width",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        toolbar_location="right",
        min_border_right=10,
        **settings,
    )
    p.toolbar.logo = None
    p.toolbar.autohide = True
    p.axis.axis_label_text_font_style = "normal"
    p.axis.axis_label_text_font_size = "13px"
    p.axis.major_label_text_font_size = "12px"
    p.axis.minor_tick_line_color = None
    p.grid.grid_line_alpha = 0.6
    return p


def _finish(p: Any) -> Any:
    """Put the legend, if there is one, above."""
    for one in p.legend:
        one.label_text_font_size = "12px"
        one.border_line_color = one.background_fill_color = None
        one.padding, one.margin, one.spacing = 2, 4, 12
        one.click_policy, one.orientation = "hide", "horizontal"
        p.center.remove(one)
        p.add_layout(one, "above")
    return p


def _cursor() -> Any:
    return Span(dimension="height", line_color=GREY, line_dash="dotted", line_width=1)


def _source(**columns: Any) -> Any:
    return ColumnDataSource(
        {k: v if isinstance(v, list) else np.asarray(v, np.float64) for k, v in columns.items()}
    )


def _hover(p: Any, line: Any, tips: Sequence[tuple[str, str]]) -> None:
    p.add_tools(HoverTool(renderers=[line], mode="vline", tooltips=list(tips)))


def _ticks(axis: Any, ticks: Sequence[tuple[float, str]]) -> None:
    axis.ticker = FixedTicker(ticks=[at for at, _ in ticks])
    axis.major_label_overrides = dict(ticks)
