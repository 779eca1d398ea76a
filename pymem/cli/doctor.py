"""`pymem doctor`: the three classic troubles, or nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._output import (
    File,
    Json,
    note,
    print_facts,
    print_json,
    progress,
    settings_text,
    suggest,
)
from pymem.units import format_bytes

if TYPE_CHECKING:
    from pymem.analysis.doctor import Diagnosis

__all__ = ["doctor"]

Gogc = Annotated[
    str, typer.Option("--gogc", help="GOGC that the program runs with: percent, or off.", metavar="PERCENT")
]
Limit = Annotated[
    str | None, typer.Option("--memory-limit", help="GOMEMLIMIT that it runs with: 512MiB.", metavar="BYTES")
]
Procs = Annotated[int | None, typer.Option("--gomaxprocs", help="Ps that it runs on.", min=1, max=4096)]

_TITLES = {
    "memory": "Memory use too high",
    "frequency": "Collections too frequent",
    "churn": "Churn",
}


def doctor(
    file: File,
    *,
    gogc: Gogc = "100",
    memory_limit: Limit = None,
    gomaxprocs: Procs = None,
    as_json: Json = False,
) -> None:
    """Look for the three classic troubles of a Go heap: memory use too high, collections too frequent, churn.

    Each is found by a rule (docs/doctor.md has them) and told with its figures, suspects and the usual remedies.
    Without evidence there is no finding. Give the settings that the program runs with in earnest.
    """
    from pymem.analysis.doctor import diagnose
    from pymem.workload.sources import open_stream

    with progress("examining", file, quiet=as_json) as tell:
        result = diagnose(
            open_stream(file), gogc=gogc, memory_limit=memory_limit, gomaxprocs=gomaxprocs, progress=tell
        )
    if as_json:
        print_json({"file": file, **doctor_facts(result)})
        return
    _print(file, result)
    suggest(["fragmentation" if _about_spans(result) else "types", file])


def doctor_facts(result: Diagnosis) -> dict[str, Any]:
    """Return a diagnosis as --json prints it."""
    return {
        "gogc": result.gogc,
        "memory_limit": result.memory_limit,
        "gomaxprocs": result.gomaxprocs,
        "healthy": not result.findings,
        "findings": [
            {
                "trouble": f.trouble,
                "rule": f.rule,
                "sentence": f.sentence,
                "figures": f.figures,
                "types": [{"name": name, "bytes": size} for name, size in f.types],
                "remedies": list(f.remedies),
            }
            for f in result.findings
        ],
        "unjudged": list(result.unjudged),
        "figures": result.figures,
    }


def _about_spans(result: Diagnosis) -> bool:
    return any(f.rule in {"fragmentation", "large-objects"} for f in result.findings)


def _print(file: str, result: Diagnosis) -> None:
    told = result.figures
    print_facts(
        [
            ("Examined", file),
            ("Under", settings_text(result)),
            ("Live at most", format_bytes(told["peak_live"])),
            ("Peak footprint", format_bytes(round(told["peak_footprint"]))),
            ("GC", f"{told['num_gc']:,} cycles, {100 * told['gc_cpu']:.1f} % of the CPU"),
            (
                "Allocated",
                f"{format_bytes(told['allocated_bytes'])}, {format_bytes(round(told['bytes_per_second']))}/s",
            ),
            ("Dead young", f"{100 * told['died_young_bytes']:.1f} % of the bytes"),
        ]
    )
    if not result.findings:
        print("\nNothing to do" + (", as far as so short a recording tells." if result.unjudged else "."))
    for finding in result.findings:
        print(f"\n{_TITLES[finding.trouble]} ({finding.rule})")
        print(f"  {finding.sentence}")
        if finding.types:
            print(f"  Types: {', '.join(f'{name} {format_bytes(size)}' for name, size in finding.types)}")
        for remedy in finding.remedies:
            print(f"  - {remedy}")
    for sentence in result.unjudged:
        note(sentence)
