"""What `pymem info` says of a log of gctrace and of samples: they know amounts, not objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem.cli._output import count, print_facts
from pymem.units import format_bytes, format_duration

if TYPE_CHECKING:
    from pymem.workload.curve import CurveSource
    from pymem.workload.gctrace_log import GCTraceLog
    from pymem.workload.samples import Samples

__all__ = ["amounts_facts", "report_amounts"]

_TIERS = {"gctrace": "a log of GODEBUG=gctrace=1", "samples": "samples of MemStats or runtime/metrics"}


def amounts_facts(file: str) -> dict[str, Any]:
    """Return what a log or a table of samples says, as --json prints it."""
    from pymem.workload.gctrace_log import read_gctrace_log
    from pymem.workload.samples import read_samples
    from pymem.workload.sources import kind_of_file

    if kind_of_file(file) == "samples":
        samples = read_samples(file)
        return _common(file, samples.source(), samples.duration_ns) | _samples(samples)
    log = read_gctrace_log(file)
    return _common(file, log.source(), log.duration_ns) | _log(log)


def _common(file: str, source: CurveSource, duration_ns: int) -> dict[str, Any]:
    assert source.costs is not None
    return {
        "file": file,
        "bytes_on_disk": os.path.getsize(file),
        "tier": source.tier,
        "duration_ns": duration_ns,
        "procs": source.procs,
        "busy_procs": source.busy,
        "bytes_allocated": int(source.allocated[-1]),
        "piece_bytes": source.piece,
        "live_least": int(source.live.min()) if len(source.live) < 3 else int(source.live[1:].min()),
        "live_most": int(source.live.max()),
        "live_last": int(source.live[-1]),
        "roots_bytes": source.globals_bytes,
        "cycles": source.cycles,
        "forced_cycles": int(source.forced.sum()),
        "mark_byte_ns": source.costs.mark_byte_ns,
    }


def _log(log: GCTraceLog) -> dict[str, Any]:
    cycles = log.cycles
    pauses = np.concatenate([cycles["sweep_term_ns"], cycles["mark_term_ns"]])
    marking = sum(int(cycles[name].sum()) for name in ("assist_cpu_ns", "background_cpu_ns", "idle_cpu_ns"))
    return {
        "gogc": log.gogc,
        "peak_heap": int(cycles["heap1"].max()),
        "mark_cpu_ns": marking,
        "longest_pause_ns": int(pauses.max()),
        "lines": log.lines,
        "damaged_lines": log.damaged,
        "healed_lines": log.healed,
        "missing_cycles": log.missing,
        "begins_amid": log.amid,
        "processes": list(log.processes),
    }


def _samples(samples: Samples) -> dict[str, Any]:
    return {
        "gogc": samples.gogc,
        "samples": len(samples),
        "fields": list(samples.columns),
        "damaged_lines": samples.damaged,
        "restarts": samples.restarts,
    }


def report_amounts(facts: dict[str, Any]) -> None:
    """Print them for a reader."""
    forced = f", {count(facts['forced_cycles'])} of them forced" if facts["forced_cycles"] else ""
    lines = [
        ("File", f"{facts['file']} ({format_bytes(facts['bytes_on_disk'])})"),
        ("Recorded as", _TIERS[facts["tier"]]),
        ("Duration", format_duration(facts["duration_ns"])),
        (
            "Ps",
            f"{count(facts['procs'])}, of which the program kept about {count(facts['busy_procs'])} at work",
        ),
        (
            "Allocated",
            f"{format_bytes(facts['bytes_allocated'])}, known in pieces of {format_bytes(facts['piece_bytes'])}",
        ),
        ("Alive", f"{format_bytes(facts['live_least'])} to {format_bytes(facts['live_most'])} at a mark"),
        ("Roots", f"{format_bytes(facts['roots_bytes'])} of globals and stacks"),
        ("GC cycles", f"{count(facts['cycles'])}{forced}"),
        ("Marking", f"{facts['mark_byte_ns']:.2f} ns of a processor for each byte"),
        ("GOGC", "not told" if facts["gogc"] is None else f"{facts['gogc']}"),
    ]
    print_facts([*lines, *(_log_lines(facts) if facts["tier"] == "gctrace" else _sample_lines(facts))])


def _log_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("Peak heap", f"{format_bytes(facts['peak_heap'])} when a mark ended, rounded down to whole MB"),
        ("Longest pause", format_duration(facts["longest_pause_ns"])),
        ("Lines", f"{count(facts['lines'])}, other output among them"),
    ]
    if facts["damaged_lines"] or facts["healed_lines"]:
        lines.append(
            (
                "Broken lines",
                f"{count(facts['damaged_lines'])} lost, {count(facts['healed_lines'])} put together",
            )
        )
    if facts["missing_cycles"]:
        lines.append(
            ("Missing", f"{count(facts['missing_cycles'])} cycles, taken to be like their neighbours")
        )
    if facts["begins_amid"]:
        lines.append(("Beginning", "missing: the heap of the first cycle is taken to be there at the start"))
    if len(facts["processes"]) > 1:
        others = len(facts["processes"]) - 1
        lines.append(("Processes", f"the one with most cycles; {count(others)} more in the log left out"))
    return lines


def _sample_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [("Samples", f"{count(facts['samples'])} of {', '.join(facts['fields'])}")]
    if facts["damaged_lines"]:
        lines.append(
            ("Left out", f"{count(facts['damaged_lines'])} lines without the figures that are needed")
        )
    if facts["restarts"]:
        lines.append(("Restarts", f"{count(facts['restarts'])}: the longest stretch without one is taken"))
    return lines
