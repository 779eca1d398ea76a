"""Reports: what they keep of long series, what they compute, the HTML file, and the image files.

What a browser makes of the file is in `test_report_browser.py`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import LRU, TRACE, Command, assert_one_line
from hypothesis import given
from hypothesis import strategies as st
from report_data import made_census, made_rows, worst

from pymem.errors import MissingExtraError, RecordingError
from pymem.gc.state import CycleRecord
from pymem.replay import replay
from pymem.report import ReportData, draw_pngs, gather, load_rows, render, report, save_report
from pymem.report.heap_map import CELLS, STATES, heap_map
from pymem.report.mmu import collector_share, mmu, mmu_curve
from pymem.report.pictures import pictures, short
from pymem.report.sampling import extremes, largest
from pymem.workload.sources import open_recording, open_stream
from pymem.workload.synthetic import steady

MOST = 5_000_000
"""Bytes that a report may have."""


@pytest.fixture(scope="module")
def data() -> ReportData:
    gathered = gather(open_stream(LRU), rows=made_rows())
    return replace(gathered, census=made_census(gathered))


# ---- level of detail ----


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(-1e6, 1e6)), min_size=1, max_size=400),
    st.integers(1, 20),
)
def test_extremes(steps: list[tuple[int, float]], buckets: int) -> None:
    time = np.cumsum([step for step, _ in steps])
    value = np.array([v for _, v in steps])
    kept = extremes(time, value, buckets)
    assert len(kept) <= 2 * buckets + 2
    assert (np.diff(kept) > 0).all()
    assert {0, len(time) - 1} <= set(kept.tolist())
    assert value[kept].max() == value.max()
    assert value[kept].min() == value.min()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300), st.integers(1, 20))
def test_largest(values: list[int], buckets: int) -> None:
    time, value = np.arange(len(values)), np.array(values)
    kept = largest(time, value, buckets)
    assert len(kept) <= buckets
    assert value[kept].max() == value.max()


def test_extremes_of_nan() -> None:
    value = np.full(100, np.nan)
    value[50] = 1.0
    assert 50 in extremes(np.arange(100), value, 3)


# ---- mutator utilisation ----


def cycle(start: int, mark: int, term: int, end: int, busy: int) -> CycleRecord:
    return CycleRecord(
        start_ns=start, mark_ns=mark, term_ns=term, end_ns=end, dedicated_ns=busy, gomaxprocs=2
    )


def test_mmu_of_a_pause() -> None:
    """One pause of 100 ns: a window of 100 ns may get nothing, one of 200 half, all of a run of 1,000 90 %."""
    share = collector_share([cycle(400, 500, 500, 500, 0)], 1000)
    assert mmu(*share, [50, 100, 200, 1000]) == pytest.approx([0, 0, 0.5, 0.9])


def test_mmu_of_marking() -> None:
    """One of two Ps marks for 200 ns, between stops of 10 ns."""
    share = collector_share([cycle(100, 110, 310, 320, 200)], 10_000)
    assert mmu(*share, [10, 220, 10_000]) == pytest.approx([0, 1 - 120 / 220, 1 - 120 / 10_000])


@given(
    st.lists(st.tuples(*[st.integers(0, 30)] * 5), max_size=5),
    st.integers(1, 60),
)
def test_mmu_is_the_least(phases: list[tuple[int, ...]], window: int) -> None:
    """No window that begins at a whole ns has less."""
    now, cycles = 0, []
    for gap, stop, mark, term, busy in phases:
        cycles.append(
            cycle(now + gap, now + gap + stop, now + gap + stop + mark, now + gap + stop + mark + term, busy)
        )
        now += gap + stop + mark + term
    end = now + 60
    times, shares = collector_share(cycles, end)
    taken = np.zeros(end)
    for begin, upto, share in zip(times[:-1], times[1:], shares, strict=True):
        taken[int(begin) : int(upto)] = share
    least = min(1 - taken[at : at + window].mean() for at in range(end - window + 1))
    assert mmu(times, shares, [window])[0] == pytest.approx(least)


def test_mmu_curve_rises_to_the_mean() -> None:
    windows, least = mmu_curve([cycle(0, 20_000, 90_000, 95_000, 70_000)], 1_000_000)
    assert least[0] == 0
    assert least[-1] == pytest.approx(1 - (20_000 + 35_000 + 5_000) / 1_000_000)
    assert windows[-1] == pytest.approx(1_000_000)


# ---- the address map ----


def test_heap_map_ends_as_a_replay() -> None:
    end = replay(open_stream(LRU)).fragmentation
    seen = heap_map(open_stream(LRU))
    assert seen.in_spans[-1] == sum(c.bytes_in_spans for c in end)
    assert seen.used[-1] == sum(c.bytes_used for c in end)
    assert (np.diff(seen.time_ns) >= 0).all()
    assert seen.states.shape[0] == len(seen.time_ns) <= 64
    assert seen.states.shape[1] <= CELLS
    assert seen.states.max() < len(STATES)
    assert (seen.used <= seen.in_spans).all()
    assert (seen.in_spans <= seen.mapped).all()


def test_heap_map_joins_cells() -> None:
    """A heap of more pages than cells."""
    source = steady(40_000, gc_every=20_000)
    columns = source.columns
    big = replace(source, columns=replace(columns, size=np.where(columns.size > 0, columns.size + 2000, 0)))
    seen = heap_map(big)
    assert seen.pages_a_cell > 1
    assert CELLS / 2 <= seen.states.shape[1] <= CELLS


# ---- rows of a what-if ----


def row(**other: Any) -> dict[str, Any]:
    estimate = {"value": 3.0, "low": 2.0, "high": 4.0}
    names = ("num_gc", "peak_heap", "peak_footprint", "gc_cpu")
    settings = {"gogc": 100, "memory_limit": 2**63 - 1, "gomaxprocs": 2, "tier": "trace", "pareto": True}
    return settings | dict.fromkeys(names, estimate) | other


def test_load_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [row(), row(gogc=-1, pareto=False)]}))
    first, second = load_rows(path)
    assert (first.gogc, second.gogc, first.pareto, second.pareto) == (100, -1, True, False)
    assert (first.gc_cpu.low, first.gc_cpu.value, first.gc_cpu.high) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    "text",
    ["", "junk", "[]", "{}", '{"rows": [{}]}', '{"rows": 3}', "[" * 100_000,
     *(json.dumps({"rows": [row(**{name: value})]}) for name, value in (
        ("gogc", "100"), ("pareto", 1), ("gc_cpu", 3), ("gc_cpu", {"value": 1}), ("memory_limit", 2**63),
        ("peak_heap", {"value": -1, "low": 0, "high": 0}), ("num_gc", {"value": True, "low": 0, "high": 0})))],
)  # fmt: skip
def test_bad_rows(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(RecordingError, match=r"rows\.json: not the answer of a what-if: .*pymem whatif"):
        load_rows(path)


# ---- words ----


def test_every_picture_has_words(data: ReportData) -> None:
    made = pictures(data)
    assert [p.key for p in made] == [
        "sawtooth", "whatif", "memory", "types", "lifetimes", "classes", "map", "pauses", "mmu",
    ]  # fmt: skip
    for picture in made:
        assert picture.title
        assert picture.meaning
        assert picture.rows
        assert {len(r) for r in picture.rows} == {len(picture.columns)}
        assert "nan" not in " ".join(c for r in picture.rows for c in r).replace("nano", "")
        assert "e+" not in picture.title


@pytest.mark.parametrize("name", ["$$x$$", r"\[x\]", r"\(x\)", "$$$", "a" * 500, ""])
def test_short_names_hold_no_formula(name: str) -> None:
    shown = short(name)
    assert 0 < len(shown) <= 34
    assert not re.search(r"\$\$|\\[(\[]", shown)


def test_without_cycles() -> None:
    """GOGC=off: no collection, so no pauses, and nothing divides by zero."""
    quiet = gather(open_recording(LRU), gogc="off")
    assert not quiet.run.cycles
    assert [p.key for p in pictures(quiet)][-1] == "map"
    assert "No collection" in render(quiet)


def test_empty_workload() -> None:
    from pymem.workload.workload import Workload

    nothing = gather(Workload.from_arrays([64]), name="one object")
    assert "one object" in render(nothing)


# ---- the HTML file ----


def test_same_bytes(data: ReportData) -> None:
    again = gather(open_stream(LRU), rows=made_rows())
    assert render(data) == render(replace(again, census=data.census))


def test_small_whatever_the_input(data: ReportData) -> None:
    assert len(render(worst(data)).encode()) < MOST


def test_complete(data: ReportData) -> None:
    """Nothing is linked from it: neither scripts, nor styles, nor pictures."""
    html = render(data)
    own = re.sub(
        r"<script>.*?</script>", "", html, flags=re.DOTALL
    )  # Bokeh's names addresses that it never asks
    assert not re.search(r"\ssrc=|@import|url\(|https?:", own)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', own))
    assert "default-src 'none'" in own


def test_names_are_escaped(data: ReportData) -> None:
    """Names in a recording are anybody's."""
    evil = "</script><img src=x onerror=alert(1)>"
    assert data.census is not None
    census = made_census(data, names=[evil])
    html = render(replace(data, census=census, name=evil, command=evil))
    assert evil not in html
    assert "<img" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)


def test_report_of_a_source() -> None:
    html = report(open_stream(TRACE), gogc=50)
    assert "GOGC=50" in html
    assert "go127.trace" in html


def test_save(tmp_path: Path) -> None:
    path = save_report(tmp_path / "r.html", "µ")
    assert path.read_text(encoding="utf-8") == "µ"
    assert os.listdir(tmp_path) == ["r.html"]
    with pytest.raises(OSError, match="No such file"):
        save_report(tmp_path / "none" / "r.html", "x")


@pytest.mark.parametrize(("module", "call"), [("bokeh", "html"), ("matplotlib", "png")])
def test_missing_extra(
    data: ReportData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, call: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"{module}.*pip install 'pymem-go\[report\]'"):
        if call == "html":
            render(data)
        else:
            draw_pngs(data, tmp_path)


# ---- image files ----


def test_png(data: ReportData, tmp_path: Path) -> None:
    drawn = draw_pngs(data, tmp_path / "a")
    assert [p.stem for p in drawn] == [p.key for p in pictures(data)]
    for path, again in zip(drawn, draw_pngs(data, tmp_path / "b"), strict=True):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.read_bytes() == again.read_bytes()


def test_axes_of_ones_own(data: ReportData) -> None:
    from matplotlib.figure import Figure

    from pymem.report.png import plot_map, plot_sawtooth

    ax, other = Figure().subplots(1, 2)
    assert plot_sawtooth(data, ax) is ax
    assert ax.get_xlabel().startswith("time of the program")
    assert plot_map(data, other, moment=0) is other


# ---- the command line ----


def test_command(pymem: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps({"rows": [row(), row(gogc=200)]}))
    options = ["--gogc", "50", "--memory-limit", "64MiB", "--whatif", tmp_path / "rows.json"]
    result = pymem("report", TRACE, *options, "-o", tmp_path / "r.html", "--png", tmp_path / "p")
    assert result.status == 0, result.err
    assert "open it in a browser" in result.out
    assert "GOGC=50 GOMEMLIMIT=64MiB" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (tmp_path / "p" / "whatif.png").exists()


def test_command_json(pymem: Command, tmp_path: Path) -> None:
    answer = pymem("report", TRACE, "-o", tmp_path / "r.html", "--json").json
    assert answer["bytes"] == (tmp_path / "r.html").stat().st_size
    assert answer["pngs"] == []
    assert answer["pictures"][0]["key"] == "sawtooth"
    assert set(answer) == {"file", "output", "bytes", "pngs", "pictures"}


def test_help(pymem: Command) -> None:
    result = pymem("report", "--help")
    assert result.out.isascii()
    assert re.search(r"Examples:\n +pymem report ", result.out)


@pytest.mark.parametrize("content", [b"", b"junk", b"go 1.99 trace\0\0\0", b"PK\x03\x04"])
def test_bad_recording(pymem: Command, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.trace"
    path.write_bytes(content)
    assert_one_line(pymem("report", path, "-o", tmp_path / "r.html"), str(path))
    assert not (tmp_path / "r.html").exists()


def test_bad_output(pymem: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert_one_line(pymem("report", TRACE, "-o", tmp_path / "fifo"), "a pipe, not a file")
    assert_one_line(pymem("report", TRACE, "-o", tmp_path / "no" / "r.html"), "No such file")


def test_command_predicts(pymem: Command, tmp_path: Path) -> None:
    """A list of GOGC for --whatif is worked out on the spot, with the memory limit and without."""
    answer = pymem(
        "report", TRACE, "--whatif", "50,off", "--memory-limit", "1GiB", "-o", tmp_path / "r.html", "--json"
    ).json
    rows = next(p for p in answer["pictures"] if p["key"] == "whatif")["rows"]
    assert sorted(r[0] for r in rows) == sorted(
        f"GOGC={percent}, limit {limit}" for percent in ("50", "off") for limit in ("off", "1 GiB")
    )
