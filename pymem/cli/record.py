"""`pymem record`: run a Go program and keep what its memory manager did."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from pymem.cli._output import Json, count, note, print_json, suggest
from pymem.errors import PymemError
from pymem.units import format_bytes, format_duration, parse_gogc

__all__ = ["record"]

_STDERR = 2  # with --json, stdout is for the answer: what the program prints goes here

_Command = Annotated[
    list[str] | None,
    typer.Argument(metavar="COMMAND", help="What to run; with --exact, the program's arguments."),
]
_Output = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FILE", help="The recording to write.")
]
_Gogc = Annotated[
    str | None,
    typer.Option(
        metavar="PERCENT", help="GOGC of the program; 20 dates deaths more finely. [default: as it is]"
    ),
]
_Exact = Annotated[
    str | None,
    typer.Option(
        metavar="PKG",
        help="Build this package with a recording runtime (Go 1.27, Linux) and log every event.",
    ),
]
_Gomaxprocs = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=254, help="GOMAXPROCS of the program. [default: as it is]"),
]


def record(
    command: _Command = None,
    *,
    output: _Output = None,
    gogc: _Gogc = None,
    exact: _Exact = None,
    gomaxprocs: _Gomaxprocs = None,
    as_json: Json = False,
) -> int:
    """Record a Go program.

    The command has to write an execution trace: pymem adds the flag to `go test`, to a compiled test and to
    `go tool compile`, and sets GODEBUG=traceallocfree=1. Any other program traces by itself
    (runtime/trace), into the file that $PYMEM_TRACE names: the one of -o. With --exact no trace is needed: the
    package is rebuilt with a runtime that logs every event. Ends with the exit status of the command.
    """
    env = _environment(gogc, gomaxprocs)
    stdout = _STDERR if as_json else None
    if exact is None:
        return _record_trace(command or [], output, env, stdout)
    return _record_exact(exact, command or [], output, env, stdout)


def _environment(gogc: str | None, gomaxprocs: int | None) -> dict[str, str]:
    env = {}
    if gogc is not None:
        percent = parse_gogc(gogc)
        env["GOGC"] = "off" if percent is None else str(percent)
    if gomaxprocs is not None:
        env["GOMAXPROCS"] = str(gomaxprocs)
    return env


def _record_trace(command: list[str], output: str | None, env: dict[str, str], stdout: int | None) -> int:
    from pymem.record.tracing import VARIABLE, shown, trace_command
    from pymem.trace import EventKind

    traced = trace_command(command, output=output, env=env)
    for text in traced.notes:
        note(text)
    path = shown(traced.trace)
    if not traced.writes_trace:
        note(f"the program has to trace by itself, into {VARIABLE}={traced.trace}")
    status = traced.run(stdout=stdout)
    try:
        info = traced.verify()
    except PymemError as error:
        return _failed(error, status)
    facts = {
        "file": path,
        "tier": "trace",
        "command": list(traced.words),
        "exit_status": status,
        "bytes": traced.trace.stat().st_size,
        "events": info.events,
        "objects": info.counts[EventKind.OBJECT_ALLOC],
        "cycles": info.counts[EventKind.GC_BEGIN],
        "duration_ns": info.duration_ns,
        "incomplete": info.incomplete,
    }
    _report(facts, as_json=stdout is not None)
    return status


def _record_exact(
    package: str, arguments: list[str], output: str | None, env: dict[str, str], stdout: int | None
) -> int:
    from pymem.record import build_recorder, check_recordable, record_binary
    from pymem.record.tracing import check_writable, shown

    log = Path(output or f"{Path(package).absolute().name.removesuffix('.go')}.pymemlog")
    check_writable(log)
    check_recordable(log, env=env)
    note(f"building {package} with the recording runtime (the first build of a toolchain takes a minute)")
    folder = tempfile.mkdtemp(prefix="pymem-record-")
    try:
        binary = build_recorder(package, Path(folder) / "program")
        recorded = record_binary(binary, arguments, output=log, env=env, stdout=stdout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts = {
        "file": shown(log),
        "tier": "exact",
        "command": [package, *arguments],
        "exit_status": recorded.exit_status,
        "bytes": log.stat().st_size,
        "events": recorded.records,
        "incomplete": recorded.truncated,
    }
    _report(facts, as_json=stdout is not None)
    return recorded.exit_status


def _failed(error: PymemError, status: int) -> int:
    """Report a recording that is no use, and pass on the status of a command that failed itself."""
    if status == 0:
        raise error
    note(f"{error} (the command ended with status {status})")
    return status


def _report(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    what = [format_bytes(facts["bytes"]), f"{count(facts['events'])} events"]
    if "objects" in facts:
        what += [f"{count(facts['objects'])} objects", f"{count(facts['cycles'])} GC cycles"]
        what += [format_duration(facts["duration_ns"])]
    note(f"{shlex.quote(facts['file'])}: {', '.join(what)}")
    if facts["incomplete"]:
        note("the recording is incomplete: the program was killed, or its log was full")
    if facts["exit_status"]:
        note(f"the command ended with status {facts['exit_status']}")
    suggest(["info", facts["file"]], ["replay", facts["file"]])
