"""Go's types: layout, pointer masks and names as real Go has them, and how they are made and asked."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import layouts

import pymem
from pymem import types
from pymem.errors import ConfigError, PymemError, SizeError
from pymem.layout import Later, Type, alike
from pymem.record.overlay import Toolchain
from pymem.typefile import read_types, type_rows

GOLDEN: list[dict[str, Any]] = json.loads(layouts.GOLDEN.read_text())["rows"]


class Built:
    """Described types (see `oracle.layouts`) as ours."""

    def __init__(self) -> None:
        self.names: dict[str, Type] = {}
        self.basic: dict[str, Type] = {
            name: getattr(types, name.replace("unsafe.P", "unsafe_p")) for name in layouts.BASIC
        }

    def make(self, d: layouts.Described) -> Type:
        if isinstance(d, str):
            return self.basic[d]
        kind, *parts = d
        made: Type = getattr(self, "_" + kind)(*parts)
        return made

    def later(self, d: layouts.Described) -> Later:
        return "main." + d[1] if d[0] == "ref" else self.make(d)

    def _named(self, name: str, of: layouts.Described) -> Type:
        if name not in self.names:
            self.names[name] = types.named("main." + name, self.make(of))
        return self.names[name]

    def _ptr(self, elem: layouts.Described) -> Type:
        return types.ptr(self.later(elem))

    def _slice(self, elem: layouts.Described) -> Type:
        return types.slice(self.later(elem))

    def _array(self, n: int, elem: layouts.Described) -> Type:
        return types.array(self.make(elem), n)

    def _map(self, key: layouts.Described, elem: layouts.Described) -> Type:
        return types.map(self.later(key), self.later(elem))

    def _chan(self, direction: Any, elem: layouts.Described) -> Type:
        return types.chan(self.later(elem), direction=direction)

    def _func(self, params: list[Any], results: list[Any], variadic: str = "") -> Any:
        ins, outs = ([self.later(d) for d in part] for part in (params, results))
        return types.func(*ins, results=tuple(outs), variadic=bool(variadic))

    def _interface(self, *methods: Any) -> Type:
        return types.interface(**{name: self._func(*signature) for name, *signature in methods})

    def _struct(self, *fields: Any) -> Type:
        made = [(name, self.make(d)) for name, d in fields]
        return types.struct(*(t if name is None else (name, t) for name, t in made))


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Type, dict[str, Any]]]:
    """Return each type of the golden file with what Go said of it."""
    built = Built()
    return [(built.make(row["type"]), row) for row in GOLDEN]


def test_rows(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    """Types through a file are as Go has them, and go to a file as the same rows again."""
    rows, places = type_rows([None, *(t for t, _ in pairs)])
    nothing, *read = read_types(json.loads(json.dumps(rows)), places)
    assert nothing is None
    assert type_rows([None, *read]) == (rows, places)
    for (want, _), got in zip(pairs, read, strict=True):
        assert got is not None
        assert alike(want, got)
        assert (got.name, got.align, got.named) == (want.name, want.align, want.named)
        assert np.array_equal(got.pointer_mask(), want.pointer_mask())
        assert got.dtype == want.dtype


def test_alike() -> None:
    """Fields, elements and names count; what is pointed to does not."""

    def made(to: str, field: str = "n", length: int = 2) -> Type:
        return types.struct("T", ("p", types.ptr(to)), (field, types.array(types.int64, length)))

    assert alike(made("A"), made("B"))
    for other in (made("A", "m"), made("A", length=3), types.named("U", made("A"))):
        assert not alike(made("A"), other)
    one, two = (types.struct(a=types.array(types.struct(**{n: types.int8}), 4)) for n in ("b", "c"))
    assert not alike(one, two)


def test_golden_is_complete() -> None:
    assert [row["type"] for row in GOLDEN] == layouts.described()


def test_golden_is_what_go_says(toolchain: Toolchain) -> None:
    answers = layouts.ask([row["type"] for row in GOLDEN])
    assert [{"type": row["type"], **a} for row, a in zip(GOLDEN, answers, strict=True)] == GOLDEN


@pytest.mark.parametrize("what", ["name", "kind", "size", "align", "ptrdata"])
def test_layout(pairs: list[tuple[Type, dict[str, Any]]], what: str) -> None:
    assert [getattr(t, what) for t, _ in pairs] == [row[what] for _, row in pairs]


def test_field_align(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    """On amd64 a field is aligned as a variable is."""
    assert [t.align for t, _ in pairs] == [row["field_align"] for _, row in pairs]


def test_pointer_mask(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    masks = ["".join("01"[bit] for bit in t.pointer_mask().astype(int)) for t, _ in pairs]
    assert masks == [row["mask"] for _, row in pairs]


def test_offsets(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    structs = [(t, row) for t, row in pairs if row["kind"] == types.Kind.STRUCT]
    assert len(structs) > 300
    assert [[f.offset for f in t.fields] for t, _ in structs] == [
        row.get("offsets", []) for _, row in structs
    ]


def test_pointer_words(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    for t, row in pairs:
        number = sum(int(word) << 64 * i for i, word in enumerate(t.pointer_words()))
        assert number == int(row["mask"][::-1] or "0", 2)
        assert len(t.pointer_words()) == -(-t.ptrdata // 512)


def test_noscan(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    assert [t.noscan for t, _ in pairs] == ["1" not in row["mask"] for _, row in pairs]


def test_dtype_has_the_layout(pairs: list[tuple[Type, dict[str, Any]]]) -> None:
    for t, _ in pairs:
        assert t.dtype.itemsize == t.size
        for f in t.fields:
            if f.name != "_":
                assert t.dtype.fields is not None
                assert t.dtype.fields[f.name][1] == f.offset


# ---- names within types ----

NODE = types.struct("Node", left=types.ptr("Node"), right=types.ptr("Node"), key=types.int64)


def test_struct() -> None:
    assert (NODE.name, NODE.size, NODE.align, NODE.ptrdata, NODE.noscan) == ("Node", 24, 8, 16, False)
    assert repr(NODE) == "Node"
    assert [(f.name, f.offset, repr(f.type)) for f in NODE.fields] == [
        ("left", 0, "*Node"),
        ("right", 8, "*Node"),
        ("key", 16, "int64"),
    ]


def pointed(type_: Type, path: str) -> Type:
    inner = type_.field(path).type
    assert isinstance(inner, types.Pointer)
    return inner.elem


def test_own_name_is_bound() -> None:
    assert pointed(NODE, "left") is NODE


def test_name_is_bound_through_others() -> None:
    edge = types.struct("Edge", to=types.ptr("Graph"), next=types.ptr("Edge"))
    graph = types.struct("Graph", edges=types.slice(edge), by=types.map(types.string, types.ptr("Graph")))
    assert pointed(edge, "to") is graph
    assert pointed(edge, "next") is edge
    assert repr(graph.field("by").type) == "map[string]*Graph"


def test_function_for_a_later_type() -> None:
    a = types.struct("A", b=types.ptr(lambda: b))
    b = types.struct("B", a=types.ptr(a))
    assert pointed(a, "b") is b
    assert pointed(b, "a") is a


def test_name_is_bound_once() -> None:
    link = types.ptr("T")
    first = types.struct("T", link=link)
    types.struct("T", link=link, n=types.int)
    assert link.elem is first


def test_named() -> None:
    celsius = types.named("Celsius", types.float64)
    assert (celsius.name, celsius.size, celsius.kind) == ("Celsius", 8, types.Kind.FLOAT64)
    assert types.float64.name == "float64"


def test_equal() -> None:
    """As types are identical in Go."""
    assert types.ptr(types.int) == types.ptr(types.int)
    assert hash(types.ptr(types.int)) == hash(types.ptr(types.int))
    assert types.ptr(types.int) != types.ptr(types.int64)
    assert types.struct(a=types.int) == types.struct(a=types.int)
    assert types.struct(a=types.int) != types.struct(b=types.int)
    assert types.struct("T", a=types.int) != types.struct("T", a=types.int)
    assert types.array(types.int, 2) != types.array(types.int, 3)
    assert types.chan(types.int) != types.chan(types.int, direction="send")
    assert types.func(types.int) != types.func(results=(types.int,))
    assert types.interface() == types.any
    assert types.any != types.error
    assert len({types.slice(NODE), types.slice(NODE), types.ptr(NODE)}) == 2


def test_open_names_are_equal_by_name() -> None:
    assert types.ptr("T") == types.ptr("T")
    assert types.ptr("T") != types.ptr("U")
    assert types.ptr("T") != types.ptr(types.int)


# ---- asking for parts ----

TABLE = types.struct(
    "Table",
    n=types.int8,
    children=types.array(types.struct(next=types.ptr("Table"), weight=types.float32), 3),
    text=types.string,
    any=types.any,
)


@pytest.mark.parametrize(
    ("path", "offset", "name"),
    [
        ("n", 0, "int8"),
        ("children", 8, "[3]struct { next *Table; weight float32 }"),
        ("children[0]", 8, "struct { next *Table; weight float32 }"),
        ("children[2].next", 40, "*Table"),
        ("children[2].weight", 48, "float32"),
        ("text", 56, "string"),
        ("text.len", 64, "int"),
        ("any.data", 80, "unsafe.Pointer"),
    ],
)
def test_field(path: str, offset: int, name: str) -> None:
    field = TABLE.field(path)
    assert (field.name, field.offset, field.type.name) == (path, offset, name)


@pytest.mark.parametrize(
    ("path", "offset"), [("children[1].next", 24), ("children[1]", 24), ("text", 56), ("any", 80)]
)
def test_pointer_at(path: str, offset: int) -> None:
    assert TABLE.pointer_at(path) == offset
    assert TABLE.pointer_at(path) == offset


BASE = types.struct("main.Base", id=types.int, x=types.int)
OTHER = types.struct("main.Other", x=types.int, deep=BASE)


def test_embedded() -> None:
    t = types.struct("T", types.ptr(OTHER), BASE, ("_", types.int8), x=types.int16)
    assert [f.name for f in t.fields] == ["Other", "Base", "_", "x"]
    assert [f.embedded for f in t.fields] == [True, True, False, False]
    assert t.field("id").offset == 8
    assert t.field("x").type is types.int16
    assert t.field("Base.x").offset == 16


def test_embedded_twice() -> None:
    t = types.struct(BASE, OTHER)
    assert t.field("id").offset == 0
    with pytest.raises(ConfigError, match="2 fields 'x'"):
        t.field("x")


def test_values_through_dtype() -> None:
    rows = np.zeros(2, TABLE.dtype)
    rows["children"]["weight"][1, 2] = 1.5
    at = TABLE.size + TABLE.field("children[2].weight").offset
    assert rows.tobytes()[at : at + 4] == np.float32(1.5).tobytes()


@given(st.integers(0, 40), st.integers(0, 300))
def test_array_repeats_its_element(before: int, length: int) -> None:
    elem = types.struct(n=types.array(types.int64, before), p=types.ptr(types.int), s=types.string)
    whole = types.array(elem, length)
    words = np.tile(np.append(elem.pointer_mask(), False), length)
    assert whole.size == length * elem.size
    assert whole.ptrdata == (whole.size - 8 if length else 0)
    assert np.array_equal(whole.pointer_mask(), words[:-1])


# ---- what is refused ----

LOOP: types.Pointer = types.ptr(lambda: LOOP)

REFUSED: dict[str, tuple[Any, type[PymemError], str]] = {
    "NoField": (lambda: NODE.field("up"), ConfigError, "it has left, right, key"),
    "NoFieldAtAll": (lambda: types.int.field("x"), ConfigError, "no fields at all"),
    "ThroughPointer": (lambda: NODE.field("left.key"), ConfigError, "no field 'key'"),
    "EmptyPath": (lambda: NODE.field(""), ConfigError, "write it as in Go"),
    "WrongPath": (lambda: TABLE.field("children[x]"), ConfigError, "write it as in Go"),
    "BeyondArray": (lambda: TABLE.field("children[3]"), ConfigError, r"the last is \[2\]"),
    "NoElements": (lambda: NODE.field("[0]"), ConfigError, "no elements"),
    "NoPointer": (lambda: NODE.pointer_at("key"), ConfigError, "0 pointers"),
    "ManyPointers": (lambda: TABLE.pointer_at("children"), ConfigError, "3 pointers"),
    "OpenName": (lambda: types.ptr("Nobody").elem, ConfigError, "give a function"),
    "NoType": (lambda: types.ptr(3), ConfigError, "is no type"),  # type: ignore[arg-type]
    "FunctionWithoutType": (lambda: types.ptr(lambda: 3).elem, ConfigError, "is no type"),  # type: ignore[arg-type, return-value]
    "ValueByName": (lambda: types.struct("T", t="T"), ConfigError, "lies in the type itself"),  # type: ignore[arg-type]
    "ArrayByName": (lambda: types.array("T", 3), ConfigError, "lies in the type itself"),  # type: ignore[arg-type]
    "NamelessLoop": (lambda: LOOP.name, ConfigError, "types.named"),
    "FieldTwice": (lambda: types.struct(("a", types.int), ("a", types.int)), ConfigError, "twice"),
    "FieldName": (lambda: types.struct(("a b", types.int)), ConfigError, "identifier"),
    "Field": (lambda: types.struct("T", 3), ConfigError, "is no field"),  # type: ignore[arg-type]
    "EmbeddedNameless": (lambda: types.struct(types.struct(a=types.int)), ConfigError, "embedded"),
    "NegativeArray": (lambda: types.array(types.int, -1), SizeError, "0 or more"),
    "HugeArray": (lambda: types.array(types.int, 1 << 47), SizeError, "address space"),
    "HugeChan": (lambda: types.chan(types.array(types.int, 8192)), SizeError, "send a pointer"),
    "Direction": (lambda: types.chan(types.int, direction="up"), ConfigError, "receive"),  # type: ignore[arg-type]
    "Variadic": (lambda: types.func(types.int, variadic=True), ConfigError, "slice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    make, error, sentence = REFUSED[case]
    with pytest.raises(error, match=sentence):
        make()


def test_public() -> None:
    assert pymem.types is types
