"""What a program holds directly: global variables, and the variables on goroutines' stacks. From here marking starts.

Each is a set of slots in the core. The names are kept here; the core sees numbered slots with an address in each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from pymem._arguments import instance
from pymem._arrays import byte_count, pointer
from pymem._native import ffi, lib
from pymem.errors import ConfigError, PymemError

if TYPE_CHECKING:
    from types import TracebackType

    from pymem._heap import Heap

__all__ = ["Frame", "RootSet", "Roots", "Stack"]


class RootSet:
    """Numbered slots of the core, made at first use."""

    __slots__ = ("_heap", "_id", "_kind", "size")

    def __init__(self, heap: Heap, *, stack: bool) -> None:
        self._heap = heap
        self._kind = lib.PYMEM_ROOTS_STACK if stack else lib.PYMEM_ROOTS_GLOBALS
        self._id: int | None = None
        self.size = 0
        """Slots there are."""

    def resize(self, n: int) -> None:
        """Have n slots; new ones hold 0."""
        if self._id is None:
            out = ffi.new("uint32_t *")
            self._heap.call(lib.pymem_roots_new, self._kind, out)
            self._id = int(out[0])
        self._heap.call(lib.pymem_roots_resize, self._id, n)
        self.size = n

    def set(self, first: int, addrs: list[int]) -> None:
        """Put addresses into the slots from `first` on."""
        if addrs:
            array = np.array(addrs, np.uint64)
            self._heap.call(lib.pymem_roots_set, self._id, first, pointer("uint64_t", array), len(array))

    def get(self, slot: int) -> int:
        """Return the address in a slot."""
        out = ffi.new("uint64_t *")
        self._heap.call(lib.pymem_roots_get, self._id, slot, out, 1)
        return int(out[0])

    def is_set(self, roots: int) -> bool:
        """Whether the core knows it by this number."""
        return self._id == roots

    def free(self) -> None:
        """Give all slots back."""
        if self._id is not None:
            self._heap.call(lib.pymem_roots_free, self._id)
            self._id, self.size = None, 0


def _address(value: Any) -> int:
    return byte_count(value, "address")


class _Names(Mapping[str, int]):
    """Slots by the names that a program has for them."""

    __slots__ = ("_slots",)

    _slots: dict[str, int]

    def __contains__(self, name: object) -> bool:
        return name in self._slots

    def __iter__(self) -> Iterator[str]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


class Roots(_Names, MutableMapping[str, int]):
    """Variables by name, each an address or 0 (nil): what they point to, and what that points to, lives."""

    __slots__ = ("_free", "_set")

    def __init__(self, heap: Heap, *, stack: bool) -> None:
        self._set = RootSet(heap, stack=stack)
        self._slots = {}
        self._free: list[int] = []

    def __getitem__(self, name: str) -> int:
        return self._set.get(self._slot(name))

    def __setitem__(self, name: str, addr: int) -> None:
        value = _address(addr)
        instance("a root's name", name, str, "a text")
        if name in self._slots:
            self._set.set(self._slots[name], [value])
            return
        slot = self._spare()
        self._set.set(slot, [value])
        self._slots[name] = self._free.pop()

    def __delitem__(self, name: str) -> None:
        slot = self._slot(name)
        self._set.set(slot, [0])
        del self._slots[name]
        self._free.append(slot)

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            raise KeyError(f"there is no root {name!r}: set it first")
        return self._slots[name]

    def _spare(self) -> int:
        """Return a slot without a name, the last of the free ones."""
        if not self._free:
            self._set.resize(self._set.size + 1)
            self._free.append(self._set.size - 1)
        return self._free[-1]

    def __repr__(self) -> str:
        return f"<Roots {', '.join(self) or 'none'}>"

    def name_of(self, roots: int, slot: int) -> str | None:
        """Return the name of a slot, if the core's set of this number is this one."""
        found = [name for name, s in self._slots.items() if s == slot] if self._set.is_set(roots) else []
        return found[0] if found else None

    def release(self) -> None:
        """Forget all of them."""
        self._set.free()
        self._slots.clear()
        self._free.clear()


class Stack:
    """The frames of a goroutine, the innermost last."""

    __slots__ = ("_heap", "frames", "roots")

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self.roots = RootSet(heap, stack=True)
        self.frames: list[Frame] = []

    def push(self, frame: Frame, values: list[int]) -> int:
        """Put a frame on top and return its first slot."""
        first = self.roots.size
        self.roots.resize(first + len(values))
        try:
            self.roots.set(first, values)
        except (PymemError, MemoryError):
            self.roots.resize(first)
            raise
        self.frames.append(frame)
        return first

    def pop(self, frame: Frame, first: int) -> None:
        """Take the frame on top off; that needs no memory."""
        if self.frames[-1] is not frame:
            raise ConfigError(
                "a frame is left while calls made from it still run: leave the inner frames first"
            )
        self.roots.resize(first)
        self.frames.pop()

    def name_of(self, roots: int, slot: int) -> str | None:
        """Return the name of a slot in its frame, if the core's set of this number is this one."""
        if not self.roots.is_set(roots):
            return None
        return next((name for frame in self.frames if (name := frame.name_of(slot)) is not None), None)

    @property
    def closed(self) -> bool:
        """Whether the runtime was closed."""
        return self._heap.closed

    def release(self) -> None:
        """Drop all frames."""
        self.roots.free()
        for frame in self.frames:
            frame.drop()
        self.frames.clear()


class Frame(_Names):
    """The variables of one call: `with g.frame(node=addr) as f: f["node"] = other`. Gone when it is left.

    Which variables there are is fixed at the beginning, as a compiler does it. 0 is nil.
    """

    __slots__ = ("_begin", "_first", "_stack")

    def __init__(self, stack: Stack, variables: Mapping[str, int]) -> None:
        self._stack = stack
        self._slots = {name: i for i, name in enumerate(variables)}
        self._begin = [_address(addr) for addr in variables.values()]
        self._first: int | None = None

    def __enter__(self) -> Self:
        if self._first is not None:
            raise ConfigError("this frame is entered already: ask g.frame() for another")
        self._first = self._stack.push(self, self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Take it off its stack, as the end of `with` does: for a frame found by `g.frames`."""
        if self._first is not None and not self._stack.closed:
            self._stack.pop(self, self._first)
        self._first = None

    def drop(self) -> None:
        """Know that it is on its stack no more: a goroutine's end takes all frames off."""
        self._first = None

    def _at(self, slot: int) -> int:
        if self._first is None:
            raise ConfigError("this frame is not entered: use it in `with g.frame(...) as f:`")
        return self._first + slot

    def __getitem__(self, name: str) -> int:
        return self._stack.roots.get(self._at(self._slot(name)))

    def __setitem__(self, name: str, addr: int) -> None:
        self._stack.roots.set(self._at(self._slot(name)), [_address(addr)])

    def name_of(self, slot: int) -> str | None:
        """Return the name of a slot of the stack, if it is this frame's."""
        return next((name for name, s in self._slots.items() if self._at(s) == slot), None)

    def _slot(self, name: str) -> int:
        if name not in self._slots:
            raise KeyError(f"the frame has no variable {name!r}: name it in g.frame({name}=...)")
        return self._slots[name]

    def __repr__(self) -> str:
        return f"<Frame {', '.join(self) or 'without variables'}>"
