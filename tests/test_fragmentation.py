"""What is lost in spans, by size class: heaps whose figures can be computed by hand, and tables of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pymem.analysis.classtable import go_table, read_table, try_table
from pymem.analysis.fragmentation import USES, ClassLoss, Moment, fragmentation, survey_heap
from pymem.errors import ConfigError, RecordingError
from pymem.replay import replay
from pymem.sizeclasses import size_classes
from pymem.workload.sources import open_stream
from pymem.workload.synthetic import steady
from pymem.workload.workload import Workload, WorkloadType

LRU = "examples/lru.trace"


def loss_of(moment: Moment, size: int, *, noscan: bool = True) -> ClassLoss:
    return next(c for c in moment.classes if (c.size, c.noscan) == (size, noscan))


# ---- by hand ----


def test_one_span() -> None:
    """100 objects of 60 B in 64 B slots: a span of 8,192 B has (8192 - 128) / 64 = 126 of them."""
    end = survey_heap(Workload.from_arrays([60] * 100, noscan=True)).end
    loss = loss_of(end, 64)
    assert (loss.spans, loss.slots, loss.used, loss.bytes_in_spans) == (1, 126, 100, 8192)
    assert (loss.slot_waste, loss.partial_bytes, loss.tail_bytes, loss.dead_bytes) == (400, 26 * 64, 128, 0)
    assert loss.utilisation == 6400 / 8192
    assert loss.lost == 400 + 26 * 64 + 128
    assert end.worst == loss


def test_header_is_waste() -> None:
    """A scan object of 1,024 B needs 8 more for its header, so it takes a slot of 1,152."""
    loss = loss_of(survey_heap(Workload.from_arrays([1024])).end, 1152, noscan=False)
    assert loss.slot_waste == 128


def test_dead_are_not_lost() -> None:
    """Of 100 objects 40 die, and no sweep has come by."""
    life = [-1] * 60 + [0] * 40
    loss = loss_of(survey_heap(Workload.from_arrays([64] * 100, noscan=True, lifetimes=life)).end, 64)
    assert (loss.used, loss.dead_bytes, loss.slot_waste) == (100, 40 * 64, 0)
    assert loss.partial_bytes == 26 * 64


def test_large() -> None:
    """40,000 B take five pages; 960 B of them are lost."""
    loss = loss_of(survey_heap(Workload.from_arrays([40_000], noscan=True)).end, 0)
    assert (loss.spans, loss.bytes_in_spans, loss.slot_waste, loss.partial_bytes) == (1, 40_960, 960, 0)


def test_survivors_hold_spans() -> None:
    """All but every 64th of 10,000 objects die and are swept: their slots are free and their spans stay."""
    n = 10_000
    life = np.where(np.arange(n) % 64 == 0, -1, n - 1 - np.arange(n))
    made = Workload.from_arrays(
        [64] * n + [8] * 100,
        noscan=True,
        lifetimes=[*life, *[-1] * 100],
        types=1,
        type_table=[WorkloadType("main.node", 64, 0)],
        gc_every=n + 50,
    )
    found = survey_heap(made)
    loss = loss_of(found.end, 64)
    assert loss.used == 157
    assert loss.partial_bytes == (126 * loss.spans - 157) * 64
    advice = found.end.advice()
    assert "the 64 B class without pointers" in advice
    assert "in free slots" in advice
    assert "main.node" in advice


def test_least_waste_of_a_trace() -> None:
    """A trace has slots: in one of 288 B there is a map's group of 264 B, so at least 24 B are lost."""
    found = survey_heap(open_stream(LRU))
    assert found.sizes == "least"
    loss = loss_of(found.peak, 288, noscan=False)
    assert loss.slot_waste == pytest.approx(24 * loss.used, rel=0.05)


# ---- sums, maps, what is refused ----


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 200]))
def test_bytes_add_up(seed: int, gc_every: int) -> None:
    made = steady(1000, gc_every=gc_every, rng=seed)
    end = survey_heap(made, samples=4).end
    for c in end.classes:
        assert c.slot_waste is not None
        assert min(c.slot_waste, c.dead_bytes, c.partial_bytes, c.tail_bytes) >= 0
        used = c.used * c.size if c.size else c.bytes_in_spans
        assert used + c.partial_bytes + c.tail_bytes == c.bytes_in_spans
        assert c.slot_waste + c.dead_bytes <= used
    without = fragmentation(replay(made))
    assert [(c.size, c.used, c.tail_bytes) for c in without] == [
        (c.size, c.used, c.tail_bytes) for c in end.classes
    ]
    assert all(c.slot_waste is None for c in without)


def test_address_map() -> None:
    found = survey_heap(Workload.from_arrays([40_000] * 3 + [64] * 10, noscan=True), samples=8)
    assert 1 <= len(found.maps) <= 8
    last = found.maps[-1]
    uses = {USES[u]: int(n) for u, n in zip(*np.unique(last.pages, return_counts=True), strict=True)}
    assert (uses["large"], uses["noscan"]) == (15, 1)
    assert last.pages_a_cell == 1


def test_map_of_a_large_heap_is_small() -> None:
    found = survey_heap(Workload.from_arrays([1 << 28] * 2, noscan=True), samples=2)
    assert found.maps[-1].pages_a_cell == 4
    assert len(found.maps[-1].pages) <= 1 << 14
    assert USES.index("large") in found.maps[-1].pages


def test_timeline() -> None:
    found = survey_heap(open_stream(LRU))
    times = [t for t, *_ in found.timeline]
    assert len(times) == len(found.maps) == 64
    assert times == sorted(times)
    assert found.peak.bytes_in_spans == max(held for _, held, _, _ in found.timeline)
    with pytest.raises(ValueError, match="samples"):
        survey_heap(open_stream(LRU), samples=0)


def test_of_nothing() -> None:
    found = survey_heap(Workload.from_arrays([]))
    assert found.end.worst is None
    assert found.end.advice() == "Nothing is lost."


# ---- tables of one's own ----


def test_go_table_by_its_rules() -> None:
    """Slots follow from bytes and pages by the same rules as in the core."""
    go, table = go_table(), size_classes()[1:]
    assert (go.slots(True) == table["slots_noscan"]).all()
    assert (go.slots(False) == table["slots_scan"]).all()


def write(folder: Path, text: str) -> Path:
    path = folder / "classes.txt"
    path.write_text(text)
    return path


def test_read_table(tmp_path: Path) -> None:
    """Pages are as many as leave an eighth at most, unless they are given."""
    table = read_table(write(tmp_path, "# mine\n64\n\n1152 2  # two pages\n12288\n"))
    assert table.size.tolist() == [64, 1152, 12288]
    assert table.pages.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    ["", "# nothing", "x", "64 y", "64\n64", "64\n32", "60", "0", "40000", "64 0 1", "64 99", "16384 1"],
)
def test_bad_tables(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"classes\.txt"):
        read_table(write(tmp_path, text))


def test_try_table(tmp_path: Path) -> None:
    """200 objects of 72 B: Go has 80 B slots (100 a span: 2 spans), a class of 72 has 112 a span (2 spans)."""
    made = Workload.from_arrays([72] * 200, noscan=True)
    answer = try_table(made, read_table(write(tmp_path, "72\n")))
    assert (answer.objects, answer.asked_bytes, answer.sizes) == (200, 14_400, "exact")
    assert (answer.go.slot_waste, answer.own.slot_waste) == (1600, 0)
    assert (answer.go.bytes_in_spans, answer.own.bytes_in_spans) == (16_384, 16_384)
    assert answer.own.span_waste == 16_384 - 14_400
    assert answer.worst == ()


def test_worst_sizes(tmp_path: Path) -> None:
    """With 64 B slots only, 48 B objects lose 16 B each, and 100 B ones take a page."""
    made = Workload.from_arrays([48] * 10 + [100], noscan=True)
    answer = try_table(made, read_table(write(tmp_path, "64\n")))
    assert answer.worst == ((100, 1, 8192 - 112), (48, 10, 160))


def test_go_table_again(tmp_path: Path) -> None:
    go = go_table()
    text = "".join(f"{s} {p}\n" for s, p in zip(go.size, go.pages, strict=True))
    answer = try_table(open_stream(LRU), read_table(write(tmp_path, text)))
    assert answer.go == answer.own
    assert answer.sizes == "slots"


def test_try_table_on_nothing(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="nothing lives"):
        try_table(Workload.from_arrays([]), read_table(write(tmp_path, "64\n")))
