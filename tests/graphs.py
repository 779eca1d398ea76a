"""The graphs of tests/oracle/graphs, built in the emulator by the same steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from core import Core

NODE, CELL, RING, ENTRY, LRU, WORD = 1, 2, 3, 4, 5, 6
TYPES = {
    NODE: (24, (0, 1)),
    CELL: (16, (0,)),
    RING: (48, (0, 1)),
    ENTRY: (32, (0, 2)),
    LRU: (40, (0, 1, 2, 4)),
    WORD: (8, (0,)),
}
DATA = 24
_MASK = 2**64 - 1


def mix(i: int) -> int:
    """Return the counter's number, as splitmix64."""
    z = i * 0x9E3779B97F4A7C15 & _MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
    return z ^ z >> 31


@dataclass
class Builder:
    """A heap in which one graph is built; pointers are collected and stored at once."""

    core: Core
    words: dict[tuple[int, int], int] = field(default_factory=dict)

    def new(self, type_: int) -> int:
        return self.core.malloc(0, TYPES[type_][0], False, type_)

    def data(self) -> int:
        return self.core.malloc(0, DATA, True)

    def table(self, n: int) -> int:
        return self.core.malloc(0, 8 * n, False, WORD)

    def finish(self) -> None:
        places = list(self.words)
        self.core.store([o for o, _ in places], [f for _, f in places], list(self.words.values()))


def tree(b: Builder, n: int) -> int:
    root, keys = b.new(NODE), {}
    keys[root] = mix(0)
    for i in range(1, n):
        key, at = mix(i), root
        while True:
            place = (at, 0 if key < keys[at] else 8)
            if place not in b.words:
                break
            at = b.words[place]
        b.words[place] = made = b.new(NODE)
        keys[made] = key
    return root


def order(n: int) -> list[int]:
    drawn = list(range(n))
    for i in range(n - 1, 0, -1):
        j = mix(i) % (i + 1)
        drawn[i], drawn[j] = drawn[j], drawn[i]
    return drawn


def chain(b: Builder, n: int) -> int:
    cells, drawn = [b.new(CELL) for _ in range(n)], order(n)
    for a, c in itertools.pairwise(drawn):
        b.words[cells[a], 0] = cells[c]
    return cells[drawn[0]]


def ring(b: Builder, n: int) -> int:
    nodes = [b.new(RING) for _ in range(n)]
    for i, node in enumerate(nodes):
        following = nodes[(i + 1) % n]
        b.words[node, 0], b.words[following, 8] = following, node
    return nodes[0]


def table(b: Builder, n: int) -> int:
    buckets = b.table(n // 2)
    for i in range(n):
        bucket = (buckets, mix(i) % (n // 2) * 8)
        made = b.new(ENTRY)
        b.words[made, 0] = b.words.get(bucket, 0)
        if i % 3 == 0:
            b.words[made, 16] = b.data()
        b.words[bucket] = made
    return buckets


class Lru:
    """The cache of the Go program, step by step."""

    def __init__(self, b: Builder, n: int) -> None:
        self.b, self.cap, self.buckets = b, n, b.table(n)
        self.keys: dict[int, int] = {}
        self.at: dict[int, int] = {}
        self.newest = self.oldest = 0

    def get(self, entry: int, offset: int) -> int:
        return self.b.words.get((entry, offset), 0)

    def unlink(self, e: int) -> None:
        newer, older = self.get(e, 0), self.get(e, 8)
        if newer:
            self.b.words[newer, 8] = older
        else:
            self.newest = older
        if older:
            self.b.words[older, 0] = newer
        else:
            self.oldest = newer

    def push(self, e: int) -> None:
        self.b.words[e, 0], self.b.words[e, 8] = 0, self.newest
        if self.newest:
            self.b.words[self.newest, 0] = e
        else:
            self.oldest = e
        self.newest = e

    def use(self, key: int) -> None:
        if key in self.at:
            self.unlink(self.at[key])
            self.push(self.at[key])
            return
        bucket = (self.buckets, key % self.cap * 8)
        e = self.b.new(LRU)
        self.b.words[e, 16], self.b.words[e, 32] = self.b.words.get(bucket, 0), self.b.data()
        self.b.words[bucket] = e
        self.keys[e], self.at[key] = key, e
        self.push(e)
        if len(self.at) > self.cap:
            self.evict()

    def evict(self) -> None:
        old = self.oldest
        self.unlink(old)
        del self.at[self.keys[old]]
        place = (self.buckets, self.keys[old] % self.cap * 8)
        while self.b.words[place] != old:
            place = (self.b.words[place], 16)
        self.b.words[place] = self.get(old, 16)


def lru(b: Builder, n: int) -> int:
    cache = Lru(b, n)
    for i in range(4 * n):
        cache.use(mix(i) % (2 * n))
    b.core.roots_new([cache.newest, cache.oldest])
    return cache.buckets


GRAPHS: dict[str, Callable[[Builder, int], int]] = {
    "tree": tree,
    "list": chain,
    "ring": ring,
    "table": table,
    "lru": lru,
}


def build(name: str, n: int, *, scan_sparse: bool = False) -> Core:
    """Return a heap with the graph and roots that lead to all of it."""
    core = Core(scan_sparse=scan_sparse)
    core.proc_new()
    for type_, (size, words) in TYPES.items():
        core.type_add(type_, size, words)
    b = Builder(core)
    root = GRAPHS[name](b, n)
    b.finish()
    core.roots_new([root])
    return core
