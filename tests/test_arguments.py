"""What is no argument: each public call says so by an error of pymem's, in a sentence with a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pymem
from pymem import metrics, types
from pymem.errors import ConfigError, PymemError, SizeError
from pymem.gc.controller import Controller
from pymem.rerun import rerun
from pymem.workload.sources import open_stream

TRACE = Path(__file__).parent.parent / "examples" / "lru.trace"
NODE = types.struct("Node", next=types.ptr("Node"), key=types.int64)


def any_(value: Any) -> Any:
    """Return what no type checker would let pass."""
    return value


CALLS: dict[str, Callable[[pymem.Runtime], object]] = {
    "ArrayFloat": lambda rt: types.array(types.int, any_(2.5)),
    "ArrayText": lambda rt: types.array(types.int, any_("a")),
    "NamedNumber": lambda rt: types.named("x", any_(5)),
    "NameNumber": lambda rt: types.named(any_(5), types.int),
    "InterfaceNumber": lambda rt: types.interface(F=any_(5)),
    "ResultsType": lambda rt: types.func(results=any_(types.int)),
    "FieldNumber": lambda rt: types.struct("K", (any_(5), types.int)),
    "PathNumber": lambda rt: NODE.field(any_(5)),
    "PointerNumber": lambda rt: NODE.pointer_at(any_([])),
    "RegisterNumber": lambda rt: rt.register_type(any_(5)),
    "SleepText": lambda rt: rt.sleep(any_("x")),
    "WorkNone": lambda rt: rt.work(any_(None)),
    "ObserverNumber": lambda rt: rt.on_gc(any_(5)),
    "FrameNumber": lambda rt: rt.go().frame(any_(5)),
    "RootNumber": lambda rt: rt.globals.__setitem__(any_(5), 0),
    "RootList": lambda rt: rt.globals.__setitem__(any_([]), 0),
    "MetricsNumber": lambda rt: metrics.read(rt, any_(5)),
    "MetricsList": lambda rt: metrics.read(rt, any_([["a"]])),
    "RestoreNumber": lambda rt: pymem.Runtime.restore(any_(5)),
    "RestoreBytes": lambda rt: pymem.Runtime.restore(any_(b"/nope")),
    "Settings": lambda rt: pymem.Runtime(settings=any_({})),
    "Pacer": lambda rt: pymem.Runtime(pacer=any_(5)),
    "Costs": lambda rt: pymem.Runtime(costs=any_(5)),
    "Trace": lambda rt: pymem.Runtime(trace=any_(5)),
    "Birth": lambda rt: pymem.Runtime(start_unix_ns=any_("x")),
    "Globals": lambda rt: pymem.Runtime(globals_bytes=-5),
    "Procs": lambda rt: pymem.Runtime(gomaxprocs=any_(1.5)),
    "RerunGlobals": lambda rt: rerun(open_stream(TRACE), globals_bytes=-5),
    "RerunGlobalsText": lambda rt: rerun(open_stream(TRACE), globals_bytes=any_("x")),
    "RerunProcs": lambda rt: rerun(open_stream(TRACE), gomaxprocs=any_(1.5)),
}


@pytest.mark.parametrize("name", CALLS)
def test_refused(name: str) -> None:
    with pymem.Runtime() as rt:
        with pytest.raises(PymemError, match=r": (give|only|.* lists) ") as told:
            CALLS[name](rt)
        assert "\n" not in str(told.value)
        rt.check()


class Odd(Controller):
    """A policy whose answer is no trigger and goal at times."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def trigger(self) -> tuple[int, int]:
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("answer", [None, 5, (1 << 20,), (1e6, 2e6), (1 << 20, -1), (-1, 1 << 20), ("a", 5)])
def test_answers_of_a_pacer(answer: Any) -> None:
    with pytest.raises(ConfigError, match="the pacer's"):
        pymem.Runtime(pacer=Odd(answer))
    pacer = Odd((4 << 20, np.int64(8 << 20)))
    with pymem.Runtime(pacer=pacer) as rt:
        rt.malloc_batch(64, 10_000)
        pacer.answer = answer
        with pytest.raises(ConfigError, match="the pacer's"):
            rt.malloc_batch(64, 200_000)


# ---- long arrays ----


def test_array_longer_than_memory() -> None:
    """Its map is its element's."""
    long = types.array(types.ptr(NODE), 1 << 36)
    with pymem.Runtime() as rt:
        assert rt.register_type(long).size == 1 << 39
        assert rt.register_type(types.array(types.array(NODE, 1 << 20), 1 << 12)).size == 1 << 36
    with pytest.raises(SizeError, match="pointer mask"):
        long.pointer_mask()
    assert long.pointer_at("[5]") == 40


@pytest.mark.parametrize("length", [2047, 2049, 4096, 10_007, 30_000])
def test_map_of_a_long_array(length: int) -> None:
    """It says the same as the map word by word, and who is stored in any element lives."""
    array = types.array(types.struct(n=types.int, next=types.ptr(NODE), s=types.string), length)
    part = array.repeated()
    assert array.size % part.size == 0
    want, mask = array.pointer_mask(), np.append(part.pointer_mask(), [False] * (part.size // 8))
    mask = mask[: part.size // 8]
    assert np.array_equal(want, np.tile(mask, array.size // part.size)[: len(want)])
    with pymem.Runtime() as rt:
        obj = rt.globals["a"] = rt.new(array)
        kept = rt.new_batch(NODE, length)
        rt.store_batch([obj] * length, np.arange(length) * 32 + 8, kept)
        assert rt.gc().freed_objects == 0
        with pytest.raises(pymem.AddressError, match="holds no pointer"):
            rt.store(obj, 32 * (length - 1), obj)
