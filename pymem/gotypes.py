"""The types that a runtime's objects may have. Full Go types, with their pointers, come with the tracing collector."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._arrays import byte_count
from pymem.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["GoType", "TypeTable"]


@dataclass(frozen=True, slots=True)
class GoType:
    """A type by name: what a heap needs to know of it."""

    id: int
    """Its number in the runtime that registered it; 0 is no type."""
    name: str
    size: int
    """Bytes of one value."""
    noscan: bool
    """Whether its values hold no pointers."""


class TypeTable:
    """Types by id, in the order of registration."""

    __slots__ = ("_noscan", "types")

    def __init__(self) -> None:
        self.types = [GoType(0, "", 0, False)]
        self._noscan = np.zeros(1, np.bool_)

    def register(self, name: str, size: int, noscan: bool) -> GoType:
        """Add a type under the next id."""
        new = GoType(len(self.types), name, byte_count(size), bool(noscan))
        self.types.append(new)
        self._noscan = np.append(self._noscan, new.noscan)
        return new

    def find(self, type_: GoType | int) -> GoType:
        """Return the registered type that an id or a GoType names."""
        id_ = type_.id if isinstance(type_, GoType) else self._index(type_)
        if not 0 <= id_ < len(self.types):
            raise ConfigError(f"type {id_} is not registered: add it with register_type()")
        found = self.types[id_]
        if isinstance(type_, GoType) and found != type_:
            raise ConfigError(f"type {type_.name!r} belongs to another runtime: register it with this one")
        return found

    @staticmethod
    def _index(type_: Any) -> int:
        try:
            return operator.index(type_)
        except TypeError:
            raise ConfigError(f"type {type_!r}: give a GoType or its id") from None

    def ids(self, types: Any, n: int) -> npt.NDArray[np.uint32]:
        """Return an array of n type ids, each of them registered."""
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
