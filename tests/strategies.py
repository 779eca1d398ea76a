"""Hypothesis strategies that several tests share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import strategies as st

import pymem

_EDGES = sorted(
    {
        size
        for bound in [*pymem.size_classes()["size"][1:].tolist(), 512, 32760]
        for size in (bound - 8, bound - 1, bound, bound + 1)
        if size > 0
    }
)

tiny = st.integers(1, 15)
small = st.one_of(st.integers(1, 1024), st.sampled_from(_EDGES))
large = st.integers(32761, 600_000)
huge = st.integers(3 << 20, 20 << 20)
sizes = st.one_of(tiny, small, small, large)
"""Bytes an object: tiny, small, at the edges of classes, large."""

counts = st.one_of(st.integers(1, 40), st.integers(300, 2500))
"""Objects in a batch: some for a part of a span, some for many spans."""

type_ids = st.sampled_from([0, 0, 1, 2, 7])
stack_sizes = st.sampled_from([2048, 2048, 4096, 8192, 16384, 32768, 65536])
seeds = st.integers(0, 2**32 - 1)


def some_of(pool: Sequence[int], share: float, seed: int) -> list[int]:
    """Return a share of a pool in random order. A seed keeps Hypothesis from drawing each element."""
    rng = random.Random(seed)
    return rng.sample(pool, round(share * len(pool)))


def many_sizes(n: int, seed: int) -> list[int]:
    """Return n sizes: mostly small, as programs' are, with some of every kind."""
    rng = random.Random(seed)
    bounds = rng.choices([(1, 15), (1, 300), (0, len(_EDGES) - 1), (32761, 200_000)], [30, 40, 30, 0.5], k=n)
    drawn = [(bound, rng.randint(*bound)) for bound in bounds]
    return [_EDGES[x] if bound[0] == 0 else x for bound, x in drawn]
