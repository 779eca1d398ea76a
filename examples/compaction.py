"""What would moving objects buy? A cache that loses most of its entries, with and without compaction.

A table of 40,000 entries of mixed sizes is filled, then all but a share of them are dropped at random, as a cache does
when its working set changes. Go frees the dead slots, but a page goes back only when nothing on it lives: a few entries
hold many pages. A collector that moves objects would pack them, and pay by a longer pause: a look at every pointer.

Run it: ``python examples/compaction.py``. It prints (the pauses in virtual time, by the measured costs
of `pymem.gc.costs.Costs`):

    living   heap in use, MB   compacted   moved, MB   pages won   pointers set   pause, ms   compacted
       50%               8.8         4.7        1.69         519          17468        0.04        3.20
       30%               8.7         2.9        1.50         750          15486        0.04        2.79
       10%               8.2         1.2        0.66         893           6634        0.04        1.38
        3%               6.1         0.6        0.23         708           2284        0.04        0.73
        1%               3.9         0.4        0.08         440            757        0.04        0.51
"""

from __future__ import annotations

import random

import pymem
from pymem import types
from pymem.gc.compaction import Compaction

ENTRY = types.struct("entry", next=types.ptr("entry"), data=types.slice(types.byte), key=types.int64)
ENTRIES = 40_000


def fill(rt: pymem.Runtime) -> None:
    """Build the table: entries in a row of pointers, each with its data."""
    rng = random.Random(1)
    table = rt.globals["table"] = rt.new(types.ptr(ENTRY), ENTRIES)
    for i in range(ENTRIES):
        rt.store(table, 8 * i, rt.new(ENTRY))
        entry = rt.load(table, 8 * i)
        rt.store(entry, "data", rt.new(types.byte, rng.choice([20, 60, 150, 400])))


def drop(rt: pymem.Runtime, living: float) -> None:
    """Forget all but a share of the entries. The table's address comes from its root, so it is right."""
    rng = random.Random(2)
    table = rt.globals["table"]
    for i in range(ENTRIES):
        if rng.random() >= living:
            rt.store(table, 8 * i, 0)


def run(living: float, *, compaction: bool) -> tuple[float, float, Compaction | None]:
    """Return MB of heap in use after a collection, its pauses in ms, and what moving did."""
    with pymem.Runtime(compaction=compaction) as rt:
        fill(rt)
        drop(rt, living)
        result = rt.gc()
        stats = rt.read_mem_stats()
        return stats.heap_inuse / (1 << 20), stats.pause_total_ns / 1e6, result.compaction


def main() -> None:
    """Show what it buys and what it takes, by how much has survived."""
    print(
        "living   heap in use, MB   compacted   moved, MB   pages won   pointers set   pause, ms   compacted"
    )
    for living in (0.5, 0.3, 0.1, 0.03, 0.01):
        plain, pause, _ = run(living, compaction=False)
        packed, longer, done = run(living, compaction=True)
        assert done is not None
        print(
            f"{living:6.0%}{plain:18.1f}{packed:12.1f}{done.bytes_moved / (1 << 20):12.2f}{done.pages_won:12}"
            f"{done.pointers_set:15}{pause:12.2f}{longer:12.2f}"
        )


if __name__ == "__main__":
    main()
