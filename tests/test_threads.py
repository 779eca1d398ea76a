"""A runtime has one owner at a time; runtimes in different threads do not know of each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pymem
from pymem.trace import TraceReader

TRACE = Path(__file__).parents[1] / "examples" / "lru.trace"


def work(seed: int) -> tuple[list[int], pymem.MemStats]:
    rng = np.random.default_rng(seed)
    with pymem.Runtime() as rt:
        for _ in range(5):
            addrs = rt.malloc_batch(rng.integers(1, 3000, 20_000), noscan=True)
            rt.gc(dead=addrs[::2])
        rt.check()
        return addrs[:100].tolist(), rt.read_mem_stats()


def test_one_each() -> None:
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(work, [1, 2, 1, 2]))
    assert at_once == [work(1), work(2)] * 2


def busy_thread(rt: pymem.Runtime, stop: threading.Event) -> threading.Thread:
    """Keep a runtime busy: a check of a large heap spends its time in C, where the other threads may run."""
    rt.malloc_batch(64, 500_000, noscan=True)

    def run() -> None:
        while not stop.is_set():
            try:
                rt.check()
            except pymem.ThreadError:
                continue
            except pymem.ClosedError:
                return

    thread = threading.Thread(target=run)
    thread.start()
    return thread


CALLS: dict[str, Callable[[pymem.Runtime], object]] = {
    "malloc": lambda rt: rt.malloc(8),
    "malloc_batch": lambda rt: rt.malloc_batch(8, 10),
    "gc": lambda rt: rt.gc(),
    "read_mem_stats": lambda rt: rt.read_mem_stats(),
    "spans": lambda rt: rt.spans(),
    "go": lambda rt: rt.go(),
}


@pytest.mark.parametrize("name", CALLS)
def test_one_runtime_in_two_threads(name: str) -> None:
    stop = threading.Event()
    with pymem.Runtime() as rt:
        thread = busy_thread(rt, stop)
        try:
            with pytest.raises(pymem.ThreadError, match="another thread"):
                for _ in range(100_000):
                    CALLS[name](rt)
        finally:
            stop.set()
            thread.join()
        rt.check()


def test_taking_turns() -> None:
    """Made here, used there: an owner may change between calls."""
    with pymem.Runtime() as rt, ThreadPoolExecutor(1) as pool:
        addr = pool.submit(rt.malloc, 64).result()
        assert rt.object_at(addr).address == addr


def test_closed_under_a_call() -> None:
    """The memory stays until the last call has left; the next one finds the runtime closed."""
    rt = pymem.Runtime()
    thread = busy_thread(rt, threading.Event())
    rt.close()
    thread.join()
    with pytest.raises(pymem.ClosedError):
        rt.check()


READER_CALLS: dict[str, Callable[[TraceReader], object]] = {
    "close": TraceReader.close,
    "batches": lambda reader: next(reader.batches(1)),
    "info": lambda reader: reader.info,
    "progress": lambda reader: reader.progress,
    "types": lambda reader: reader.types,
    "strings": lambda reader: reader.strings,
}


@pytest.mark.parametrize("name", READER_CALLS)
def test_one_reader_in_two_threads(name: str) -> None:
    with TraceReader(TRACE) as reader:
        with reader._alone(), ThreadPoolExecutor(1) as pool:
            call = pool.submit(READER_CALLS[name], reader)
            with pytest.raises(pymem.ThreadError, match=r"lru\.trace: another thread is using this reader"):
                call.result()
        READER_CALLS[name](reader)


def read(reader: TraceReader, started: threading.Event) -> None:
    try:
        started.set()
        for _ in reader.batches(1 << 20):
            pass
    except (pymem.ClosedError, pymem.ThreadError):  # the latter while the other is closing
        pass


def test_reader_closed_under_a_call() -> None:
    """Who closes while another reads is refused, and the other reads on; it used to read freed memory."""
    refused = 0
    for _ in range(20):
        reader, started = TraceReader(TRACE), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read, reader, started)
            started.wait()
            while not reading.done():
                try:
                    reader.close()
                except pymem.ThreadError:
                    refused += 1
            reading.result()
        reader.close()
    assert refused
