"""Spans of any size and where their pages are; what larger heaps cost the emulator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from core import Core, restored
from hypothesis import given, settings
from hypothesis import strategies as st
from made_trace import batch, made, uvarint
from strategies import span_sizes

from pymem import inspect

PAGE = 8192
ARENA = 8192
"""Pages of an arena, whose spans are found in one table."""

_REPLAY = (
    "import resource, sys; from pymem.cli import main; status = main(['replay', sys.argv[1], '--json']);"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, file=sys.stderr); sys.exit(status)"
)


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.tuples(span_sizes(), st.integers(0, 4)), max_size=14), at=st.integers(1, 13))
def test_spans_over_arenas(steps: list[tuple[int, int]], at: int) -> None:
    """Each page of a span leads to it, and no page of a freed one does; a copy has them too."""
    c, live = Core(address_space=1 << 33), dict[int, int]()
    for i, (npages, free) in enumerate(steps):
        if i == at:
            c = restored(c.heap.snapshot())
        if free < len(live):
            gone = sorted(live)[free]
            c.manual_free(-1, gone)
            del live[gone]
        live[c.manual_alloc(-1, npages)] = npages
        assert [(int(s["base"]), int(s["pages"])) for s in c.spans()] == sorted(live.items())
        c.check()  # walks all pages
    for base, npages in live.items():
        for page in {0, npages // 2, npages - 1}:
            assert inspect.span_of(c.heap, base + page * PAGE).base == base


def test_small_spans_where_a_large_one_was() -> None:
    """Arenas that shared the large one's table have their own again."""
    c = Core(address_space=1 << 33)
    c.manual_alloc(-1, 5)
    large = c.manual_alloc(-1, 4 * ARENA + 7)
    c.manual_free(-1, large)
    small = [c.manual_alloc(-1, 1000) for _ in range(4 * ARENA // 1000)]
    assert small == [large + i * 1000 * PAGE for i in range(len(small))]
    assert [int(s["base"]) for s in c.spans()][1:] == small
    c.check()


def replayed(path: Path, trace: bytes) -> int:
    """Replay a trace in a process of its own; return the most memory it had, MB."""
    path.write_bytes(trace)
    done = subprocess.run(
        [sys.executable, "-c", _REPLAY, path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])


def test_heap_of_a_terabyte(tmp_path: Path) -> None:
    """75 bytes may name a span of a terabyte, as a program of a few lines may. That took a gigabyte of page tables."""

    def trace(npages: int) -> bytes:
        where = b"\1" + b"".join(map(uvarint, (0xC000000000, PAGE, 8, 2048)))
        span, its_object = b"\x80\1" + uvarint(0) + uvarint(npages) + b"\0", b"\x83\1\0\0"
        return made(batch(where, experiment=1), batch(span + its_object))

    huge = trace(134_000_000)
    assert len(huge) == 75
    usual = replayed(tmp_path / "usual", trace(1000))
    assert replayed(tmp_path / "huge", huge) < usual + 100
