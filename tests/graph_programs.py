"""The programs of `oracle/graphs` on the emulator: the same types, the same allocations in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pymem
from pymem import types
from pymem.layout import Type

Steps = Iterator[str]
"""The name of each step, after it was done."""

_MASK = 2**64 - 1


class Random:
    """The generator of the Go programs."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self, n: int) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & _MASK
        return (self.state >> 33) % n


def int64s(n: int) -> Type:
    return types.array(types.int64, n)


# ---- trees ----

NODE = types.struct("main.node", left=types.ptr("main.node"), right=types.ptr("main.node"), key=types.int64)


def tree(rt: pymem.Runtime) -> Steps:
    root = rt.globals["root"] = grow(rt, 14)
    yield "built"
    rt.store(root, "left", 0)
    yield "half"
    thin(rt, rt.load(root, "right"))
    yield "thinned"
    rt.globals["root"] = 0
    yield "gone"


def grow(rt: pymem.Runtime, depth: int) -> int:
    node = rt.new(NODE)
    if depth > 0:
        rt.store(node, "left", grow(rt, depth - 1))
        rt.store(node, "right", grow(rt, depth - 1))
    return node


def thin(rt: pymem.Runtime, node: int) -> None:
    for side in ("left", "right"):
        if child := rt.load(node, side):
            rt.store(child, "right", 0)
            thin(rt, child)


BRANCH = types.struct(
    "main.branch",
    children=types.slice(types.ptr("main.branch")),
    name=types.ptr(types.array(types.byte, 40)),
    weight=types.array(types.int32, 3),
    parent=types.ptr("main.branch"),
)
CHILD = types.ptr(BRANCH)


def bush(rt: pymem.Runtime) -> Steps:
    r = Random(11)
    root = rt.globals["root"] = sprout(rt, r, 0, 4)
    yield "built"
    prune(rt, root, r)
    yield "pruned"
    rt.view(root)["children"]["len"] = 1
    yield "shortened"
    copy = rt.new(CHILD, 1)
    rt.store(copy, 0, rt.load(rt.load(root, "children"), "[0]"))
    rt.store(root, "children", copy)
    yield "copied"


def sprout(rt: pymem.Runtime, r: Random, parent: int, depth: int) -> int:
    branch = rt.new(BRANCH)
    rt.store(branch, "parent", parent)
    if r.next(3) == 0:
        rt.store(branch, "name", rt.malloc(40, noscan=True))
    if depth > 0:
        n = r.next(1 << (2 + r.next(5)))
        n = 90 if depth == 4 else n
        children = rt.new(CHILD, n)
        rt.store(branch, "children", children)
        rt.view(branch)["children"]["len"] = n
        for i in range(n):
            child = sprout(rt, r, branch, depth - 1 - r.next(2) * (depth - 1) // 2)
            rt.store(children, f"[{i}]", child)
    return branch


def prune(rt: pymem.Runtime, branch: int, r: Random) -> None:
    children = rt.load(branch, "children")
    for i in range(int(rt.view(branch)["children"]["len"])):
        child = rt.load(children, 8 * i)
        if child and r.next(4) == 0:
            rt.store(children, 8 * i, 0)
        elif child:
            prune(rt, child, r)


# ---- lists ----

ELEMENT = types.struct(
    "main.element",
    next=types.ptr("main.element"),
    prev=types.ptr("main.element"),
    value=int64s(4),
    extra=types.ptr(int64s(5)),
)


def list_(rt: pymem.Runtime) -> Steps:
    last = 0
    for i in range(20000):
        e = rt.new(ELEMENT)
        rt.store(e, "prev", last)
        if i % 3 == 0:
            rt.store(e, "extra", rt.new(int64s(5)))
        if last:
            rt.store(last, "next", e)
        else:
            rt.globals["root"] = e
        last = e
    yield "built"
    rt.store(follow(rt, rt.globals["root"], 14000), "next", 0)
    yield "cut"
    every_second(rt)
    yield "every second"
    root = rt.globals["root"] = follow(rt, rt.globals["root"], 3000)
    yield "moved on"
    rt.store(root, "prev", 0)
    yield "beheaded"


def follow(rt: pymem.Runtime, e: int, n: int) -> int:
    for _ in range(n):
        e = rt.load(e, "next")
    return e


def every_second(rt: pymem.Runtime) -> None:
    e = rt.globals["root"]
    while e and (behind := rt.load(e, "next")):
        other = rt.load(behind, "next")
        rt.store(e, "next", other)
        if other:
            rt.store(other, "prev", e)
        e = other


LINK = types.struct(
    "main.link",
    prev=types.ptr("main.link"),
    next=types.ptr("main.link"),
    value=types.any,
    pad=types.array(types.byte, 120),
)


def ring(rt: pymem.Runtime) -> Steps:
    first = rt.globals["root"] = new_link(rt, 0)
    join(rt, first, first)
    for i in range(1, 9000):
        link, last = new_link(rt, i), rt.load(first, "prev")
        join(rt, link, first)
        join(rt, last, link)
    yield "built"
    unlink(rt, first)
    yield "unlinked"
    split(rt, first, 1700)
    yield "split"
    rt.globals["root"] = 0
    yield "gone"


def join(rt: pymem.Runtime, a: int, b: int) -> None:
    rt.store(a, "next", b)
    rt.store(b, "prev", a)


def new_link(rt: pymem.Runtime, i: int) -> int:
    link = rt.new(LINK)
    value = [None, types.array(types.ptr(LINK), 3), int64s(3), LINK][i % 4]
    if value:
        rt.store(link, "value", rt.new(value))
    return link


def unlink(rt: pymem.Runtime, link: int) -> None:
    for _ in range(2999):
        out = follow(rt, link, 3)
        before = rt.load(out, "prev")
        join(rt, before, rt.load(out, "next"))
        link = before


def split(rt: pymem.Runtime, a: int, n: int) -> None:
    b, end = follow(rt, a, n), rt.load(a, "prev")
    join(rt, rt.load(b, "prev"), a)
    join(rt, end, b)


# ---- tables ----

ENTRY = types.struct(
    "main.entry",
    next=types.ptr("main.entry"),
    key=types.int64,
    name=types.string,
    value=types.ptr(int64s(12)),
)
TABLE = types.struct("main.hashTable", buckets=types.slice(types.ptr(ENTRY)), count=types.int)


class Table:
    """A hash table with chains, in emulated memory but for the keys, which the view of an entry has."""

    def __init__(self, rt: pymem.Runtime) -> None:
        self.rt = rt
        self.at = rt.globals["root"] = rt.new(TABLE)
        self.fresh(4)
        self.count = 0

    def fresh(self, n: int) -> None:
        self.buckets, self.n = self.rt.new(types.ptr(ENTRY), n), n
        self.rt.store(self.at, "buckets", self.buckets)

    def insert(self, key: int, r: Random) -> None:
        if self.count > self.n:
            self.resize(2 * self.n)
        rt = self.rt
        e = rt.new(ENTRY)
        rt.view(e)["key"] = key
        if n := r.next(6):
            rt.store(e, "name", rt.malloc(16 * n, noscan=True))
        if r.next(2) == 0:
            rt.store(e, "value", rt.new(int64s(12)))
        self.link(e)
        self.count += 1

    def link(self, e: int) -> None:
        slot = 8 * ((int(self.rt.view(e)["key"]) * 2654435761 & _MASK) % self.n)
        self.rt.store(e, "next", self.rt.load(self.buckets, slot))
        self.rt.store(self.buckets, slot, e)

    def resize(self, n: int) -> None:
        old, slots = self.buckets, 8 * self.n
        self.fresh(n)
        for slot in range(0, slots, 8):
            e = self.rt.load(old, slot)
            while e:
                behind = self.rt.load(e, "next")
                self.link(e)
                e = behind

    def remove(self) -> None:
        rt = self.rt
        for slot in range(0, 8 * self.n, 8):
            at, offset = self.buckets, slot
            while e := rt.load(at, offset):
                if rt.view(e)["key"] % 3:
                    rt.store(at, offset, rt.load(e, "next"))
                else:
                    at, offset = e, 0


def table(rt: pymem.Runtime) -> Steps:
    t, r = Table(rt), Random(5)
    for i in range(12000):
        t.insert(i, r)
        if i in (200, 3000):
            yield "growing"
    yield "built"
    t.remove()
    yield "removed"
    t.resize(60)
    yield "resized"
    t.resize(70)
    yield "resized again"


ITEM = types.struct(
    "main.item",
    newer=types.ptr("main.item"),
    older=types.ptr("main.item"),
    chain=types.ptr("main.item"),
    key=types.int64,
    value=types.ptr(types.int64),
    text=types.slice(types.byte),
)
CACHE = types.struct(
    "main.cache",
    newest=types.ptr(ITEM),
    oldest=types.ptr(ITEM),
    buckets=types.array(types.ptr(ITEM), 512),
    count=types.int,
)


class Cache:
    """A list in the order of use, and chains by key."""

    def __init__(self, rt: pymem.Runtime) -> None:
        self.rt = rt
        self.at = rt.globals["root"] = rt.new(CACHE)
        self.count = 0

    def put(self, key: int, r: Random) -> None:
        rt, bucket = self.rt, f"buckets[{key % 512}]"
        head = e = rt.load(self.at, bucket)
        while e and rt.view(e)["key"] != key:
            e = rt.load(e, "chain")
        if e:
            self.unlist(e)
        else:
            e = self.make(key, head, r)
        self.front(e)
        if self.count > 3000:
            self.evict()

    def make(self, key: int, head: int, r: Random) -> int:
        rt = self.rt
        e = rt.new(ITEM)
        rt.view(e)["key"] = key
        rt.store(e, "chain", head)
        rt.store(self.at, f"buckets[{key % 512}]", e)
        rt.store(e, "value", rt.new(types.int64))
        if n := r.next(5):
            rt.store(e, "text", rt.new(types.byte, 50 * n))
        self.count += 1
        return e

    def front(self, e: int) -> None:
        rt, newest = self.rt, self.rt.load(self.at, "newest")
        rt.store(e, "newer", 0)
        rt.store(e, "older", newest)
        rt.store(*((newest, "newer") if newest else (self.at, "oldest")), e)
        rt.store(self.at, "newest", e)

    def unlist(self, e: int) -> None:
        rt = self.rt
        newer, older = rt.load(e, "newer"), rt.load(e, "older")
        rt.store(*((newer, "older") if newer else (self.at, "newest")), older)
        rt.store(*((older, "newer") if older else (self.at, "oldest")), newer)

    def evict(self) -> None:
        rt = self.rt
        e = rt.load(self.at, "oldest")
        self.unlist(e)
        at, place = self.at, f"buckets[{int(rt.view(e)['key']) % 512}]"
        while (other := rt.load(at, place)) != e:
            at, place = other, "chain"
        rt.store(at, place, rt.load(e, "chain"))
        self.count -= 1


def lru(rt: pymem.Runtime) -> Steps:
    c, r = Cache(rt), Random(7)
    for i in range(12000):
        c.put(r.next(6000), r)
        if i % 3000 == 2999:
            yield "put"
    while c.count > 100:
        c.evict()
    yield "evicted"


# ---- shapes ----

P = types.ptr(types.int64)
EARLY = types.struct("main.early", p=P, a=int64s(9))
LATE = types.struct("main.late", a=int64s(9), p=P)
SPARSE = types.struct("main.sparse", p=types.array(P, 2), a=int64s(70), q=P, b=int64s(70))
BIG = types.struct("main.big", p=P, a=int64s(5000), q=types.slice(types.int64), b=int64s(3000))
HOLDER = types.struct(
    "main.holder",
    singles=types.array(types.slice(types.unsafe_pointer), 6),
    early=types.slice(EARLY),
    late=types.slice(LATE),
    sparse=types.slice(SPARSE),
    big=types.array(types.ptr(BIG), 3),
    huge=types.slice(P),
    words=types.slice(types.any),
    bytes=types.slice(types.byte),
)
SINGLES = (EARLY, LATE, SPARSE, P, types.array(types.string, 2), types.array(types.slice(types.byte), 6))


def shapes(rt: pymem.Runtime) -> Steps:
    h = rt.globals["root"] = rt.new(HOLDER)
    singles = [rt.new(types.unsafe_pointer, 100) for _ in SINGLES]
    for i, array in enumerate(singles):
        rt.store(h, f"singles[{i}]", array)
    for i in range(100):
        for array, type_ in zip(singles, SINGLES, strict=True):
            rt.store(array, f"[{i}]", rt.new(type_))
    yield "singles"
    for name, lengths in {
        "arrays": (6, 7, 1),
        "longer arrays": (60, 70, 13),
        "large arrays": (600, 7000, 1300),
    }.items():
        for field, type_, n in zip(("early", "late", "sparse"), (EARLY, LATE, SPARSE), lengths, strict=True):
            rt.store(h, field, rt.new(type_, n))
        yield name
    for i in range(3):
        big = rt.new(BIG)
        rt.store(h, f"big[{i}]", big)
        rt.store(big, "q", rt.new(types.int64, 3000))
    yield "large objects"
    huge = rt.new(P, 80000)
    rt.store(h, "huge", huge)
    rt.store(h, "words", rt.new(types.any, 3001))
    rt.store(h, "bytes", rt.new(types.byte, 100_000))
    yield "huge"
    rt.store(huge, "[79999]", rt.new(types.int64))
    rt.store(h, "huge", huge + 8 * 70000)
    yield "interior"
    for field in ("singles[2]", "huge", "big[1]", "bytes"):
        rt.store(h, field, 0)
    yield "dropped"


PROGRAMS: dict[str, Callable[[pymem.Runtime], Steps]] = {
    "tree": tree,
    "bush": bush,
    "list": list_,
    "ring": ring,
    "table": table,
    "lru": lru,
    "shapes": shapes,
}
