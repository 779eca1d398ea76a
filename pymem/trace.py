"""Go execution traces as columns: `read_trace` for a whole file, `TraceReader` for one of any size.

A trace recorded under ``GODEBUG=traceallocfree=1`` (Go 1.23 and newer) says of every heap object, span and
stack when it came and went; any trace (Go 1.22 and newer) says when the collector ran and which goroutine ran
on which P. The file is mapped and decoded in C, one generation (about a second of the program) at a time.

>>> with TraceReader("t.out", kinds=[EventKind.OBJECT_ALLOC]) as reader:  # doctest: +SKIP
...     allocations = sum(len(batch) for batch in reader.batches())
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import IntEnum
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pymem._native import ffi, lib
from pymem.errors import ClosedError, ThreadError, TraceError

__all__ = ["EventBatch", "EventKind", "Trace", "TraceInfo", "TraceReader", "TypeInfo", "read_trace"]

# Events a batch of read_trace has: enough that the calls cost nothing, small enough to stay in the cache.
_CHUNK = 1 << 14

# Bytes of a mapped file that may lie behind the reader before their pages are let go.
_FORGET = 1 << 22


_GO_OF_FORMAT = {22: "Go 1.22", 23: "Go 1.23 or 1.24", 25: "Go 1.25", 26: "Go 1.26 or 1.27"}


class EventKind(IntEnum):
    """What an event is, and what its columns ``a``, ``b`` and ``c`` mean.

    Where nothing is said, ``a`` is the address, or the number of the GC cycle, P or goroutine, and ``b`` and
    ``c`` are 0.
    """

    OBJECT_ALLOC = 0
    """``a`` the object's address: its slot's, plus 8 if it is over 512 B and has pointers; ``b`` its type."""
    OBJECT_FREE = 1
    """``a`` the slot's address."""
    OBJECT = 2
    """Existed when the recording began: ``a`` the slot's address, ``b`` its type's index."""
    SPAN_ALLOC = 3
    """``a`` the first byte, ``b`` pages, ``c`` span class << 1, or 1 for stacks and the GC's own memory."""
    SPAN_FREE = 4
    SPAN = 5
    """Existed when the recording began; columns as of SPAN_ALLOC."""
    STACK_ALLOC = 6
    """``a`` the lowest address, ``b`` bytes."""
    STACK_FREE = 7
    STACK = 8
    """Existed when the recording began; columns as of STACK_ALLOC."""
    GC_BEGIN = 9
    """``a`` a sequence number that all GC events share, ``c`` 1 where runtime.GC forced the cycle."""
    GC_END = 10
    GC_ACTIVE = 11
    """Was under way when a generation of the trace began."""
    STW_BEGIN = 12
    """``b`` index of the reason in the strings."""
    STW_END = 13
    HEAP_ALLOC = 14
    """``a`` bytes of live heap as the pacer counts it (heapLive)."""
    HEAP_GOAL = 15
    """``a`` bytes."""
    SWEEP_BEGIN = 16
    SWEEP_END = 17
    """``a`` bytes swept, ``b`` bytes reclaimed."""
    SWEEP_ACTIVE = 18
    ASSIST_BEGIN = 19
    ASSIST_END = 20
    ASSIST_ACTIVE = 21
    PROCS_CHANGE = 22
    """``a`` GOMAXPROCS, said at the beginning and at each change (and, since Go 1.25, in each generation)."""
    PROC_START = 23
    PROC_STOP = 24
    PROC_STEAL = 25
    """``a`` the P, ``b`` the thread it was taken from."""
    GO_CREATE = 26
    """``c`` 1 where the goroutine is the runtime's own, or its tracer's; also of GO_CREATE_BLOCKED."""
    GO_CREATE_SYSCALL = 27
    GO_CREATE_BLOCKED = 28
    GO_START = 29
    GO_DESTROY = 30
    GO_DESTROY_SYSCALL = 31
    GO_BLOCK = 32
    """``b`` index of the reason in the strings."""
    GO_STOP = 33
    """``b`` index of the reason in the strings."""
    GO_SWITCH = 34
    """``a`` the goroutine switched to."""
    GO_SWITCH_DESTROY = 35


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """A Go type of the recorded program. Index 0 of a trace's types is "no type", with an empty name."""

    address: int
    """Of its descriptor in the recorded program; with the name, what makes types equal across a trace."""
    size: int
    """Bytes of a value."""
    ptrdata: int
    """Bytes up to the end of the last pointer in a value; 0: no pointers."""
    name: str


@dataclass(frozen=True, slots=True)
class TraceInfo:
    """What a trace says about itself, and how much of it was read so far."""

    version: int
    """Minor version of the format: 22, 23, 25 or 26 (Go 1.27 writes 26)."""
    generations: int
    threads: int
    duration_ns: int
    start_ns: int
    """The program's clock at time 0: what ``go tool trace -d=parsed`` prints less the column ``time``."""
    wall_ns: int
    """Wall clock at time 0, ns since 1970 (UTC); 0 where the trace has none (before Go 1.25)."""
    frequency: int
    """Ticks of the trace's clock a second."""
    frequency_assumed: bool
    """The clock's frequency was lost when the program was killed; it is taken to be Go's usual 15,625,000."""
    incomplete: bool
    """The last generation was cut short, as a killed program leaves it: its last events are missing."""
    incomplete_offset: int
    """Byte of the file at which what could be read ends; 0 for a complete trace."""
    has_allocations: bool
    """Recorded under ``GODEBUG=traceallocfree=1``: objects, spans, stacks are in it, addresses are real."""
    min_heap_addr: int
    """Lowest address of the heap; 0 without allocations, as the sizes that follow."""
    page_size: int
    heap_align: int
    stack_align: int
    events: int
    """Decoded, whether selected or not."""
    cpu_samples: int
    unknown_types: int
    """Selected objects whose type is lost (in incomplete traces only); their type index is 0."""
    counts: dict[EventKind, int] = field(repr=False)
    """Events of each kind, whether selected or not."""

    @property
    def go(self) -> str:
        """The versions of Go that write this format."""
        return _GO_OF_FORMAT.get(self.version, f"Go 1.{self.version}")


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Columns of events in the order of time, all of one length."""

    time: npt.NDArray[np.int64]
    """ns since the trace's start; never falls."""
    kind: npt.NDArray[np.uint8]
    """`EventKind`."""
    p: npt.NDArray[np.signedinteger[Any]]
    """P that the event's thread held just before it, -1 for none known."""
    g: npt.NDArray[np.signedinteger[Any]]
    """Goroutine that ran on the event's thread just before it, -1 for none known."""
    a: npt.NDArray[np.uint64]
    b: npt.NDArray[np.unsignedinteger[Any]]
    c: npt.NDArray[np.unsignedinteger[Any]]

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True, slots=True)
class Trace(EventBatch):
    """A trace read to its end; ``p``, ``g``, ``b``, ``c`` have the smallest type that holds their values."""

    types: tuple[TypeInfo, ...] = field(repr=False)
    """What ``b`` of objects counts; types[0] is "no type"."""
    strings: tuple[str, ...] = field(repr=False)
    """What ``b`` of STW_BEGIN, GO_BLOCK and GO_STOP counts; strings[0] is empty."""
    info: TraceInfo

    @property
    def nbytes(self) -> int:
        """Bytes of memory in the columns."""
        return sum(getattr(self, name).nbytes for name in _DTYPES)


# As trace_columns in pymem_api.h has them.
_DTYPES: dict[str, type[np.integer[Any]]] = {
    "time": np.int64,
    "a": np.uint64,
    "b": np.uint64,
    "g": np.int64,
    "p": np.int16,
    "c": np.uint16,
    "kind": np.uint8,
}

# Where columns that widen as values ask for it begin.
_NARROW: dict[str, type[np.integer[Any]]] = {"b": np.uint8, "g": np.int8, "p": np.int8, "c": np.uint8}


def _kind_mask(kinds: Iterable[EventKind | int] | None) -> int:
    if kinds is None:
        return (1 << len(EventKind)) - 1
    mask = 0
    for kind in kinds:
        mask |= 1 << EventKind(kind)
    return mask


def _open_buffer(path: str | os.PathLike[str]) -> bytes | mmap.mmap:
    """Map the file. An empty one cannot be mapped, a pipe neither: those are read."""
    with open(path, "rb") as file:
        try:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (ValueError, OSError):
            return file.read()


class TraceReader:
    """Reads one execution trace from its beginning to its end in batches; a context manager.

    `source` is the path of a file or the bytes of one. `kinds` selects events; None selects all. A file must
    not shrink while it is read. Raises `OSError` where the file cannot be opened and `TraceError` where it is
    no execution trace. Threads take turns: one that comes in while another is inside gets `ThreadError`.

    Memory: one generation's tables, whatever the length of the trace, and 37 bytes for each event of a batch.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | bytearray | memoryview,
        *,
        kinds: Iterable[EventKind | int] | None = None,
    ) -> None:
        self._lock = threading.Lock()
        self._reader = ffi.NULL
        self._mask = _kind_mask(kinds)
        self._forgotten = 0  # bytes of the file
        if isinstance(source, bytes | bytearray | memoryview):
            self.name = "<bytes>"
            self._buffer: Any = source
        else:
            self.name = os.fspath(source)
            self._buffer = _open_buffer(source)
        self._data = ffi.from_buffer("uint8_t[]", self._buffer)
        try:
            self._begin(self._mask)
        except BaseException:
            self.close()
            raise

    def _begin(self, mask: int) -> None:
        """Start at the file's beginning, selecting the kinds of `mask`."""
        with self._alone():
            lib.trace_close(self._reader)
            self._forgotten = 0
            out = ffi.new("trace_reader **")
            status = lib.trace_open(self._data, len(self._data), mask, ffi.NULL, out)
            self._reader = out[0]
            error = self._error(status)
        if error:
            raise error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other threads out: the core gives up the interpreter's lock, and its memory has no owner flag."""
        if not self._lock.acquire(blocking=False):
            raise ThreadError(
                f"{self.name}: another thread is using this reader: open the trace once for each"
            )
        try:
            yield
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_reader"):
            self.close()

    def close(self) -> None:
        """Give the memory and the file back; doing it twice is fine."""
        with self._alone():
            reader, self._reader = self._reader, ffi.NULL
            lib.trace_close(reader)
            if hasattr(self, "_data"):
                ffi.release(self._data)
                if isinstance(self._buffer, mmap.mmap):
                    self._buffer.close()
                del self._data, self._buffer

    def batches(self, size: int = 65_536) -> Iterator[EventBatch]:
        """Yield the events not yet read, `size` at a time (the last batch has fewer), as arrays of their own.

        Raises `TraceError` where the file turns out damaged, after yielding what came before the damage.
        """
        if size < 1:
            raise ValueError(f"a batch has at least one event, not {size}")
        done = False
        while not done:
            arrays = _empty_columns(size)
            count, done, error = self._fill(arrays, size)
            if count:
                yield EventBatch(**{name: array[:count] for name, array in arrays.items()})
            if error:
                raise error

    def _forget(self) -> None:
        """Let go of the pages of a mapped file up to this generation's end; what is asked for again is read again."""
        raw = self._raw_info()
        behind = raw.position - raw.position % mmap.ALLOCATIONGRANULARITY
        if isinstance(self._buffer, mmap.mmap) and behind - self._forgotten >= _FORGET:
            self._buffer.madvise(mmap.MADV_DONTNEED, 0, behind)
            self._forgotten = behind

    @property
    def info(self) -> TraceInfo:
        """What is known about the trace so far; all of it once `batches` has ended."""
        with self._alone():
            raw = self._raw_info()
        named = {f.name for f in fields(TraceInfo)} - {"counts", "has_allocations"}
        values = {name: getattr(raw, name) for name in named}
        return TraceInfo(
            **values | {name: bool(values[name]) for name in ("incomplete", "frequency_assumed")},
            has_allocations=bool(raw.has_heap_info),
            counts={kind: raw.counts[kind] for kind in EventKind},
        )

    @property
    def progress(self) -> float:
        """Part of the file that has been taken in, 0 to 1; moves by a generation at a time."""
        with self._alone():
            raw = self._raw_info()
        return float(raw.position / raw.length) if raw.length else 1.0

    @property
    def types(self) -> tuple[TypeInfo, ...]:
        """The types met so far. An index never changes its meaning; types[0] is "no type"."""
        with self._alone():
            raw = self._raw_info()
            out = ffi.new("trace_type[]", raw.num_types)
            lib.trace_get_types(self._reader, 0, raw.num_types, out)
            return tuple(TypeInfo(t.address, t.size, t.ptrdata, _text(t.name, t.name_len)) for t in out)

    @property
    def strings(self) -> tuple[str, ...]:
        """The reasons met so far. An index never changes its meaning; strings[0] is empty."""
        with self._alone():
            raw = self._raw_info()
            length = ffi.new("uint32_t *")
            return tuple(
                _text(lib.trace_get_string(self._reader, i, length), length[0])
                for i in range(raw.num_strings)
            )

    def _raw_info(self) -> Any:
        raw = ffi.new("trace_info *")
        lib.trace_get_info(self._open_reader(), raw)
        return raw

    def _count(self) -> int:
        """Decode the whole trace to count the selected events, and go back to the beginning.

        A fifth of the time of reading; in return each column is allocated once, at its final length.
        """
        self._begin(0)
        buffers, done = _empty_columns(1), False
        while not done:
            _, done, error = self._fill(buffers, 1)
            if error:
                raise error
        counts = self.info.counts
        self._begin(self._mask)
        return sum(count for kind, count in counts.items() if self._mask >> kind & 1)

    def _open_reader(self) -> Any:
        if self._reader == ffi.NULL:
            raise ClosedError(f"{self.name}: this reader was closed; open the trace again")
        return self._reader

    def _fill(
        self, arrays: dict[str, npt.NDArray[Any]], size: int
    ) -> tuple[int, bool, TraceError | MemoryError | None]:
        """Fill the arrays from their front until full or at the trace's end: (events, at the end, what is wrong)."""
        with self._alone():
            count, done, status = self._next(arrays, size)
            return count, done, self._error(status)

    def _next(self, arrays: dict[str, npt.NDArray[Any]], size: int) -> tuple[int, bool, int]:
        filled, done, status = 0, ffi.new("int *"), lib.PYMEM_OK
        count = ffi.new("int64_t *")
        columns = ffi.new("trace_columns *")
        while filled < size and not done[0] and status == lib.PYMEM_OK:
            for name, array in arrays.items():
                pointer = ffi.cast("uintptr_t", array.ctypes.data + filled * array.itemsize)
                setattr(columns, name, ffi.cast("void *", pointer))
            status = lib.trace_next(self._open_reader(), columns, size - filled, count, done)
            filled += count[0]
            self._forget()  # here, as a batch of rare events reaches over many generations
        return filled, bool(done[0]), status

    def _error(self, status: int) -> TraceError | MemoryError | None:
        if status == lib.PYMEM_OK:
            return None
        if status == lib.PYMEM_ENOMEM:
            return MemoryError(f"{self.name}: no memory left for the trace's tables")
        offset = ffi.new("uint64_t *")
        message = ffi.string(lib.trace_error(self._reader, offset)).decode()
        return TraceError(f"{self.name}: at byte {offset[0]:,}: {message}")


def _text(pointer: Any, length: int) -> str:
    """Go strings are bytes: almost always UTF-8, never trusted to be."""
    return bytes(ffi.buffer(pointer, length)).decode("utf-8", "replace")


def _empty_columns(size: int) -> dict[str, npt.NDArray[Any]]:
    """Arrays of trace_columns, in one block: freed and asked for again it costs the system no new pages."""
    offsets = np.cumsum([0, *(np.dtype(dtype).itemsize * size for dtype in _DTYPES.values())])
    block = np.empty(offsets[-1], np.uint8)
    return {
        name: block[offsets[i] : offsets[i + 1]].view(dtype)
        for i, (name, dtype) in enumerate(_DTYPES.items())
    }


class _Columns:
    """Columns of a known length that are filled from the front and widen when a value asks for it."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._filled = 0
        self.arrays = {name: np.empty(length, dtype) for name, dtype in (_DTYPES | _NARROW).items()}

    def append(self, chunk: dict[str, npt.NDArray[Any]], count: int) -> None:
        start, end = self._filled, self._filled + count
        for name, values in chunk.items():
            self._make_room(name, values[:count])
            self.arrays[name][start:end] = values[:count]
        self._filled = end

    def _make_room(self, name: str, values: npt.NDArray[Any]) -> None:
        old = self.arrays[name]
        if old.dtype == values.dtype:
            return
        info = np.iinfo(old.dtype)
        while values.max() > info.max or values.min() < info.min:
            info = np.iinfo(f"{info.kind}{info.dtype.itemsize * 2}")
        if info.dtype != old.dtype:
            self.arrays[name] = np.empty(self._length, info.dtype)
            self.arrays[name][: self._filled] = old[: self._filled]


def read_trace(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    *,
    kinds: Iterable[EventKind | int] | None = None,
) -> Trace:
    """Read a whole execution trace (Go 1.22 to 1.27) into numpy columns, about 24 bytes an event.

    `source` is the path of a file or the bytes of one; `kinds` selects events, None all of them. A trace that
    ends in the middle, as a killed program leaves it, is read as far as it goes, with `info.incomplete` set.
    Raises `OSError` where the file cannot be opened, `TraceError` where it is no execution trace or damaged.
    """
    with TraceReader(source, kinds=kinds) as reader:
        columns = _Columns(reader._count())
        buffers, done = _empty_columns(_CHUNK), False
        while not done:
            count, done, error = reader._fill(buffers, _CHUNK)
            if error:
                raise error
            if count:
                columns.append(buffers, count)
        return Trace(**columns.arrays, types=reader.types, strings=reader.strings, info=reader.info)
