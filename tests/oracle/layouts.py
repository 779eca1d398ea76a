"""What real Go makes of types: ``python tests/oracle/layouts.py`` writes ``tests/golden/layouts.json``.

A type is described by a small value of lists and strings (see ``DESCRIBED``). From it come the Go source, whose program
prints size, alignment, offsets and the collector's mask of each type, and, in the test, the type of ours.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pymem.record.overlay import find_toolchain

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "layouts.json"
SEED, RANDOM = 3, 400

BASIC = (
    *("bool", "int", "int8", "int16", "int32", "int64", "uint", "uint8", "uint16", "uint32", "uint64"),
    *("uintptr", "float32", "float64", "complex64", "complex128", "string", "unsafe.Pointer", "error"),
)
"""Names of types that need no description."""

Described = Any
"""A name of BASIC or [kind, part, ...], see `go`."""

EMPTY = ["struct"]
PAIR = ["struct", ["p", ["ptr", "int"]], ["n", "int64"]]
INNER = ["named", "Inner", ["struct", ["a", "int8"], ["P", ["ptr", "int8"]], ["b", "int8"]]]

DESCRIBED: list[Described] = [
    *BASIC,
    ["ptr", "int"],
    ["ptr", ["ptr", "string"]],
    ["slice", "int"],
    ["slice", ["slice", "uint8"]],
    ["map", "string", "int"],
    ["map", ["array", 2, "int32"], ["slice", ["ptr", "int"]]],
    ["chan", "both", "int"],
    ["chan", "receive", "string"],
    ["chan", "send", ["chan", "receive", "int"]],
    ["chan", "both", ["chan", "receive", "int"]],
    ["func", [], []],
    ["func", ["int", "string"], ["error"]],
    ["func", ["int", ["slice", "string"]], ["int", "error"], "variadic"],
    ["interface"],
    ["interface", ["Read", [["slice", "uint8"]], ["int", "error"]], ["Close", [], ["error"]]],
    ["array", 0, "int"],
    ["array", 0, ["ptr", "int"]],
    ["array", 7, "uint8"],
    ["array", 5, ["ptr", "int"]],
    ["array", 3, PAIR],
    ["array", 2, ["array", 3, PAIR]],
    ["array", 4, EMPTY],
    ["array", 300, "string"],
    ["array", 1000, ["interface"]],
    ["array", 129, ["struct", ["n", ["array", 8, "int64"]], ["p", ["ptr", "int"]]]],
    EMPTY,
    PAIR,
    ["struct", ["n", "int64"], ["p", ["ptr", "int"]]],
    ["struct", ["F", "uintptr"], ["X0", ["ptr", "int"]]],
    ["struct", ["a", "int8"], ["b", "int64"], ["c", "int8"]],
    ["struct", ["a", "bool"], ["b", "int16"], ["c", "bool"], ["d", "int32"]],
    ["struct", ["a", "int64"], ["end", EMPTY]],
    ["struct", ["a", "int32"], ["end", ["array", 0, "int64"]]],
    ["struct", ["a", ["ptr", "int"]], ["end", EMPTY]],
    ["struct", ["end", EMPTY]],
    ["struct", ["begin", EMPTY], ["a", "int32"]],
    ["struct", ["a", "int8"], ["mid", ["array", 0, "int64"]], ["b", "int8"]],
    ["struct", ["_", "int8"], ["_", "int64"], ["_", ["ptr", "int"]]],
    ["struct", ["_", ["array", 3, "uint8"]], ["s", "string"], ["_", ["array", 0, "int"]]],
    ["struct", ["c", "complex64"], ["d", "complex128"], ["f", "float32"]],
    ["struct", ["i", ["interface"]], ["e", "error"], ["f", ["func", [], []]]],
    ["struct", ["s", "string"], ["b", ["slice", "uint8"]], ["n", "int"]],
    ["struct", ["m", ["map", "string", "int"]], ["c", ["chan", "both", "int"]], ["u", "unsafe.Pointer"]],
    ["struct", ["items", ["array", 3, ["struct", ["k", "int8"], ["v", "string"]]]], ["n", "int8"]],
    INNER,
    ["struct", [None, INNER], ["c", "int8"]],
    ["struct", [None, ["ptr", INNER]], ["c", "int8"]],
    ["struct", ["c", "int8"], [None, ["named", "Nothing", EMPTY]]],
    ["named", "Outer", ["struct", [None, INNER], ["in", INNER], ["end", ["array", 2, INNER]]]],
    ["named", "Celsius", "float64"],
    ["named", "Names", ["slice", "string"]],
    ["named", "Self", ["ptr", ["ref", "Self"]]],
    [
        "named",
        "Tree",
        ["struct", ["l", ["ptr", ["ref", "Tree"]]], ["r", ["ptr", ["ref", "Tree"]]], ["n", "int"]],
    ],
    ["named", "Many", ["struct", ["n", "int"], ["children", ["slice", ["ref", "Many"]]]]],
    [
        "named",
        "Index",
        ["struct", ["by", ["map", "string", ["ptr", ["ref", "Index"]]]], ["up", ["ptr", ["ref", "Index"]]]],
    ],
    ["named", "Step", ["func", [["ref", "Step"]], [["ref", "Step"]]]],
    ["named", "Walker", ["interface", ["Next", [], [["ref", "Walker"]]]]],
    [
        "named",
        "Pages",
        [
            "struct",
            ["n", "int8"],
            ["p", ["array", 200, ["ptr", ["ref", "Pages"]]]],
            ["tail", ["array", 9000, "uint8"]],
        ],
    ],
]


class Drawn:
    """Types drawn at random, the same ones from the same seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.last = 0

    def struct(self, depth: int) -> Described:
        fields: list[Any] = []
        for i in range(self.rng.choice([0, 1, 2, 2, 3, 3, 4, 5, 7])):
            name = "_" if self.rng.random() < 0.1 else f"f{i}"
            fields.append([name, self.type(depth - 1)])
        if self.rng.random() < 0.15:
            fields.insert(self.rng.randint(0, len(fields)), [None, self.named(depth - 1)])
        if self.rng.random() < 0.15:
            fields.append(["end", self.rng.choice([EMPTY, ["array", 0, "int64"], ["array", 3, EMPTY]])])
        return ["struct", *fields]

    def named(self, depth: int) -> Described:
        self.last += 1
        name = f"R{self.last}"
        inside = self.struct(depth)
        if self.rng.random() < 0.5:
            inside.append(["again", ["ptr", ["ref", name]]])
        return ["named", name, inside]

    def type(self, depth: int) -> Described:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.5:
            return rng.choice(BASIC)
        elem = self.type(depth - 1)
        made: list[Described] = [
            ["ptr", elem],
            ["slice", elem],
            ["array", rng.choice([0, 1, 2, 3, 5]), elem],
            ["array", rng.choice([1, 2, 9]), self.struct(depth - 1)],
            ["map", rng.choice(BASIC[:17]), elem],
            ["chan", rng.choice(["both", "receive", "send"]), rng.choice(BASIC)],
            ["func", [elem], [rng.choice(BASIC)]],
            ["interface"],
            self.struct(depth - 1),
            self.struct(depth - 1),
            self.named(depth - 1),
        ]
        return rng.choice(made)


def described() -> list[Described]:
    """Return all types, those drawn at random last."""
    drawn = Drawn(SEED)
    return DESCRIBED + [drawn.named(4) if i % 4 == 0 else drawn.struct(4) for i in range(RANDOM)]


class Source:
    """Go source of described types."""

    def __init__(self) -> None:
        self.declared: dict[str, str] = {}

    def go(self, d: Described) -> str:
        """Return the type as Go writes it; what has a name is declared."""
        if isinstance(d, str):
            return d
        kind, *parts = d
        return str(getattr(self, "_" + kind)(*parts))

    def _ref(self, name: str) -> str:
        return name

    def _named(self, name: str, of: Described) -> str:
        if name not in self.declared:
            self.declared[name] = ""
            self.declared[name] = f"type {name} {self.go(of)}\n"
        return name

    def _ptr(self, elem: Described) -> str:
        return "*" + self.go(elem)

    def _slice(self, elem: Described) -> str:
        return "[]" + self.go(elem)

    def _array(self, n: int, elem: Described) -> str:
        return f"[{n}]{self.go(elem)}"

    def _map(self, key: Described, elem: Described) -> str:
        return f"map[{self.go(key)}]{self.go(elem)}"

    def _chan(self, direction: str, elem: Described) -> str:
        word = {"both": "chan", "receive": "<-chan", "send": "chan<-"}[direction]
        return f"{word} ({self.go(elem)})"

    def _signature(self, params: list[Described], results: list[Described], variadic: str = "") -> str:
        inside = [self.go(p) for p in params]
        if variadic:
            inside[-1] = "..." + inside[-1].removeprefix("[]")
        return f"({', '.join(inside)}) ({', '.join(self.go(r) for r in results)})"

    def _func(self, *parts: Any) -> str:
        return "func" + self._signature(*parts)

    def _interface(self, *methods: Any) -> str:
        return "interface{" + "; ".join(m[0] + self._signature(*m[1:]) for m in methods) + "}"

    def _struct(self, *fields: Any) -> str:
        inside = [self.go(d) if name is None else f"{name} {self.go(d)}" for name, d in fields]
        return "struct{" + "; ".join(inside) + "}"


def source(types: list[Described]) -> str:
    """Return the Go file with a list of the types."""
    made = Source()
    rows = [f"\treflect.TypeFor[{made.go(d)}](),\n" for d in types]
    head = 'package main\n\nimport (\n\t"reflect"\n\t"unsafe"\n)\n\nvar _ unsafe.Pointer\n\n'
    return head + "".join(made.declared.values()) + "\nvar types = []reflect.Type{\n" + "".join(rows) + "}\n"


def ask(types: list[Described]) -> list[dict[str, Any]]:
    """Return what real Go says of the types."""
    go = find_toolchain().go
    with tempfile.TemporaryDirectory() as folder:
        for path in (HERE / "layouts").iterdir():
            (Path(folder) / path.name).write_bytes(path.read_bytes())
        (Path(folder) / "types.go").write_text(source(types))
        command = [str(go), "run", "-ldflags=-checklinkname=0", "."]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def main() -> None:
    """Write the golden file."""
    types = described()
    answers = ask(types)
    rows = [json.dumps({"type": d, **a}, separators=(",", ":")) for d, a in zip(types, answers, strict=True)]
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(f'{{"go":"{find_toolchain().version}","rows":[\n' + ",\n".join(rows) + "\n]}\n")
    print(f"{GOLDEN}: {len(rows)} types", file=sys.stderr)


if __name__ == "__main__":
    main()
