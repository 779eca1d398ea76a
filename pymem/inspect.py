"""Looking inside a heap: spans, objects and pages, one at a time or as structured arrays."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._arrays import address, pointer
from pymem._native import ffi, lib

if TYPE_CHECKING:
    import numpy.typing as npt

    from pymem._heap import Heap

__all__ = ["OBJECT", "PAGE", "SPAN", "GoObject", "Span", "SpanKind"]

_PAGE_SIZE: int = lib.PYMEM_PAGE_SIZE
_BATCH = 4096
_MOST_SLOTS = 1024


class SpanKind(IntEnum):
    """What a span's pages are used for."""

    HEAP = lib.PYMEM_SPAN_HEAP
    STACK = lib.PYMEM_SPAN_STACK
    WORKBUF = lib.PYMEM_SPAN_WORKBUF
    OTHER = lib.PYMEM_SPAN_OTHER


SPAN = np.dtype(
    {
        "names": [
            "base",
            "pages",
            "slot_size",
            "slots",
            "used",
            "free_index",
            "sweepgen",
            "span_class",
            "state",
            "kind",
            "cached",
        ],
        "formats": [np.uint64] * 3 + [np.uint32] * 4 + [np.uint8] * 4,
        "offsets": [0, 8, 16, 24, 28, 32, 36, 40, 41, 42, 43],
        "itemsize": 48,
    }
)
"""A span: address of its first page, pages of 8,192 bytes, bytes a slot, slots and how many are used, the slot from
which the next free one is sought, Go's sweep generation, span class (size class << 1 | noscan), state (1 objects,
2 manual), kind (`SpanKind`), and whether a processor's cache holds it. It is the core's own struct."""

OBJECT = np.dtype([("address", np.uint64), ("type", np.uint32)])
"""A living object: its address and the id of its type. A tiny block is one object."""

PAGE = np.dtype(
    [
        ("address", np.uint64),
        ("allocated", np.bool_),
        ("scavenged", np.bool_),
        ("cached", np.bool_),
        ("padding", np.bool_),
    ]
)
"""A page of 8,192 bytes: taken from the page allocator; returned to the system; taken, but by a processor's page cache,
so free; kept empty at the front of the heap."""


@dataclass(frozen=True, slots=True)
class Span:
    """One span; the fields are those of the array `Runtime.spans()` returns."""

    base: int
    pages: int
    slot_size: int
    slots: int
    used: int
    free_index: int
    sweepgen: int
    span_class: int
    state: int
    kind: SpanKind
    cached: bool


@dataclass(frozen=True, slots=True)
class GoObject:
    """One living object."""

    address: int
    span_base: int
    slot: int
    """Number of its slot in the span."""
    slot_size: int
    """Bytes of the slot: what the object costs, at least its size."""
    type: int
    """Id of its type, 0 for none."""
    noscan: bool
    tiny: bool
    """Whether it shares its slot with others."""


def _span(row: Any) -> Span:
    fields = dict(zip(SPAN.names or (), row.tolist(), strict=True))
    fields["kind"] = SpanKind(fields["kind"])
    fields["cached"] = bool(fields["cached"])
    return Span(**fields)


def spans(heap: Heap) -> npt.NDArray[Any]:
    """Return all spans in address order."""
    parts, count, start = [], ffi.new("uint64_t *"), 0
    while True:
        part = np.zeros(_BATCH, SPAN)
        heap.call(lib.pymem_spans, start, ffi.cast("pymem_span_info *", ffi.from_buffer(part)), _BATCH, count)
        parts.append(part[: count[0]])
        if count[0] < _BATCH:
            return np.concatenate(parts)
        start = int(part["base"][-1] + part["pages"][-1] * _PAGE_SIZE)


def span_of(heap: Heap, addr: int) -> Span:
    """Return the span that an address lies in."""
    row = np.zeros(1, SPAN)
    heap.call(lib.pymem_span_of, address(addr), ffi.cast("pymem_span_info *", ffi.from_buffer(row)))
    return _span(row[0])


def object_at(heap: Heap, addr: int) -> GoObject:
    """Return the living object that begins at an address."""
    c = ffi.new("pymem_object_info *")
    heap.call(lib.pymem_object_at, address(addr), c)
    return GoObject(
        address=c.addr,
        span_base=c.base,
        slot=c.index,
        slot_size=c.size,
        type=c.type,
        noscan=bool(c.noscan),
        tiny=bool(c.tiny),
    )


def objects(heap: Heap, span: Span | int) -> npt.NDArray[Any]:
    """Return the living objects of a span, given by itself or by its base."""
    base = span.base if isinstance(span, Span) else address(span)
    addrs, types = np.empty(_MOST_SLOTS, np.uint64), np.empty(_MOST_SLOTS, np.uint32)
    count = ffi.new("uint32_t *")
    heap.call(lib.pymem_objects, base, pointer("uint64_t", addrs), pointer("uint32_t", types), count)
    found = np.empty(count[0], OBJECT)
    found["address"], found["type"] = addrs[: count[0]], types[: count[0]]
    return found


def arena_map(heap: Heap) -> npt.NDArray[Any]:
    """Return every page of the heap in address order."""
    base, count = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    npages = lib.pymem_heap_bounds(heap.handle, base) // _PAGE_SIZE
    state = np.empty(npages, np.uint8)
    heap.call(lib.pymem_page_states, 0, pointer("uint8_t", state), npages, count)
    pages = np.empty(count[0], PAGE)
    pages["address"] = base[0] + np.arange(count[0], dtype=np.uint64) * np.uint64(_PAGE_SIZE)
    for bit, name in enumerate(("allocated", "scavenged", "cached", "padding")):
        pages[name] = state[: count[0]] >> bit & 1
    return pages
