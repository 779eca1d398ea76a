"""`pymem record`: run a Go program and keep what its memory manager did."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pymem.cli._output import Json, count, note, print_json, suggest
from pymem.errors import ConfigError, PymemError
from pymem.units import format_bytes, format_duration, parse_gogc

if TYPE_CHECKING:
    from pymem.record.tracing import TracedCommand

__all__ = ["record"]

_STDIN = 0
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
_Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="Run it once more, untraced, with the environment's own GOGC and no memory limit, and keep its lines of"
        " gctrace beside the trace, in FILE with .gctrace for .trace.",
    ),
]


def record(
    command: _Command = None,
    *,
    output: _Output = None,
    gogc: _Gogc = None,
    exact: _Exact = None,
    gomaxprocs: _Gomaxprocs = None,
    calibrate: _Calibrate = False,
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
    if exact is not None and calibrate:
        raise ConfigError(
            "--calibrate makes a log for an execution trace, and --exact records none: leave out one of the two"
        )
    if exact is not None:
        return _record_exact(exact, command or [], output, env, stdout)
    if calibrate:
        return _record_twice(command or [], output, env, stdout)
    return _record_trace(command or [], output, env, stdout)


def _environment(gogc: str | None, gomaxprocs: int | None) -> dict[str, str]:
    env = {}
    if gogc is not None:
        percent = parse_gogc(gogc)
        env["GOGC"] = "off" if percent is None else str(percent)
    if gomaxprocs is not None:
        env["GOMAXPROCS"] = str(gomaxprocs)
    return env


def _record_trace(command: list[str], output: str | None, env: dict[str, str], stdout: int | None) -> int:
    from pymem.record.tracing import trace_command

    facts = _run_traced(trace_command(command, output=output, env=env), stdout)
    return _report(facts, as_json=stdout is not None)


def _record_twice(command: list[str], output: str | None, env: dict[str, str], stdout: int | None) -> int:
    """Record the command, and run the very same thing untraced."""
    from pymem.record.calibrate import check_log, log_beside, run_calibration
    from pymem.record.subject import prepare
    from pymem.record.tracing import default_trace, shown

    folder = tempfile.mkdtemp(prefix="pymem-record-")
    try:
        subject = prepare(command, folder=Path(folder))
        trace = Path(output or default_trace(command)).absolute()
        log = log_beside(trace)
        check_log(log)
        beginning = _stdin_position()
        facts = _run_traced(subject.traced(trace, env), stdout)
        if facts["exit_status"]:
            return _report({**facts, "calibration": None}, as_json=stdout is not None)
        note(f"{shlex.quote(facts['file'])} is recorded; now the same once more, untraced")
        if beginning is not None:
            os.lseek(_STDIN, beginning, os.SEEK_SET)
        procs = {name: value for name, value in env.items() if name == "GOMAXPROCS"}
        cycles = run_calibration(subject, log, env=procs, stdout=stdout)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    calibration = {"file": shown(log), "cycles": cycles}
    return _report({**facts, "calibration": calibration}, as_json=stdout is not None)


def _stdin_position() -> int | None:
    """Return where a file that the program reads from is at, to give it once more; None for what cannot go back."""
    try:
        return os.lseek(_STDIN, 0, os.SEEK_CUR)
    except OSError:
        return None


def _run_traced(traced: TracedCommand, stdout: int | None) -> dict[str, Any]:
    """Run a command and return what is to be told of its trace; without one, this ends pymem."""
    from pymem.record.tracing import VARIABLE, shown
    from pymem.trace import EventKind

    for text in traced.notes:
        note(text)
    if not traced.writes_trace:
        note(f"the program has to trace by itself, into {VARIABLE}={traced.trace}")
    status = traced.run(stdout=stdout)
    try:
        info = traced.verify()
    except PymemError as error:
        if status == 0:
            raise
        note(f"{error} (the command ended with status {status})")
        raise typer.Exit(status) from None
    return {
        "file": shown(traced.trace),
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
    return _report(facts, as_json=stdout is not None)


def _report(facts: dict[str, Any], *, as_json: bool) -> int:
    """Tell of a recording, and return the exit status of what was recorded."""
    status = int(facts["exit_status"])
    if as_json:
        print_json(facts)
        return status
    file, calibration = facts["file"], facts.get("calibration")
    what = [format_bytes(facts["bytes"]), f"{count(facts['events'])} events"]
    if "objects" in facts:
        what += [f"{count(facts['objects'])} objects", f"{count(facts['cycles'])} GC cycles"]
        what += [format_duration(facts["duration_ns"])]
    note(f"{shlex.quote(file)}: {', '.join(what)}")
    if facts["incomplete"]:
        note("the recording is incomplete: the program was killed, or its log was full")
    if status:
        note(
            f"the command ended with status {status}"
            + (", and is not run again" if "calibration" in facts else "")
        )
    if calibration:
        log = calibration["file"]
        note(f"{shlex.quote(log)}: {count(calibration['cycles'])} GC cycles of the untraced run")
        suggest(["whatif", file, "--calibrate", log])
    else:
        suggest(["info", file], ["whatif", file])
    return status
