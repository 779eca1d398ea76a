"""`pymem types`: the heap by Go type, and what changing a type would do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.analysis.patterns import UNKNOWN_NAME
from pymem.cli._output import (
    File,
    Json,
    count,
    first_of,
    note,
    print_facts,
    print_json,
    print_table,
    progress,
    settings_text,
    suggest,
)
from pymem.errors import ConfigError
from pymem.units import format_bytes, format_duration

if TYPE_CHECKING:
    from pymem.analysis.census import Census, TypeLife
    from pymem.analysis.comparison import Comparison, Spread
    from pymem.analysis.quantiles import Quantiles

__all__ = ["types"]

_TOP = 20  # types shown; --json has them all

Pool = Annotated[
    list[str] | None,
    typer.Option(
        "--pool", help="Put a sync.Pool on this type (or pattern); may be repeated.", metavar="TYPE"
    ),
]
Resize = Annotated[
    list[str] | None,
    typer.Option("--resize", help="Make a type's values so large; may be repeated.", metavar="TYPE=BYTES"),
]
Noscan = Annotated[
    list[str] | None,
    typer.Option("--noscan", help="Have a type hold no pointers; may be repeated.", metavar="TYPE"),
]
Gogc = Annotated[
    str, typer.Option("--gogc", help="GOGC of the comparison: percent, or off.", metavar="PERCENT")
]
Limit = Annotated[
    str | None, typer.Option("--memory-limit", help="GOMEMLIMIT of the comparison: 512MiB.", metavar="BYTES")
]
Procs = Annotated[int | None, typer.Option("--gomaxprocs", help="Ps of the comparison.", min=1, max=4096)]
Draws = Annotated[
    int, typer.Option("--draws", help="Runs of each side of the comparison: chance differs.", min=1, max=1000)
]
Samples = Annotated[int, typer.Option("--samples", help="Times in --json, at most.", min=1, max=10_000)]


def types(
    file: File,
    *,
    pool: Pool = None,
    resize: Resize = None,
    noscan: Noscan = None,
    gogc: Gogc = "100",
    memory_limit: Limit = None,
    gomaxprocs: Procs = None,
    draws: Draws = 5,
    samples: Samples = 200,
    as_json: Json = False,
) -> None:
    """Show the heap by Go type: who allocates, who lives, for how long, and what dies before its first GC.

    Lifetimes are bytes that the program allocates meanwhile, and recorded GC cycles survived.

    With --pool, --resize or --noscan the program runs again as it was recorded and with these changes, side by side.
    A type is named in full or by a pattern with * and ?. In execution traces a slice has its element's type.
    """
    from pymem.analysis.comparison import Changes

    changes = Changes(
        pool=pool or (), noscan=noscan or (), resize=dict(_sized(text) for text in resize or ())
    )
    if changes:
        settings: dict[str, Any] = {"gogc": gogc, "memory_limit": memory_limit, "gomaxprocs": gomaxprocs}
        _compare(file, changes, as_json=as_json, draws=draws, **settings)
        return
    from pymem.analysis.census import census
    from pymem.workload.sources import open_stream

    with progress("reading", file, quiet=as_json) as tell:
        result = census(open_stream(file), samples=samples, progress=tell)
    if as_json:
        print_json({"file": file, **census_facts(result)})
        return
    _print_census(file, result)
    candidate = _candidate(result)
    suggest(["types", file, "--pool", candidate.name] if candidate else ["fragmentation", file])


def _sized(text: str) -> tuple[str, int]:
    from pymem.units import parse_byte_count

    name, equals, size = text.rpartition("=")
    n = parse_byte_count(size) if equals else None
    if not name or n is None:
        raise ConfigError(f"--resize {text}: write a type and the bytes of a value: --resize main.node=48")
    return name, n


# ---- by type ----


def census_facts(result: Census) -> dict[str, Any]:
    """Return a census as --json prints it; what is not known is null."""
    return {
        "tier": result.tier,
        "resolution": result.resolution,
        "duration_ns": result.duration_ns,
        "known_until_ns": result.known_until_ns,
        "cycles": result.cycles,
        "allocated_bytes": result.allocated_bytes,
        "tiny_parts": result.tiny_parts,
        "time_ns": result.time_ns.tolist(),
        "live_bytes": result.live_bytes.tolist(),
        "types": [_type_facts(result, t) for t in result.types],
    }


def _type_facts(result: Census, t: TypeLife) -> dict[str, Any]:
    return {
        "name": t.name,
        "allocated_objects": t.allocated_objects,
        "allocated_bytes": t.allocated_bytes,
        "bytes_per_second": result.rate(t),
        "largest_bytes": t.largest_bytes,
        "peak_bytes": t.peak_bytes,
        "last_bytes": t.last_bytes,
        "died_young": _known(t.died_young),
        "died_young_bytes": _known(t.died_young_bytes),
        "lifetime_bytes": _known_of(t.lifetime_bytes),
        "lifetime_cycles": _known_of(t.lifetime_cycles),
        "live_bytes": t.live_bytes.tolist(),
        "live_objects": t.live_objects.tolist(),
    }


def _known_of(quantiles: Quantiles) -> dict[str, float | None]:
    return {name: _known(value) for name, value in quantiles._asdict().items()}


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _candidate(result: Census) -> TypeLife | None:
    """Return the type that a pool would serve best: with a name, and most bytes dead young."""
    named = [t for t in result.types if t.name != UNKNOWN_NAME]
    return max(named, key=lambda t: t.allocated_bytes * (_known(t.died_young_bytes) or 0.0), default=None)


def _print_census(file: str, result: Census) -> None:
    print_facts(
        [
            ("File", file),
            ("Duration", f"{format_duration(result.duration_ns)} as recorded; recording slows programs down"),
            ("Allocated", f"{format_bytes(result.allocated_bytes)} of {count(len(result.types))} types"),
            ("Peak live", format_bytes(result.peak_live)),
            ("GC cycles", count(result.cycles)),
        ]
    )
    print_table(
        first_of("Types by bytes allocated", _TOP, len(result.types)),
        [
            "type",
            "objects",
            "allocated",
            "a second",
            "peak",
            "last",
            "p50 life",
            "p90 life",
            "p90 GCs",
            "young",
        ],
        [
            [
                t.name,
                count(t.allocated_objects),
                format_bytes(t.allocated_bytes),
                format_bytes(round(result.rate(t))),
                format_bytes(t.peak_bytes),
                format_bytes(t.last_bytes),
                _lifetime(t.lifetime_bytes.p50),
                _lifetime(t.lifetime_bytes.p90),
                _cycles(t.lifetime_cycles.p90),
                _share(t.died_young),
            ]
            for t in result.types[:_TOP]
        ],
    )
    print(
        "last: at the last sample whose deaths are known; life: bytes that the program allocates while half, or 9 in\n"
        "10, of the objects die (longer: too short a recording to tell); GCs: cycles that 9 in 10 do not outlive;\n"
        "young: share dead before their first GC"
    )
    if result.resolution == "cycle":
        note(
            "deaths are known to a GC cycle: lifetimes in bytes are estimates, and what died last is not yet known"
        )


def _lifetime(value: float) -> str:
    return format_bytes(int(value)) if math.isfinite(value) else "longer"


def _cycles(value: float) -> str:
    return count(int(value)) if math.isfinite(value) else "more"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if math.isfinite(value) else "?"


# ---- side by side ----


def _compare(file: str, changes: Any, *, as_json: bool, **settings: Any) -> None:
    from pymem.analysis.comparison import compare
    from pymem.workload.sources import open_stream

    with progress("comparing", file, quiet=as_json) as tell:
        result = compare(open_stream(file), changes, progress=tell, **settings)
    if as_json:
        print_json({"file": file, **comparison_facts(result)})
        return
    _print_comparison(file, changes, result)
    suggest(["types", file])


def comparison_facts(result: Comparison) -> dict[str, Any]:
    """Return a comparison as --json prints it."""
    return {
        "gogc": result.gogc,
        "memory_limit": result.memory_limit,
        "gomaxprocs": result.gomaxprocs,
        "draws": result.draws,
        "before": result.before._asdict(),
        "after": result.after._asdict(),
        "change": {
            name: {"median": c.median, "low": c.low, "high": c.high} for name, c in result.changes.items()
        },
        "pool": result.pool,
    }


_FIGURES = (
    ("allocations", "allocations", "count"),
    ("allocated_bytes", "allocated", "bytes"),
    ("num_gc", "GC cycles", "count"),
    ("peak_heap", "peak heap", "bytes"),
    ("mean_heap", "mean heap", "bytes"),
    ("peak_footprint", "peak footprint", "bytes"),
    ("gc_cpu", "GC CPU", "share"),
    ("gc_cpu_ns", "GC CPU time", "time"),
    ("assist_ns", "assists", "time"),
    ("pause_ns", "pauses", "time"),
    ("marked_bytes", "marked", "bytes"),
    ("allocation_cpu_ns", "allocating, estimated", "time"),
)


def _print_comparison(file: str, changes: Any, result: Comparison) -> None:
    said = [f"pool on {name}" for name in changes.pool] + [
        f"{name} without pointers" for name in changes.noscan
    ]
    said += [f"{name} of {size:,} B" for name, size in changes.resize.items()]
    print_facts(
        [
            ("File", file),
            ("Change", ", ".join(said)),
            ("Under", settings_text(result)),
        ]
    )
    rows = []
    for name, title, unit in _FIGURES:
        before, after, change = (
            getattr(result.before, name),
            getattr(result.after, name),
            result.changes[name],
        )
        rows.append(
            [title, _amount(before, unit), _amount(after, unit), _change(before, after, change, unit)]
        )
    print_table(
        f"Side by side (medians of {result.draws} runs each)", ["", "as recorded", "changed", "change"], rows
    )
    if any(row[3].endswith("?") for row in rows):
        print("?: goes either way from run to run, so it is no clear change")
    _print_pool(result)


def _amount(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.1f} %"
    whole = round(value)
    sign = "-" if whole < 0 else ""
    forms = {"count": count, "bytes": format_bytes, "time": format_duration}
    return sign + forms[unit](abs(whole))


def _change(before: float, after: float, change: Spread, unit: str) -> str:
    """Write the change from one median to the other; ? where single runs go either way."""
    if change.low == change.high == 0:
        return "none"
    if unit == "share":
        text = f"{100 * (after - before):+.1f} points"
    else:
        text = f"{100 * (after - before) / before:+.1f} %" if before else _amount(after, unit)
    return text if change.clear else f"{text} ?"


def _print_pool(result: Comparison) -> None:
    use = result.pool
    if use is None:
        return
    share = 100 * use.hits / use.gets if use.gets else 0.0
    print()
    print_facts(
        [
            ("Gets", f"{count(use.gets)}, of which the pool serves {count(use.hits)} ({share:.1f} %)"),
            ("Saved", f"{format_bytes(use.hit_bytes)} of allocation"),
            ("Puts", f"{count(use.puts)}; {count(use.dropped)} are dropped after two GC cycles unused"),
            (
                "Retained",
                f"at most {format_bytes(use.peak_idle_bytes)} in {count(use.peak_idle_objects)} idle objects",
            ),
        ]
    )
    note(
        "a pool at its best: every object is put back when it dies, and Get, Put and clearing cost nothing; the"
        " program's own time is the record's on both sides"
    )
