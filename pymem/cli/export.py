"""`pymem export`: a recording, or a rerun of it, for other tools."""

from __future__ import annotations

import io
import shlex
import sys
from itertools import product
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._output import File, Json, Progress, count, note, print_json, progress
from pymem.cli.replay import Limit
from pymem.errors import ConfigError

if TYPE_CHECKING:
    from pymem.export import History
    from pymem.export.heap_profile import HeapProfile
    from pymem.rerun import Rerun

__all__ = ["export"]

_OPEN_WITH = {
    "pprof": "go tool pprof -top {}",
    "perfetto": "open {} in a browser at https://ui.perfetto.dev",
    "benchfmt": "benchstat {}",
}
_TEXT = ("gctrace", "benchfmt", "csv")
_RERUNS_ONLY = ("gctrace", "benchfmt")
_DEFAULTS = {"gogc": "100", "memory_limit": "off", "gomaxprocs": ""}
_FORMATS = ("pprof", "perfetto", "gctrace", "benchfmt", "csv", "parquet")

To = Annotated[str, typer.Option("--to", help=f"One of {', '.join(_FORMATS)}.", metavar="FORMAT")]
Output = Annotated[
    str,
    typer.Option("-o", "--output", help=f"File to write; - (stdout) for {', '.join(_TEXT)}.", metavar="OUT"),
]
Gogc = Annotated[
    str | None,
    typer.Option(
        "--gogc",
        help="Export a rerun under GOGC=this: percent, or off. benchfmt: several, as 50,100,off.",
        metavar="PERCENT",
    ),
]
Procs = Annotated[
    str | None,
    typer.Option("--gomaxprocs", help="Export a rerun on so many Ps. benchfmt: several.", metavar="N"),
]
Table = Annotated[
    str, typer.Option("--table", help="csv, parquet: cycles, or timeline (samples).", metavar="NAME")
]
At = Annotated[
    str,
    typer.Option("--at", help="pprof: end, or peak, the moment of the largest heap.", metavar="MOMENT"),
]
By = Annotated[str, typer.Option("--by", help="pprof: type, or site (of exact recordings).", metavar="WHAT")]


def export(
    file: File,
    *,
    to: To,
    output: Output = "-",
    gogc: Gogc = None,
    memory_limit: Limit = None,
    gomaxprocs: Procs = None,
    table: Table = "cycles",
    at: At = "end",
    by: By = "type",
    as_json: Json = False,
) -> None:
    """Write a recording in a format of other tools.

    By itself the recorded run; with --gogc, --memory-limit or --gomaxprocs a rerun under these settings, where what is
    not given is 100, off, and as recorded. gctrace and benchfmt tell of reruns only.

    pprof: the heap by type, or by place in the program. perfetto: heap, goal, cycles and who marked, over time.
    gctrace: Go's lines. benchfmt: Go's benchmark results, one a rerun; with several values a sweep. csv, parquet: a row
    a cycle, or a sample.
    """
    if to not in _FORMATS:
        raise ConfigError(f"format {to!r}: give one of {', '.join(_FORMATS)}")
    if output == "-" and (to not in _TEXT or as_json):
        raise ConfigError(f"{'--json' if as_json else to} needs a file to write to: give one with -o")
    if Path(output).exists() and Path(file).exists() and Path(output).samefile(file):
        raise ConfigError(f"{output} is the recording itself: choose another file to write")
    settings = {"gogc": gogc, "memory_limit": memory_limit, "gomaxprocs": gomaxprocs}
    job = _Job(file, to, {k: v for k, v in settings.items() if v is not None}, table=table, at=at, by=by)
    if output == "-":
        text = io.BytesIO()
        with progress("exporting", file, quiet=as_json) as tell:
            job.write(text, tell)
        sys.stdout.write(text.getvalue().decode())
        return
    from pymem._files import written

    with written(output) as out, progress("exporting", file, quiet=as_json) as tell:
        job.write(out, tell)
        size = out.tell()
    if as_json:
        print_json({"file": file, "to": to, "output": output, "bytes": size, **job.facts})
        return
    note(f"wrote {output}: {to}, {count(size)} bytes")
    if to in _OPEN_WITH:
        print(f"next: {_OPEN_WITH[to].format(shlex.quote(output))}", file=sys.stderr)


class _Job:
    """One export."""

    def __init__(self, file: str, to: str, settings: dict[str, str], *, table: str, at: str, by: str) -> None:
        self._file, self._to, self._settings = file, to, settings
        self._table, self._at, self._by = table, at, by
        self.facts: dict[str, Any] = {}
        """For --json: what the file holds."""
        if to in _RERUNS_ONLY and not settings:
            raise ConfigError(
                f"{to} tells of reruns, not of the recorded run: give settings for one, such as --gogc 100"
            )

    def write(self, out: IO[bytes], tell: Progress | None) -> None:
        """Write the content of the file."""
        match self._to:
            case "pprof":
                self._pprof(out, tell)
            case "perfetto":
                from pymem.export.perfetto import write_perfetto

                write_perfetto(self._history(tell), out)
            case "gctrace":
                from pymem.export.gctrace import gctrace

                out.write(gctrace(self._history(tell)).encode())
            case "benchfmt":
                from pymem.export.benchfmt import benchfmt

                out.write(benchfmt(self._sweep(tell)).encode())
            case _:
                self._tables(out, tell)

    def _pprof(self, out: IO[bytes], tell: Progress | None) -> None:
        from pymem.export.pprof import pprof

        profile = self._profile(tell)
        self.facts |= {"samples": len(profile.samples), "at_ns": profile.at_ns}
        out.write(pprof(profile))

    def _profile(self, tell: Progress | None) -> HeapProfile:
        from pymem.export.heap_profile import site_profile, type_profile
        from pymem.workload.sources import open_stream

        if self._by not in ("type", "site"):
            raise ConfigError(f"--by {self._by!r}: give type or site")
        if self._settings and (self._at, self._by) != ("end", "type"):
            raise ConfigError(
                "of a rerun only the heap by type at its end is known: leave out --at and --by, or the settings"
            )
        if self._by == "site":
            return site_profile(self._file, at=self._at)
        rerun = self._rerun(None) if self._settings else None
        return type_profile(open_stream(self._file), at=self._at, rerun=rerun, progress=tell)

    def _tables(self, out: IO[bytes], tell: Progress | None) -> None:
        from pymem.export.tables import check_table, table, write_csv, write_parquet

        check_table(self._table)
        history = self._history(tell)
        columns = table(history, self._table)
        self.facts |= {"table": self._table, "columns": list(columns)}
        if self._to == "csv":
            write_csv(columns, out)
        else:
            write_parquet(columns, out, history=history)

    # ---- what is told ----

    def _history(self, tell: Progress | None) -> History:
        from pymem.export import recorded_history, rerun_history
        from pymem.workload.sources import open_stream

        name = Path(self._file).name
        if self._settings:
            history = rerun_history(self._rerun(tell), source=name)
        else:
            history = recorded_history(open_stream(self._file), name=name, progress=tell)
        self.facts |= {
            "settings": history.settings,
            "cycles": len(history.cycles),
            "samples": len(history.timeline),
        }
        return history

    def _rerun(self, tell: Progress | None) -> Rerun:
        from pymem.rerun import rerun
        from pymem.workload.sources import open_stream

        gogc, limit, procs = (self._settings.get(name) for name in ("gogc", "memory_limit", "gomaxprocs"))
        return rerun(
            open_stream(self._file),
            gogc="100" if gogc is None else gogc,
            memory_limit=limit,
            gomaxprocs=None if procs is None else _procs(procs),
            progress=tell,
        )

    def _sweep(self, tell: Progress | None) -> list[Rerun]:
        """Rerun under all combinations of the settings."""
        from pymem.program import read_program
        from pymem.rerun import rerun
        from pymem.workload.sources import open_stream

        gogc, limits, procs = (self._settings.get(n, d) for n, d in _DEFAULTS.items())
        grid = [
            (g, m, _procs(p) if p else None)
            for g, m, p in product(gogc.split(","), limits.split(","), procs.split(","))
        ]
        program = read_program(open_stream(self._file))
        runs = []
        for g, m, p in grid:
            runs.append(rerun(program, gogc=g, memory_limit=m, gomaxprocs=p))
            if tell:
                tell(len(runs), len(grid))
        self.facts |= {"benchmarks": len(runs)}
        return runs


def _procs(text: str) -> int:
    """Return a number of Ps."""
    if not text.isdecimal():
        raise ConfigError(f"gomaxprocs={text!r}: give a whole number from 1 on")
    return int(text)
