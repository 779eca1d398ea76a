"""Go's types, by Go's words: `types.struct("Node", next=types.ptr("Node"), key=types.int64)`.

A type that refers to itself does so by its name, as above: a struct or `named` binds its own name in all it is made of.
For a type that comes later give a function: `types.ptr(lambda: Other)`. A name is bound once, by the first type of
that name around it. `Type.size`, `align`, `ptrdata`, `pointer_mask()`, `field(path)` tell what memory looks like.

The names are meant to be written with the module's: `types.int` is Go's int.
"""

from __future__ import annotations

import builtins

from pymem._arguments import instance
from pymem.errors import ConfigError
from pymem.layout import (
    INT,
    UINTPTR,
    UNSAFE,
    Array,
    Chan,
    Direction,
    Field,
    Func,
    Interface,
    Kind,
    Later,
    Map,
    Pointer,
    Ref,
    Slice,
    String,
    Struct,
    Type,
    named,
)

__all__ = [
    "Field",
    "Kind",
    "Pointer",
    "Type",
    "any",
    "array",
    "bool",
    "byte",
    "chan",
    "complex64",
    "complex128",
    "error",
    "float32",
    "float64",
    "func",
    "int",
    "int8",
    "int16",
    "int32",
    "int64",
    "interface",
    "map",
    "named",
    "ptr",
    "rune",
    "slice",
    "string",
    "struct",
    "uint",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uintptr",
    "unsafe_pointer",
]


def _basic(kind: Kind, size: builtins.int, format_: str) -> Type:
    align = size // 2 if kind in (Kind.COMPLEX64, Kind.COMPLEX128) else size
    return Type(kind, size=size, align=align, format_=format_)


bool = _basic(Kind.BOOL, 1, "?")
int = INT
int8 = _basic(Kind.INT8, 1, "i1")
int16 = _basic(Kind.INT16, 2, "<i2")
int32 = _basic(Kind.INT32, 4, "<i4")
int64 = _basic(Kind.INT64, 8, "<i8")
uint = _basic(Kind.UINT, 8, "<u8")
uint8 = _basic(Kind.UINT8, 1, "u1")
uint16 = _basic(Kind.UINT16, 2, "<u2")
uint32 = _basic(Kind.UINT32, 4, "<u4")
uint64 = _basic(Kind.UINT64, 8, "<u8")
uintptr = UINTPTR
float32 = _basic(Kind.FLOAT32, 4, "<f4")
float64 = _basic(Kind.FLOAT64, 8, "<f8")
complex64 = _basic(Kind.COMPLEX64, 8, "<c8")
complex128 = _basic(Kind.COMPLEX128, 16, "<c16")
byte = uint8
rune = int32
unsafe_pointer = UNSAFE
string = String()


def ptr(elem: Later) -> Pointer:
    """Return `*elem`."""
    return Pointer(Ref(elem))


def array(elem: Type, length: builtins.int) -> Array:
    """Return `[length]elem`."""
    return Array(_whole(elem), length)


def slice(elem: Later) -> Slice:
    """Return `[]elem`: the three words; the elements are an object of their own."""
    return Slice(Ref(elem))


def map(key: Later, elem: Later) -> Map:
    """Return `map[key]elem`: one pointer."""
    return Map(Ref(key), Ref(elem))


def chan(elem: Later, *, direction: Direction = "both") -> Chan:
    """Return `chan elem`: one pointer. direction: "receive" for `<-chan`, "send" for `chan<-`."""
    return Chan(Ref(elem), direction)


def func(*params: Later, results: tuple[Later, ...] = (), variadic: builtins.bool = False) -> Func:
    """Return `func(params) results`: one pointer. variadic: the last parameter, a slice, is written `...`."""
    if variadic and not (params and isinstance(params[-1], Slice)):
        raise ConfigError("variadic: the last parameter is a slice of what may be repeated")
    if not isinstance(results, tuple | list):
        raise ConfigError(f"results={results!r}: give a tuple of types, such as results=(types.int,)")
    return Func(tuple(Ref(p) for p in params), tuple(Ref(r) for r in results), variadic)


def interface(**methods: Func) -> Interface:
    """Return an interface with these methods."""
    for name, method in methods.items():
        instance(f"method {name}", method, Func, "a types.func(...)")
    return Interface(tuple(methods.items()))


any = interface()
error = named("error", interface(Error=func(results=(string,))))


def struct(*parts: str | Type | tuple[str, Type], **fields: Type) -> Type:
    """Return a struct: first its name if it has one, then its fields in order.

    Fields are keywords, or pairs of name and type where a name is not unique (`_`), or a type alone, which is embedded:
    `struct("T", Base, ("_", types.int8), next=types.ptr("T"))`.
    """
    name = parts[0] if parts and isinstance(parts[0], str) else None
    own = parts[1:] if name is not None else parts
    new = Struct([_field(part) for part in own] + [(k, _whole(v, k), False) for k, v in fields.items()])
    return new if name is None else named(name, new)


def _field(part: str | Type | tuple[str, Type]) -> tuple[str, Type, builtins.bool]:
    if isinstance(part, Type):
        return _embedded_name(part), part, True
    if isinstance(part, tuple) and len(part) == 2:
        return part[0], _whole(part[1], part[0]), False
    raise ConfigError(f"{part!r} is no field: give name=type, a pair (name, type), or a type to embed")


def _embedded_name(type_: Type) -> str:
    base = type_.elem if isinstance(type_, Pointer) else type_
    if not base.named and not base.name.isidentifier():
        raise ConfigError(f"{type_} cannot be embedded: only a type with a name can, or a pointer to one")
    return base.name.rsplit(".", 1)[-1]


def _whole(type_: Type, what: str = "an element") -> Type:
    if not isinstance(type_, Type):
        raise ConfigError(
            f"{what!r} is {type_!r}, not a type: a value lies in the type itself; only ptr, slice, map, "
            "chan and func take a name or a function"
        )
    return type_
