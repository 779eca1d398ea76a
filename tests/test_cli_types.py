"""`pymem types`, `pymem fragmentation`, `pymem doctor`: what they print, in words and as JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import LRU, NO_ALLOCATIONS, Command, assert_one_line

from pymem.workload.synthetic import LAB
from pymem.workload.workload import Workload, WorkloadType

# ---- types ----


def test_types(pymem: Command) -> None:
    result = pymem("types", LRU)
    assert result.status == 0
    assert "Types by bytes allocated (the first 20 of" in result.out
    assert "map.group[string]string" in result.out
    assert "deaths are known to a GC cycle" in result.err
    assert "next: pymem types" in result.err


def test_types_json(pymem: Command) -> None:
    answer = pymem("types", LRU, "--json", "--samples", "50").json
    assert (answer["tier"], answer["resolution"]) == ("trace", "cycle")
    assert len(answer["time_ns"]) == len(answer["live_bytes"]) <= 50
    for column in zip(*(t["live_bytes"] for t in answer["types"]), answer["live_bytes"], strict=True):
        assert sum(column[:-1]) == column[-1]
    sizes = [t["allocated_bytes"] for t in answer["types"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == answer["allocated_bytes"]
    document = next(t for t in answer["types"] if t["name"] == "main.document")
    assert document["died_young"] == 0
    assert document["lifetime_cycles"]["p99"] is None
    rate = document["allocated_bytes"] * 1e9 / answer["duration_ns"]
    assert document["bytes_per_second"] == pytest.approx(rate)


def pooled(folder: Path) -> Path:
    """Save 200 buffers of 64 KB, each dead at once."""
    made = Workload.from_arrays(
        np.full(200, 65536),
        noscan=True,
        lifetimes=0,
        types=1,
        type_table=[WorkloadType("main.buf", 65536, 0)],
    )
    return made.save(folder / "bufs.pymem")


def test_pool(pymem: Command, tmp_path: Path) -> None:
    result = pymem("types", pooled(tmp_path), "--pool", "main.*", "--draws", "2")
    assert result.status == 0
    assert "200, of which the pool serves 199 (99.5 %)" in result.out
    assert "pool on main.*" in result.out
    assert "a pool at its best" in result.err


def test_pool_json(pymem: Command, tmp_path: Path) -> None:
    answer = pymem("types", pooled(tmp_path), "--pool", "main.buf", "--draws", "2", "--json").json
    assert (answer["before"]["allocations"], answer["after"]["allocations"]) == (200, 1)
    assert answer["change"]["allocations"] == {"median": -199, "low": -199, "high": -199}
    assert answer["pool"]["hits"] == 199
    assert (answer["gogc"], answer["draws"]) == (100, 2)


def test_resize_and_noscan(pymem: Command) -> None:
    options = ("--resize", "main.document=96", "--noscan", "main.*", "--draws", "2", "--gogc", "50")
    answer = pymem("types", LRU, *options, "--json").json
    assert answer["gogc"] == 50
    assert answer["pool"] is None
    assert answer["after"]["allocated_bytes"] > answer["before"]["allocated_bytes"]
    result = pymem("types", LRU, *options)
    assert "main.* without pointers, main.document of 96 B" in result.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pool", "main.documnt"), "did you mean 'main.document'"),
        (("--resize", "main.document"), "--resize main.document=48".replace("document", "node")),
        (("--resize", "main.document=x"), "bytes of a value"),
        (("--resize", "main.document=0"), "1 TB"),
        (("--noscan", "nothing*"), "no type"),
        (("--pool", "uint8", "--gogc", "much"), "gogc"),
    ],
)
def test_types_mistakes(pymem: Command, options: tuple[str, ...], words: str) -> None:
    assert_one_line(pymem("types", LRU, *options), words)


# ---- fragmentation ----


def test_fragmentation(pymem: Command) -> None:
    result = pymem("fragmentation", LRU)
    assert result.status == 0
    assert "\nLook at the 288 B class with pointers" in result.out
    assert "Size classes by bytes lost" in result.out
    assert "pymem record --exact" in result.err


def test_fragmentation_json(pymem: Command) -> None:
    answer = pymem("fragmentation", LRU, "--json").json
    assert answer["sizes"] == "least"
    assert answer["advice"].startswith("Look at")
    for moment in (answer["peak"], answer["end"]):
        assert sum(c["lost"] for c in moment["classes"]) == moment["lost"]
        assert sum(c["bytes_in_spans"] for c in moment["classes"]) == moment["bytes_in_spans"]
    maps = answer["address_map"]
    assert len(maps["maps"]) == len(answer["timeline"]["time_ns"]) == 64
    cells = [sum(n for _, n in m["runs"]) for m in maps["maps"]]
    assert cells == sorted(cells)  # the heap does not shrink
    assert all(0 <= use < len(maps["uses"]) for m in maps["maps"] for use, _ in m["runs"])


def test_size_classes(pymem: Command, tmp_path: Path) -> None:
    table = tmp_path / "classes.txt"
    table.write_text("64\n512\n8192\n")
    result = pymem("fragmentation", LRU, "--size-classes", table)
    assert result.status == 0
    assert "more than Go's table" in result.out
    assert "in neither" in result.err
    answer = pymem("fragmentation", LRU, "--size-classes", table, "--json").json["answer"]
    assert answer["own"]["classes"] == 3
    assert answer["own"]["bytes_in_spans"] > answer["go"]["bytes_in_spans"]
    table.write_text("63\n")
    assert_one_line(pymem("fragmentation", LRU, "--size-classes", table), "classes.txt", "line 1")
    assert_one_line(pymem("fragmentation", LRU, "--size-classes", tmp_path / "none"), "none")


# ---- doctor ----


def test_healthy(pymem: Command, workload: Path) -> None:
    result = pymem("doctor", workload)
    assert result.status == 0
    assert "Nothing to do" in result.out


def test_doctor(pymem: Command, tmp_path: Path) -> None:
    result = pymem("doctor", LAB["leak"].make().save(tmp_path / "leak.pymem"))
    assert result.status == 0
    assert "Memory use too high (growth)" in result.out
    assert "The live heap grows all along" in result.out


def test_doctor_json(pymem: Command) -> None:
    answer = pymem("doctor", LRU, "--memory-limit", "10MiB", "--json").json
    assert not answer["healthy"]
    (found,) = answer["findings"]
    assert (found["trouble"], found["rule"]) == ("frequency", "frequent-gc")
    assert found["remedies"]
    assert found["figures"]["gc_cpu"] == answer["figures"]["gc_cpu"] > 0.1
    assert answer["memory_limit"] == 10 << 20


@pytest.mark.parametrize("verb", ["types", "fragmentation", "doctor"])
def test_without_allocations(pymem: Command, verb: str) -> None:
    assert_one_line(pymem(verb, NO_ALLOCATIONS), "no allocation events")
