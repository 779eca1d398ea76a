"""Types as plain values: rows of numbers and text that JSON can hold, and types made of them again.

A type is a row: its kind, its own name or None, and what it is made of. What lies in it (fields, elements) and an
interface's methods are numbers of rows before its own; what it only points to may be a row anywhere, which is how a
type refers to itself, or a name that is bound to none. Reading builds by the same classes that `pymem.types` uses, with
their checks: rows cannot name a class or run code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pymem import types
from pymem.errors import ConfigError
from pymem.layout import (
    Array,
    Chan,
    Direction,
    Func,
    Interface,
    Kind,
    Map,
    Pointer,
    Ref,
    Slice,
    Struct,
    Type,
    renamed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["read_types", "type_rows"]

_SIMPLE = {
    made.kind: made
    for made in (
        types.bool, types.int, types.int8, types.int16, types.int32, types.int64, types.uint, types.uint8,
        types.uint16, types.uint32, types.uint64, types.uintptr, types.float32, types.float64, types.complex64,
        types.complex128, types.string, types.unsafe_pointer,
    )
}  # fmt: skip
"""Those that are made of nothing else."""

# ---- to rows ----


def type_rows(all_: Iterable[Type | None]) -> tuple[list[list[Any]], list[int | None]]:
    """Return the rows of types and of all that they refer to, and each one's row; None has none.

    A function in a type is asked for what it stands for, and may raise.
    """
    writer = _Writer()
    places = [None if t is None else writer.place(t) for t in all_]
    return writer.rows(), places


def _parts(type_: Type) -> list[Type]:
    """Return the types that a type cannot be made without."""
    if isinstance(type_, Interface):
        return [func for _, func in type_._methods]
    if isinstance(type_, Array):
        return [type_.elem]
    return [f.type for f in type_.fields] if isinstance(type_, Struct) else []


class _Writer:
    """Gives each type a row, the parts of a type before it."""

    __slots__ = ("_places", "_types")

    def __init__(self) -> None:
        self._types: list[Type] = []
        self._places: dict[int, int] = {}  # by id(): equal types may have parts that are not the same object

    def place(self, type_: Type) -> int:
        if id(type_) not in self._places:
            for part in _parts(type_):
                self.place(part)
            self._places[id(type_)] = len(self._types)
            self._types.append(type_)
        return self._places[id(type_)]

    def rows(self) -> list[list[Any]]:
        """Return all rows; types that are referred to join at the end while it goes on."""
        return [[int(t.kind), t._name, *self._made_of(t)] for t in self._types]

    def _made_of(self, t: Type) -> list[Any]:
        match t:
            case Struct():
                return [[f.name, self.place(f.type), f.embedded] for f in t.fields]
            case Array():
                return [self.place(t.elem), t.length]
            case Interface():
                return [[name, self.place(func)] for name, func in t._methods]
            case Func():
                return [self._refs(t._params), self._refs(t._results), t.variadic]
            case Chan():
                return [*self._refs(t._refs()), t.direction]
            case _ if isinstance(t, Pointer | Slice | Map) or t.kind in _SIMPLE:
                return self._refs(t._refs())
        raise ConfigError(f"type {t} is none of pymem.types: it cannot go to a file")

    def _refs(self, refs: Iterable[Ref]) -> list[int | str]:
        return [str(ref) if ref.open else self.place(ref.type) for ref in refs]


# ---- from rows ----


def read_types(rows: list[Any], places: list[Any]) -> tuple[Type | None, ...]:
    """Return the types at these rows. Raises ValueError, LookupError, TypeError or PymemError where they are none."""
    reader = _Reader(len(rows))
    for row in rows:
        reader.read(row)
    reader.settle()
    return tuple(None if place is None else reader.made[_below(place, len(rows))] for place in places)


class _Reader:
    """Makes types row by row."""

    __slots__ = ("_n", "_refs", "made")

    def __init__(self, n: int) -> None:
        self._n = n
        self._refs: list[Ref] = []
        self.made: list[Type] = []

    def read(self, row: list[Any]) -> None:
        kind, name, *rest = row
        type_ = self._type(Kind(_is(kind, int)), rest)
        self.made.append(type_ if name is None else renamed(_is(name, str), type_))

    def settle(self) -> None:
        """Ask all references, now that all is there."""
        for ref in self._refs:
            _ = ref.open or ref.type

    def _type(self, kind: Kind, rest: list[Any]) -> Type:
        match kind, rest:
            case Kind.STRUCT, fields:
                return Struct([(_is(name, str), self._part(at), _is(own, bool)) for name, at, own in fields])
            case Kind.ARRAY, [elem, length]:
                return Array(self._part(elem), _is(length, int))
            case Kind.INTERFACE, methods:
                return Interface(tuple((_is(name, str), self._func(at)) for name, at in methods))
            case Kind.FUNC, [params, results, variadic]:
                return self._new_func(params, results, _is(variadic, bool))
        return self._pointing(kind, rest)

    def _pointing(self, kind: Kind, rest: list[Any]) -> Type:
        match kind, rest:
            case Kind.CHAN, [elem, direction]:
                return Chan(self._ref(elem), cast("Direction", _is(direction, str)))
            case Kind.POINTER, [elem]:
                return Pointer(self._ref(elem))
            case Kind.SLICE, [elem]:
                return Slice(self._ref(elem))
            case Kind.MAP, [key, elem]:
                return Map(self._ref(key), self._ref(elem))
            case _, [] if kind in _SIMPLE:
                return _SIMPLE[kind]
        raise ValueError(f"a {kind.name.lower()} is made of {rest!r:.60}")

    def _new_func(self, params: list[Any], results: list[Any], variadic: bool) -> Func:
        if variadic and not params:
            raise ValueError("a function repeats a parameter that it has not")
        return Func(tuple(map(self._ref, params)), tuple(map(self._ref, results)), variadic)

    def _part(self, at: Any) -> Type:
        return self.made[_below(at, len(self.made))]

    def _func(self, at: Any) -> Func:
        return cast("Func", _is(self._part(at), Func))

    def _ref(self, to: Any) -> Ref:
        if isinstance(to, str):
            return Ref(to)
        at = _below(to, self._n)
        ref = Ref(lambda: self.made[at])
        self._refs.append(ref)
        return ref


def _is(value: Any, cls: type[Any]) -> Any:
    if type(value) is not cls:
        raise ValueError(f"{value!r:.40} stands in a type where {cls.__name__} belongs")
    return value


def _below(value: Any, n: int) -> int:
    if not 0 <= _is(value, int) < n:
        raise ValueError(f"a type refers to row {value} of {n}")
    return int(value)
