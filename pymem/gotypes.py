"""The types that one runtime knows, each by a number: those of `pymem.types`, and some by name and size alone."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pymem._arrays import byte_count, pointer
from pymem._native import lib
from pymem.errors import ConfigError, SizeError
from pymem.layout import Type, alike

if TYPE_CHECKING:
    import numpy.typing as npt

    from pymem._arrays import UInt64s
    from pymem._heap import Heap

__all__ = ["AnyType", "GoType", "TypeTable"]


@dataclass(frozen=True, slots=True)
class GoType:
    """A type as a runtime knows it."""

    id: int
    """Its number in the runtime that registered it; 0 is no type."""
    name: str
    size: int
    """Bytes of one value."""
    noscan: bool
    """Whether its values hold no pointers."""
    layout: Type | None = None
    """Where its pointers and fields are. Without one, each word of an object may be a pointer."""


AnyType: TypeAlias = GoType | Type | int
"""A type of `pymem.types`, one that a runtime registered, or its id."""


class TypeTable:
    """Types by id, in the order of registration."""

    __slots__ = ("_by_layout", "_heap", "_noscan", "_sizes", "_strange", "types")

    def __init__(self, heap: Heap) -> None:
        self._heap = heap
        self.types = [GoType(0, "", 0, False)]
        self._by_layout: dict[Type, GoType] = {}
        self._strange: set[int] = (
            set()
        )  # ids whose layout is a file's: the program has not come with its own yet
        self._noscan = np.zeros(1, np.bool_)
        self._sizes = np.ones(1, np.uint64)  # an object has a multiple of it; 1 where no layout says so

    def register(self, name: str, size: int, noscan: bool) -> GoType:
        """Add a type of which no more is known under the next id."""
        return self._add(GoType(len(self.types), name, byte_count(size), bool(noscan)))

    def register_layout(self, type_: Type) -> GoType:
        """Return a type of `pymem.types` as registered; at first use it gets the next id, and the heap its mask."""
        known = self._by_layout.get(type_) or self._recognised(type_)
        if known is not None:
            return known
        new = GoType(len(self.types), type_.name, type_.size, type_.noscan, type_)
        if new.size:
            part = type_.repeated()
            words = part.pointer_words()
            mask = pointer("uint64_t", words)
            self._heap.call(
                lib.pymem_memory_on
            )  # before its objects: later their sizes are known by slot only
            self._heap.call(lib.pymem_type_add, new.id, part.size, part.ptrdata, mask, len(words))
        self._by_layout[type_] = new
        return self._add(new)

    def _add(self, new: GoType) -> GoType:
        self.types.append(new)
        self._noscan = np.append(self._noscan, new.noscan)
        self._sizes = np.append(self._sizes, np.uint64(max(new.size, 1) if new.layout else 1))
        return new

    # ---- for snapshots ----

    @property
    def strange(self) -> frozenset[int]:
        """Ids of the types that were read from a file, and that no program has used by a type of its own since."""
        return frozenset(self._strange)

    def restore(self, name: str, size: int, *, noscan: bool, layout: Type | None, strange: bool) -> None:
        """Add a type that the heap has already. strange: its layout is a file's."""
        if layout is not None and (layout.name, layout.size, layout.noscan) != (name, size, noscan):
            raise ConfigError(f"type {name!r} is said to be {layout} of {layout.size} bytes")
        new = self._add(GoType(len(self.types), name, byte_count(size), noscan, layout))
        if layout is not None:
            self._by_layout.setdefault(layout, new)
            if strange:
                self._strange.add(new.id)

    def _recognised(self, type_: Type) -> GoType | None:
        """Return a file's type that lies in memory as this one, which takes its place from now on."""
        for id_ in sorted(self._strange):
            old = self.types[id_]
            if old.layout is not None and old.name == type_.name and alike(old.layout, type_):
                self._strange.remove(id_)
                found = self._by_layout[type_] = self.types[id_] = replace(old, layout=type_)
                return found
        return None

    def find(self, type_: AnyType) -> GoType:
        """Return the type that an id, a GoType or one of `pymem.types` names; the last is registered at first use."""
        if isinstance(type_, Type):
            return self.register_layout(type_)
        id_ = type_.id if isinstance(type_, GoType) else self._index(type_)
        if not 0 <= id_ < len(self.types):
            raise ConfigError(f"type {id_} is not registered: add it with register_type()")
        found = self.types[id_]
        if isinstance(type_, GoType) and found is not type_ and found != type_:
            raise ConfigError(f"type {type_.name!r} belongs to another runtime: register it with this one")
        return found

    @staticmethod
    def _index(type_: Any) -> int:
        try:
            return operator.index(type_)
        except TypeError:
            raise ConfigError(f"type {type_!r}: give a GoType or its id, or one of pymem.types") from None

    def ids(self, types: Any, n: int) -> npt.NDArray[np.uint32]:
        """Return an array of n type ids, each of them registered."""
        if isinstance(types, (list, tuple)) and any(isinstance(t, (GoType, Type)) for t in types):
            types = np.array([self.find(t).id for t in types], np.uint32)
        array = np.asarray(types)
        if array.shape != (n,) or (n and array.dtype.kind not in "ui"):
            raise ConfigError(
                f"types: give {n} type ids in an array, not {array.dtype} of shape {array.shape}"
            )
        unknown = (array < 0) | (array >= len(self.types))
        if unknown.any():
            raise ConfigError(f"type {array[unknown][0]} is not registered: add it with register_type()")
        return np.ascontiguousarray(array, np.uint32)

    def noscan(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
        """Return for each type id whether its values hold no pointers; objects without a type may hold some."""
        return self._noscan[ids]

    def check_noscan(self, type_: GoType) -> None:
        """Raise ConfigError where an object of a type with pointers would be one without: a mark would miss them."""
        if type_.layout is not None and not type_.noscan:
            raise ConfigError(
                f"noscan=True, but a {type_.name} has pointers: leave noscan out, the type says it"
            )

    def check_noscans(self, ids: npt.NDArray[np.uint32], noscan: npt.NDArray[np.uint8] | bool) -> None:
        """Do so for many objects."""
        for id_ in np.unique(ids if noscan is True else ids[:0] if noscan is False else ids[noscan != 0]):
            self.check_noscan(self.types[id_])

    def check_size(self, id_: int, size: int) -> None:
        """Raise SizeError where an object would hold a part of a value."""
        type_ = self.types[id_]
        if size % int(self._sizes[id_]):
            raise SizeError(f"{size} bytes hold no whole number of {type_.name} of {type_.size} bytes")

    def check_sizes(self, ids: npt.NDArray[np.uint32], sizes: UInt64s) -> None:
        """Do so for many objects."""
        if not self._by_layout:
            return
        one = self._sizes[ids]
        if (sizes != one).any():
            wrong = np.flatnonzero(sizes % one)
            if len(wrong):
                self.check_size(int(ids[wrong[0]]), int(sizes[wrong[0]]))
