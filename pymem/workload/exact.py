"""An exact recording becomes a workload: what the program and the collector did, in the order in which it took effect.

The emulator finds out by itself where objects, spans and stacks go; the recording's own addresses travel along in the
`expect` column, to be held against the emulator's.

Order. On one P the log's order is the program's. On several, an allocation takes effect when it first touches what is
shared (a span, a page cache, a sweep), and that record was made under the lock; so an allocation is placed at the first
such record between its BEGIN and its END, and at its END if there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pymem._native import lib
from pymem.workload.columns import Columns, Event
from pymem.workload.commits import commits_from_log
from pymem.workload.exact_log import ExactLog, Op
from pymem.workload.rows import Rows, latest

if TYPE_CHECKING:
    import numpy.typing as npt

    Ints = npt.NDArray[np.int64]
    Words = npt.NDArray[np.uint64]

__all__ = ["columns_from_log"]

_MALLOC_HEADER = 8  # bytes in front of a scan object of more than 512 bytes
_HEADER_MIN = 512
_SMALL_MAX = 32768 - _MALLOC_HEADER
_STACK, _HEAP = 1, 0
_KEPT = 2  # FINALIZER: the sweep keeps the object
_HEAP_MINIMUM = 4 << 20  # the goal before the first cycle, at GOGC=100; bytes
_NO_GOAL = np.uint64(2**64 - 1)

# Records that touch what several Ps share: the first of them dates its allocation.
_EFFECTS = (Op.SPAN_ALLOC, Op.PCACHE_FILL, Op.PAGE_ALLOC, Op.SWEEP)


class _Windows:
    """Pairs of BEGIN and END records of one M; they do not overlap within an M."""

    def __init__(self, begin: Ints, end: Ints, m: Ints, n: int) -> None:
        self.begin, self.end = begin, end
        self._n = n
        self._keys = m[begin] * n + begin
        self._order = np.argsort(self._keys)
        self._m = m

    def holding(self, records: Ints) -> Ints:
        """Index of the window that each record (of the same M) lies in, or -1."""
        if not len(self.begin):
            return np.full(len(records), -1)
        found = np.searchsorted(self._keys[self._order], self._m[records] * self._n + records, "right") - 1
        window = self._order[np.maximum(found, 0)]
        inside = (
            (found >= 0) & (self._m[self.begin[window]] == self._m[records]) & (self.end[window] > records)
        )
        return np.where(inside, window, -1)


def _windows(op: npt.NDArray[np.uint8], m: Ints, begin_op: Op, end_op: Op) -> _Windows:
    marks = np.flatnonzero((op == begin_op) | (op == end_op))
    marks = marks[np.argsort(m[marks], kind="stable")]
    first = np.flatnonzero(
        (op[marks[:-1]] == begin_op) & (op[marks[1:]] == end_op) & (m[marks[:-1]] == m[marks[1:]])
    )
    begin, end = marks[first], marks[first + 1]
    order = np.argsort(begin)
    return _Windows(begin[order], end[order], m, len(op))


def _first_effect(windows: _Windows, records: Ints, window: Ints) -> Ints:
    """Position of each window's first record among `records` (each lying in `window`), or its END."""
    at = windows.end.copy()
    inside = window >= 0
    np.minimum.at(at, window[inside], records[inside])
    return at


def columns_from_log(log: ExactLog) -> Columns:
    """Return the columns of an exact recording, from process birth; handles are the ordinal numbers of births."""
    return _Converter(log).columns()


def mallocs_of(log: ExactLog) -> tuple[Ints, Ints]:
    """Return where MALLOC_BEGIN and MALLOC_END of each object stand in the records, by its handle."""
    windows = _windows(log.records["op"], log.records["m"].astype(np.int64), Op.MALLOC_BEGIN, Op.MALLOC_END)
    return windows.begin, windows.end


class _Converter:
    def __init__(self, log: ExactLog) -> None:
        records = log.records
        self.op = records["op"]
        self.a, self.b, self.c = records["a"], records["b"], records["c"]
        self.m = records["m"].astype(np.int64)
        self.n = len(records)
        proc = records["p"].astype(np.int64)
        self.proc = np.where(proc == 255, -1, proc)
        nanoseconds = np.where(self.op == Op.MALLOC_BEGIN, self.b >> np.uint64(8), 0).astype(np.int64)
        self.rows = Rows(np.maximum.accumulate(nanoseconds), self.proc, records["g"].astype(np.int64))
        self.types = {t.address: i + 1 for i, t in enumerate(log.types.values())} if log.types else {}
        self.commits, _ = commits_from_log(log)
        self.handles = 0

    def at(self, *ops: Op) -> Ints:
        return np.flatnonzero(np.isin(self.op, ops))

    def columns(self) -> Columns:
        self._procs()
        self._program()
        self._stacks()
        self._manual_spans()
        self._collector()
        self._off_heap()
        return self.rows.columns()

    # ---- what the program does ----

    def _program(self) -> None:
        mallocs = _windows(self.op, self.m, Op.MALLOC_BEGIN, Op.MALLOC_END)
        stacks = _windows(self.op, self.m, Op.STACK_ALLOC, Op.STACK_ALLOC_END)
        effects = self.at(*_EFFECTS)
        in_stack = stacks.holding(effects)
        in_malloc = np.where(in_stack >= 0, -1, mallocs.holding(effects))
        self.stacks, self.stack_at = stacks, _first_effect(stacks, effects, in_stack)
        self.mallocs, self.malloc_at = mallocs, _first_effect(mallocs, effects, in_malloc)
        begin, end = mallocs.begin, mallocs.end
        noscan, size, addr = self.b[begin] & np.uint64(1), self.a[begin], self.a[end]
        self.rows.add(
            Event.ALLOC,
            self.malloc_at,
            rank=2,
            source=begin,
            flags=noscan,
            size=size,
            object=np.arange(len(begin)),
            expect=addr,
            type=self._type_ids(self.c[begin]),
        )
        self.handles = len(begin)
        self._spans(effects, in_malloc)
        self._sweeps(effects, in_malloc)
        header = (noscan == 0) & (size > _HEADER_MIN) & (size <= _SMALL_MAX)
        slots = np.flatnonzero(self.b[end] > 0)  # a part of a tiny block is not a slot of its own
        self._deaths(slots, (addr - header * np.uint64(_MALLOC_HEADER))[slots])

    def _type_ids(self, addresses: Words) -> Ints:
        unique, inverse = np.unique(addresses, return_inverse=True)
        return np.array([self.types.get(int(t), 0) for t in unique], np.int64)[inverse]

    def _spans(self, effects: Ints, in_malloc: Ints) -> None:
        spans = (self.op[effects] == Op.SPAN_ALLOC) & (in_malloc >= 0)
        record, window = effects[spans], in_malloc[spans]
        self.rows.add(
            Event.SPAN,
            self.malloc_at[window],
            rank=3,
            source=record,
            expect=self.a[record],
            size=self.b[record],
            flags=self.c[record] >> np.uint64(8),
            type=_HEAP,
        )

    def _sweeps(self, effects: Ints, in_malloc: Ints) -> None:
        """Sweeps on an allocation's way, sweeps in turn; those of an mcache's flush are the emulator's own affair."""
        is_sweep = self.op[effects] == Op.SWEEP
        record, window = effects[is_sweep], in_malloc[is_sweep]
        kept = self.c[record] == 1
        order = np.argsort(self.m, kind="stable")
        previous = np.full(self.n, -1)
        previous[order[1:]] = np.where(self.m[order[1:]] == self.m[order[:-1]], order[:-1], -1)
        before = previous[record]
        flushed = (before >= 0) & (self.op[before] == Op.UNCACHE) & (self.a[before] == self.a[record])
        on_the_way = ~kept & ~flushed & (window >= 0)
        swept = record[on_the_way]
        self.rows.add(
            Event.SWEEP_IN, self.malloc_at[window[on_the_way]], rank=1, source=swept, expect=self.a[swept],
            flags=self._reclaimed(swept),
        )  # fmt: skip
        in_turn = record[~kept & ~flushed & (window < 0)]
        self.rows.add(Event.SWEEP, in_turn, expect=self.a[in_turn])

    def _reclaimed(self, sweeps: Ints) -> npt.NDArray[np.bool_]:
        """Tell which sweeps amid allocations come after the allocation has begun to reclaim pages."""
        marks = self.at(Op.MALLOC_BEGIN, Op.RECLAIM)
        keys = np.sort(self.m[marks] * self.n + marks)
        last = keys[np.searchsorted(keys, self.m[sweeps] * self.n + sweeps) - 1] % self.n
        reclaimed: npt.NDArray[np.bool_] = self.op[last] == Op.RECLAIM
        return reclaimed

    def _deaths(self, slots: Ints, slot_addr: Words) -> None:
        """Date deaths: an object freed by a sweep was found dead by the mark before it, so it dies before that flip."""
        freed, flips = self.at(Op.SLOT_FREE), self.at(Op.FLIP)
        cycle = np.searchsorted(flips, freed) - 1
        freed, cycle = freed[cycle >= 0], cycle[cycle >= 0]
        flip = flips[cycle]
        who = latest(slot_addr, self.mallocs.end[slots], self.a[freed], flip)
        known = who >= 0
        self.rows.add(Event.DEATH, flip[known], rank=0, flags=1, object=slots[who[known]])

    # ---- stacks and other manual spans ----

    def _stacks(self) -> None:
        begin, end = self.stacks.begin, self.stacks.end
        handles = self.handles + np.arange(len(begin))
        self.handles += len(begin)
        cached = (self.b[begin] == 1).astype(np.uint64)
        self.rows.add(
            Event.STACK_ALLOC, self.stack_at, source=begin, object=handles, size=self.a[begin], flags=cached,
            expect=self.a[end],
        )  # fmt: skip
        freed = self.at(Op.STACK_FREE)
        who = latest(self.a[end], end, self.a[freed], freed)
        good = who >= 0
        freed, who = freed[good], who[good]
        self.rows.add(
            Event.STACK_FREE, freed, object=handles[who], size=self.b[freed],
            flags=((self.c[freed] & np.uint64(0xFF)) == 1).astype(np.uint64),
        )  # fmt: skip
        spans = self.at(Op.SPAN_ALLOC)
        spans = spans[(self.c[spans] & np.uint64(0xFF)) == _STACK]
        window = self.stacks.holding(spans)
        at = np.where(window >= 0, self.stack_at[window] if len(self.stack_at) else 0, spans)
        self.rows.add(
            Event.SPAN, at, rank=3, source=spans, expect=self.a[spans], size=self.b[spans], type=_STACK
        )

    def _manual_spans(self) -> None:
        born = self.at(Op.SPAN_ALLOC)
        born = born[(self.c[born] & np.uint64(0xFF)) > _STACK]
        handles = self.handles + np.arange(len(born))
        self.handles += len(born)
        kind = self.c[born] & np.uint64(0xFF)
        self.rows.add(
            Event.MANUAL_ALLOC, born, object=handles, size=self.b[born], flags=kind, expect=self.a[born]
        )
        freed = self.at(Op.SPAN_FREE)
        freed = freed[(self.c[freed] & np.uint64(0xFF)) > _STACK]
        who = latest(self.a[born], born, self.a[freed], freed)
        self.rows.add(Event.MANUAL_FREE, freed[who >= 0], object=handles[who[who >= 0]])

    # ---- processors and the collector ----

    def _procs(self) -> None:
        made = self.at(Op.MCACHE_ALLOC)[1:]  # the first is the runtime's own, before any P
        with_p = np.flatnonzero(self.proc >= 0)[:1]
        first = np.minimum(with_p, made[:1]) if len(made) else with_p
        self.rows.add(Event.PROC_NEW, first, rank=-1, proc=np.full(len(first), -1))
        self.rows.add(Event.PROC_NEW, made, proc=np.full(len(made), -1))
        gone = self.at(Op.MCACHE_FREE)
        self.rows.add(Event.PROC_DESTROY, gone, object=self._owner(gone))

    def _owner(self, records: Ints) -> Ints:
        owner = self.a[records].astype(np.int64)
        return np.where(owner == 255, -1, owner)

    def _collector(self) -> None:
        rows, at = self.rows, self.at
        flush, clear = at(Op.FLUSH), at(Op.STACK_CACHE_CLEAR)
        rows.add(Event.FLUSH, flush, object=self._owner(flush))
        rows.add(Event.STACK_CLEAR, clear, object=self._owner(clear))
        phase = at(Op.GC_PHASE)
        rows.add(Event.GC_PHASE, phase, size=self.a[phase])
        rows.add(Event.SWEEP_DONE, at(Op.MARK_BIT_EPOCH))
        flips, starts = at(Op.FLIP), at(Op.GC_START)
        rows.add(Event.FLIP, flips)
        ends = at(Op.FREE_STACK_SPANS)
        start = np.searchsorted(starts, ends) - 1
        forced = self.a[starts[np.maximum(start, 0)]] & np.uint64(1) if len(starts) else 0
        rows.add(Event.GC_END, ends, flags=forced)
        rows.add(Event.PAGES_FLUSH, at(Op.PCACHE_FLUSH), object=self.proc[at(Op.PCACHE_FLUSH)])
        for flag, op in ((0, Op.SCAV_BEGIN), (1, Op.SCAV_END)):
            base = self.a[at(op)]
            rows.add(Event.SCAVENGE, at(op), flags=flag, object=base, size=self.b[at(op)], expect=base)
        self._finalizers()
        self._goals()
        reads = at(Op.READ_MEM_STATS)
        values = at(Op.MEM_STATS)
        stop = (
            values[np.minimum(np.searchsorted(values, reads), max(len(values) - 1, 0))]
            if len(values)
            else reads[:0]
        )
        rows.add(Event.STATS, stop)

    def _finalizers(self) -> None:
        """Add finalizers; those that a sweep queues were due at the mark before it, as deaths are."""
        rows, records, flips = self.rows, self.at(Op.FINALIZER), self.at(Op.FLIP)
        what, noscan = self.c[records] & np.uint64(0xFF), self.c[records] >= 0x100
        now = records[~noscan & (what != _KEPT)]
        rows.add(Event.FINALIZER, now, size=self.b[now], flags=self.c[now] & np.uint64(1))
        for flag, kept in (
            (lib.PYMEM_FINALIZER_GONE, records[~noscan & (what == _KEPT)]),
            (lib.PYMEM_FINALIZER_REVIVES, records[noscan & (what == _KEPT)]),
        ):
            cycle = np.searchsorted(flips, kept) - 1
            known = cycle >= 0
            slots = np.stack((cycle[known].astype(np.uint64), self.a[kept[known]]))
            # A tiny block is kept once, for however many of its objects.
            _, first = np.unique(slots, axis=1, return_index=True)
            one = kept[known][first]
            rows.add(Event.FINALIZER, flips[cycle[known][first]], rank=0, size=self.b[one], flags=flag)

    def _goals(self) -> None:
        """Goals: a policy computes them where the log has what it takes, else they are told."""
        rows, at = self.rows, self.at
        goals, marked = at(Op.PACER_GOAL), at(Op.PACER)
        if len(self.commits):
            n = len(self.commits)
            rows.add(Event.GOAL, self.commits, flags=1, object=self.c[goals[:n]], size=self.c[marked[:n]])
            return
        percent = at(Op.GC_PERCENT)
        gogc = self.a[percent].astype(np.int64)
        goal = np.where(gogc < 0, _NO_GOAL, (np.maximum(gogc, 0) * _HEAP_MINIMUM // 100).astype(np.uint64))
        rows.add(Event.GOAL, percent, rank=0, object=goal)
        latest = np.searchsorted(marked, goals) - 1
        heap_marked = np.where(latest >= 0, self.c[marked[np.maximum(latest, 0)]], 0) if len(marked) else 0
        rows.add(Event.GOAL, goals, object=self.c[goals], size=heap_marked)

    def _off_heap(self) -> None:
        foreign = np.uint64(0x100)
        persistent = self.at(Op.PERSISTENT)
        persistent = persistent[(self.c[persistent] & foreign) == 0]
        stat = self.c[persistent] & np.uint64(0xFF)
        self.rows.add(
            Event.PERSISTENT, persistent, size=self.a[persistent], object=self.b[persistent], flags=stat
        )
        for sign, ops in ((1, (Op.SYS_ALLOC, Op.SYS_MAP)), (-1, (Op.SYS_FREE,))):
            record = self.at(*ops)
            stat = self.c[record] & np.uint64(0xFF)
            record = record[((self.c[record] & foreign) == 0) & (stat > 1)]
            self.rows.add(
                Event.SYS, record, size=(self.a[record].astype(np.int64) * sign).astype(np.uint64),
                flags=self.c[record] & np.uint64(0xFF),
            )  # fmt: skip
