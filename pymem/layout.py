"""Go's types as memory sees them: size, alignment, and which words hold pointers. `pymem.types` is how to make them.

Two rules of Go's layout surprise: a struct that ends in a field of size 0 is a byte longer, so that the field's address
does not lie in the next object; and of an interface's two words only the second counts as a pointer, since the first
never points into the heap. Sizes and offsets are bytes, of linux/amd64. Go: cmd/compile/internal/types.CalcSize.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from pymem._arguments import instance, whole
from pymem.errors import ConfigError, SizeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

__all__ = [
    "INT",
    "UINTPTR",
    "UNSAFE",
    "Array",
    "Chan",
    "Direction",
    "Field",
    "Func",
    "Interface",
    "Kind",
    "Later",
    "Map",
    "Pointer",
    "Ref",
    "Slice",
    "String",
    "Struct",
    "Type",
    "alike",
    "named",
    "renamed",
]

WORD = 8
"""Bytes of a pointer."""
_MOST = 1 << 50
"""Bytes that no type reaches. Go: types.MaxWidth."""
_LONG = 1 << 15
"""Bytes of an array whose pointer map is kept word by word."""
_MOST_MASK = 1 << 33
"""Bytes that a mask written out may stand for: it takes an eighth of them."""
_MOST_CHAN = 1 << 16
"""Bytes that no channel's element reaches."""
_STEP = re.compile(r"\.?([^\W\d]\w*)|\[(\d+)\]")

Direction = Literal["both", "receive", "send"]


class Kind(IntEnum):
    """What a type is at bottom, with the numbers of Go's `reflect.Kind`."""

    BOOL = 1
    INT = 2
    INT8 = 3
    INT16 = 4
    INT32 = 5
    INT64 = 6
    UINT = 7
    UINT8 = 8
    UINT16 = 9
    UINT32 = 10
    UINT64 = 11
    UINTPTR = 12
    FLOAT32 = 13
    FLOAT64 = 14
    COMPLEX64 = 15
    COMPLEX128 = 16
    ARRAY = 17
    CHAN = 18
    FUNC = 19
    INTERFACE = 20
    MAP = 21
    POINTER = 22
    SLICE = 23
    STRING = 24
    STRUCT = 25
    UNSAFE_POINTER = 26


class Type:
    """A Go type. Compare with `==`: named types are equal only to themselves, others to those built alike.

    Nothing of a type changes once it is made, but that a name in it may be bound (see `pymem.types`).
    """

    __slots__ = ("_dtype", "_fields", "_format", "_name", "_paths", "align", "kind", "ptrdata", "size")

    def __init__(
        self,
        kind: Kind,
        *,
        size: int,
        align: int,
        ptrdata: int = 0,
        name: str | None = None,
        format_: str = "",
        fields: tuple[Field, ...] = (),
    ) -> None:
        if size >= _MOST:
            raise SizeError(f"a type of {size} bytes is larger than the address space: make it smaller")
        self.kind = kind
        self.size = size
        """Bytes of one value."""
        self.align = align
        """Its address is a multiple of this, in a variable and in a struct."""
        self.ptrdata = ptrdata
        """Bytes up to the end of the last word that may hold a pointer; 0: it holds none. Go: PtrBytes."""
        self._name = name
        self._format = format_  # numpy's, of a value without fields
        self._fields = fields
        self._paths: dict[str, int] = {}  # pointer_at, remembered
        self._dtype: np.dtype[Any] | None = None  # the same

    # ---- what it is called ----

    @property
    def name(self) -> str:
        """The type as Go prints it: its own name, or how it is built."""
        if self._name is not None:
            return self._name
        try:
            return self._literal()
        except RecursionError:
            raise ConfigError("a type refers to itself through no name: name it with types.named()") from None

    @property
    def named(self) -> bool:
        """Whether it has a name of its own."""
        return self._name is not None

    def _literal(self) -> str:
        return self.kind.name.lower()

    def __repr__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if type(other) is not type(self) or self._name is not None or other._name is not None:
            return False
        return self._shape() == other._shape()

    def __hash__(self) -> int:
        return hash((self.kind, self.size, self.ptrdata, self._name))

    def _shape(self) -> tuple[object, ...]:
        """Return what makes two types without names the same."""
        return (self.kind, *self._refs())

    # ---- what it refers to ----

    def _refs(self) -> tuple[Ref, ...]:
        """Return the types it refers to, by value or not."""
        return ()

    # ---- where its parts are ----

    @property
    def fields(self) -> tuple[Field, ...]:
        """A struct's fields; of a string, slice or interface the words it consists of."""
        return self._fields

    def field(self, path: str) -> Field:
        """Return the part that a path like `children[2].next` names, its offset counted from the beginning.

        Fields of embedded structs are found as in Go, the least deep first. A path does not go through pointers.
        """
        instance("path", path, str, "a text such as 'children[2].next'")
        here, at = Field("", 0, self), 0
        while at < len(path) or not path:
            step = _STEP.match(path, at)
            if step is None or (at == 0 and path[0] == "."):
                raise ConfigError(f"path {path!r}: write it as in Go, like 'children[2].next'")
            next_ = here.type._promoted(step[1]) if step[1] else here.type._at(int(step[2]))
            here = Field(path, here.offset + next_.offset, next_.type, next_.embedded)
            at = step.end()
        return here

    def _at(self, index: int) -> Field:
        raise ConfigError(f"{self} has no elements that lie in it: [{index}] is not part of it")

    def _promoted(self, name: str) -> Field:
        level = [Field("", 0, self)]
        while level:
            found = [_inside(outer, f) for outer in level for f in outer.type._fields if f.name == name]
            if len(found) == 1:
                return found[0]
            if found:
                raise ConfigError(
                    f"{self} has {len(found)} fields {name!r} at one depth: name the outer one too"
                )
            level = [_inside(outer, f) for outer in level for f in outer.type._fields if f.promotes]
        raise ConfigError(f"{self} has no field {name!r}: {self._known()}")

    def _known(self) -> str:
        if not self._fields:
            return "it has no fields at all"
        return "it has " + ", ".join(f.name for f in self._fields)

    # ---- where its pointers are ----

    @property
    def noscan(self) -> bool:
        """Whether it holds no pointers."""
        return self.ptrdata == 0

    def pointer_mask(self) -> npt.NDArray[np.bool_]:
        """Return for each word up to `ptrdata` whether it may hold a pointer. Go: its GC mask."""
        mask = np.zeros(self.ptrdata // WORD, np.bool_)
        for f in self._fields:
            if f.type.ptrdata:
                part = f.type.pointer_mask()
                mask[f.offset // WORD :][: len(part)] = part
        return mask

    def pointer_words(self) -> npt.NDArray[np.uint64]:
        """Return the pointer mask with 64 words in each element, the first in the lowest bit."""
        mask = self.pointer_mask()
        bits = np.zeros(-(-len(mask) // 64) * 64, np.bool_)
        bits[: len(mask)] = mask
        return np.packbits(bits, bitorder="little").view(np.uint64)

    def repeated(self) -> Type:
        """Return a type whose pointer map, again and again, is this one's: of a long array a few of its elements."""
        return self

    def pointer_at(self, path: str) -> int:
        """Return the offset of the pointer in a field: of a slice's or string's bytes, an interface's value.

        The empty path is the type itself.
        """
        offset = self._paths.get(instance("path", path, str, "a text such as 'children[2].next'"))
        if offset is None:
            field = self.field(path) if path else Field("", 0, self)
            words = np.flatnonzero(field.type.pointer_mask())
            if len(words) != 1:
                raise ConfigError(
                    f"{path!r} is a {field.type} with {len(words)} pointers: name one pointer in it"
                )
            offset = self._paths[path] = field.offset + WORD * int(words[0])
        return offset

    # ---- as numpy sees it ----

    @property
    def dtype(self) -> np.dtype[Any]:
        """A value's bytes as numpy reads them: pointers are uint64; blank fields are left out."""
        if self._dtype is None:
            self._dtype = self._numpy()
        return self._dtype

    def _numpy(self) -> np.dtype[Any]:
        if self._format:
            return np.dtype(self._format)
        seen = [f for f in self._fields if f.name != "_"]
        return np.dtype(
            {
                "names": [f.name for f in seen],
                "formats": [f.type.dtype for f in seen],
                "offsets": [f.offset for f in seen],
                "itemsize": self.size,
            }
        )


@dataclass(frozen=True, slots=True)
class Field:
    """A part of a type: a struct's field, or what `Type.field` found."""

    name: str
    offset: int
    """Bytes from the beginning of the type that was asked."""
    type: Type
    embedded: bool = False

    @property
    def promotes(self) -> bool:
        """Whether its own fields may be named as if they were those of the struct around it."""
        return self.embedded and self.type.kind is Kind.STRUCT


def _inside(outer: Field, inner: Field) -> Field:
    return Field(inner.name, outer.offset + inner.offset, inner.type, inner.embedded)


Later: TypeAlias = Type | str | Callable[[], Type]
"""A type, the name of one around it, or a function that returns one."""


class Ref:
    """A type that another one refers to, perhaps by a name that is bound later or a function to be asked."""

    __slots__ = ("_source", "_target")

    def __init__(self, source: Later) -> None:
        self._source = source
        self._target = source if isinstance(source, Type) else None
        if not (self._target or isinstance(source, str) or callable(source)):
            raise ConfigError(f"{source!r} is no type: give one of pymem.types, a name, or a function")

    @property
    def type(self) -> Type:
        """The type. ConfigError while its name is bound to none."""
        if self._target is None:
            if isinstance(self._source, str):
                raise ConfigError(
                    f"type {self._source!r} is not known here: only a type around it is found by name; "
                    f"for another one give a function, like ptr(lambda: {self._source})"
                )
            found = self._source() if not isinstance(self._source, Type) else self._source
            if not isinstance(found, Type):
                raise ConfigError(f"the function returned {found!r}, which is no type of pymem.types")
            self._target = found
        return self._target

    @property
    def known(self) -> Type | None:
        """The type as far as it is known without asking a function."""
        return self._target

    @property
    def open(self) -> bool:
        """Whether it is a name that is not bound yet."""
        return self._target is None and isinstance(self._source, str)

    def bind(self, name: str, target: Type) -> None:
        """Refer to the target if this is a name that is free, and this one."""
        if self._target is None and self._source == name:
            self._target = target

    def __str__(self) -> str:
        return str(self._source) if self.open else self.type.name

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return False
        if self.open or other.open:
            return self.open and other.open and self._source == other._source
        return self.type == other.type

    def __hash__(self) -> int:
        return hash(Ref)


def _bind(target: Type, name: str) -> None:
    """Bind a name in all that a type refers to. Functions are not asked: what they refer to is bound elsewhere."""
    todo, seen = [target], {id(target)}
    while todo:
        for ref in todo.pop()._refs():
            ref.bind(name, target)
            inner = ref.known
            if inner is not None and id(inner) not in seen:
                seen.add(id(inner))
                todo.append(inner)


def named(name: str, type_: Type) -> Type:
    """Return a new type of this name that is built like another; the name is bound in it."""
    instance("a type's name", name, str, "a text")
    new = renamed(name, instance(f"type {name!r}", type_, Type, "one of pymem.types"))
    _bind(new, name)
    return new


def renamed(name: str, type_: Type) -> Type:
    """Do so, but leave the name in it as it is."""
    new = copy.copy(type_)
    new._name = name
    new._paths = {}
    return new


def alike(one: Type, other: Type) -> bool:
    """Whether two types are equal as far as they lie in memory: fields, elements and pointers, not what these point to.

    Unlike `==` it asks no function and knows no difference between named types of one name.
    """
    if one is other:
        return True
    if (one.kind, one.size, one.ptrdata, one._name) != (other.kind, other.size, other.ptrdata, other._name):
        return False
    if isinstance(one, Array) and isinstance(other, Array):
        return one.length == other.length and alike(one.elem, other.elem)
    fields = list(zip(one.fields, other.fields, strict=False))
    return len(one.fields) == len(other.fields) and all(
        (a.name, a.offset, a.embedded) == (b.name, b.offset, b.embedded) and alike(a.type, b.type)
        for a, b in fields
    )


class _Of(Type):
    """A type made of one other: what it points to, carries, or has many of."""

    __slots__ = ()

    _elem: Ref

    @property
    def elem(self) -> Type:
        """The type it is made of."""
        return self._elem.type

    def _refs(self) -> tuple[Ref, ...]:
        return (self._elem,)


class _OneWord(Type):
    """A type whose values are one pointer."""

    __slots__ = ()

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind, size=WORD, align=WORD, ptrdata=WORD, format_="<u8")

    def pointer_mask(self) -> npt.NDArray[np.bool_]:
        return np.ones(1, np.bool_)


class UnsafePointer(_OneWord):
    """A pointer to anything."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Kind.UNSAFE_POINTER)

    def _literal(self) -> str:
        return "unsafe.Pointer"


class Pointer(_Of, _OneWord):
    """A pointer to a type."""

    __slots__ = ("_elem",)

    def __init__(self, elem: Ref) -> None:
        super().__init__(Kind.POINTER)
        self._elem = elem

    def _literal(self) -> str:
        return f"*{self._elem}"


class Map(_OneWord):
    """A map: a pointer to Go's `maps.Map`."""

    __slots__ = ("_elem", "_key")

    def __init__(self, key: Ref, elem: Ref) -> None:
        super().__init__(Kind.MAP)
        self._key, self._elem = key, elem

    @property
    def key(self) -> Type:
        """What it is asked with."""
        return self._key.type

    @property
    def elem(self) -> Type:
        """What it answers."""
        return self._elem.type

    def _refs(self) -> tuple[Ref, ...]:
        return self._key, self._elem

    def _literal(self) -> str:
        return f"map[{self._key}]{self._elem}"


class Chan(_Of, _OneWord):
    """A channel: a pointer to Go's `hchan`."""

    __slots__ = ("_elem", "direction")

    def __init__(self, elem: Ref, direction: Direction) -> None:
        super().__init__(Kind.CHAN)
        if direction not in ("both", "receive", "send"):
            raise ConfigError(f"direction={direction!r}: give 'both', 'receive' or 'send'")
        if elem.known and elem.known.size >= _MOST_CHAN:
            raise SizeError(f"a channel's element is below {_MOST_CHAN} bytes: send a pointer")
        self._elem, self.direction = elem, direction

    def _shape(self) -> tuple[object, ...]:
        return (self.direction, self._elem)

    def _literal(self) -> str:
        elem = str(self._elem)
        if self.direction == "receive":
            return f"<-chan {elem}"
        if self.direction == "send":
            return f"chan<- {elem}"
        return f"chan ({elem})" if elem.startswith("<-") else f"chan {elem}"


class Func(_OneWord):
    """A function: a pointer to its closure."""

    __slots__ = ("_params", "_results", "variadic")

    def __init__(self, params: tuple[Ref, ...], results: tuple[Ref, ...], variadic: bool) -> None:
        super().__init__(Kind.FUNC)
        self._params, self._results, self.variadic = params, results, variadic

    def _refs(self) -> tuple[Ref, ...]:
        return self._params + self._results

    def _shape(self) -> tuple[object, ...]:
        return (self.variadic, self._params, self._results)

    def signature(self) -> str:
        """Return parameters and results as Go prints them."""
        params = [str(p) for p in self._params]
        if self.variadic:
            params[-1] = "..." + params[-1].removeprefix("[]")
        results = ", ".join(str(r) for r in self._results)
        after = "" if not results else f" ({results})" if len(self._results) > 1 else f" {results}"
        return f"({', '.join(params)}){after}"

    def _literal(self) -> str:
        return "func" + self.signature()


class _Header(Type):
    """A type whose values are a pointer and what belongs to it."""

    __slots__ = ()

    def __init__(self, kind: Kind, fields: Sequence[tuple[str, Type]], ptrdata: int) -> None:
        parts = tuple(Field(name, WORD * i, type_) for i, (name, type_) in enumerate(fields))
        super().__init__(kind, size=WORD * len(parts), align=WORD, ptrdata=ptrdata, fields=parts)


INT = Type(Kind.INT, size=8, align=8, format_="<i8")
UINTPTR = Type(Kind.UINTPTR, size=8, align=8, format_="<u8")
UNSAFE = UnsafePointer()


class String(_Header):
    """A string: where its bytes are, and how many."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Kind.STRING, [("data", UNSAFE), ("len", INT)], WORD)


class Slice(_Of, _Header):
    """A slice: where its elements are, how many, and how many there is room for."""

    __slots__ = ("_elem",)

    def __init__(self, elem: Ref) -> None:
        super().__init__(Kind.SLICE, [("array", UNSAFE), ("len", INT), ("cap", INT)], WORD)
        self._elem = elem

    def _literal(self) -> str:
        return f"[]{self._elem}"


class Interface(_Header):
    """An interface: a word for the value's type, which the collector does not follow, and one for the value."""

    __slots__ = ("_methods",)

    def __init__(self, methods: tuple[tuple[str, Func], ...]) -> None:
        super().__init__(Kind.INTERFACE, [("tab", UINTPTR), ("data", UNSAFE)], 2 * WORD)
        self._methods = tuple(sorted(methods, key=lambda method: method[0]))

    def _refs(self) -> tuple[Ref, ...]:
        return tuple(ref for _, func in self._methods for ref in func._refs())

    def _shape(self) -> tuple[object, ...]:
        return self._methods

    def _literal(self) -> str:
        inside = "; ".join(name + func.signature() for name, func in self._methods)
        return f"interface {{ {inside} }}" if inside else "interface {}"


class Array(_Of, Type):
    """So many values of one type, one after another."""

    __slots__ = ("_elem", "length")

    def __init__(self, elem: Type, length: int) -> None:
        length = whole("an array's length", length, 0, error=SizeError)
        last = elem.size * (length - 1) + elem.ptrdata if length and elem.ptrdata else 0
        super().__init__(Kind.ARRAY, size=elem.size * length, align=elem.align, ptrdata=last)
        self._elem, self.length = Ref(elem), length

    def _shape(self) -> tuple[object, ...]:
        return (self.length, self._elem)

    def _literal(self) -> str:
        return f"[{self.length}]{self._elem}"

    def _at(self, index: int) -> Field:
        if index >= self.length:
            raise ConfigError(f"{self} has no element [{index}]: the last is [{self.length - 1}]")
        return Field("", index * self.elem.size, self.elem)

    def repeated(self) -> Type:
        """Return a few of its elements where a map of all would be long."""
        if self.ptrdata <= _LONG:
            return self
        elem = self.elem.repeated()
        n = self.size // elem.size
        many = next((k for k in range(_LONG // 8 // elem.size, 1, -1) if n % k == 0), 1)
        return Array(elem, many) if many > 1 else elem

    def pointer_mask(self) -> npt.NDArray[np.bool_]:
        """Return the element's mask as often as there are elements."""
        if not self.ptrdata:
            return np.zeros(0, np.bool_)
        if self.ptrdata > _MOST_MASK:
            raise SizeError(
                f"the pointer mask of {self} does not fit into memory: ask its element for its own"
            )
        part = self.elem.pointer_mask()
        each = np.zeros((self.length, self.elem.size // WORD), np.bool_)
        each[:, : len(part)] = part
        return each.reshape(-1)[: self.ptrdata // WORD]

    def _numpy(self) -> np.dtype[Any]:
        return np.dtype((self.elem.dtype, (self.length,)))


class Struct(Type):
    """Fields one after another, each at a multiple of its alignment."""

    __slots__ = ()

    def __init__(self, fields: Sequence[tuple[str, Type, bool]]) -> None:
        _check_names([name for name, _, _ in fields])
        parts = tuple(_placed(fields))
        align = max((f.type.align for f in parts), default=1)
        end = parts[-1].offset + parts[-1].type.size if parts else 0
        if end and parts[-1].type.size == 0:
            end += 1  # a field of size 0 at the end has its address inside
        pointers = [f.offset + f.type.ptrdata for f in parts if f.type.ptrdata]
        super().__init__(
            Kind.STRUCT,
            size=_round_up(end, align),
            align=align,
            ptrdata=pointers[-1] if pointers else 0,
            fields=parts,
        )

    def _refs(self) -> tuple[Ref, ...]:
        return tuple(Ref(f.type) for f in self._fields)

    def _shape(self) -> tuple[object, ...]:
        return self._fields

    def _literal(self) -> str:
        inside = "; ".join(f.type.name if f.embedded else f"{f.name} {f.type}" for f in self._fields)
        return f"struct {{ {inside} }}" if inside else "struct {}"


def _round_up(n: int, align: int) -> int:
    return -(-n // align) * align


def _placed(fields: Sequence[tuple[str, Type, bool]]) -> Iterator[Field]:
    offset = 0
    for name, type_, embedded in fields:
        offset = _round_up(offset, type_.align)
        yield Field(name, offset, type_, embedded)
        offset += type_.size


def _check_names(names: list[str]) -> None:
    own = [name for name in names if name != "_"]
    for name in own:
        if not instance("a field's name", name, str, "a Go identifier").isidentifier():
            raise ConfigError(f"field {name!r}: give a Go identifier")
    if len(set(own)) != len(own):
        twice = next(name for name in own if own.count(name) > 1)
        raise ConfigError(f"field {twice!r} is there twice: give it another name")
