"""The command `pymem`: its verbs, and how every error becomes one line and an exit status."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pymem.cli.check import check
from pymem.cli.doctor import doctor
from pymem.cli.export import export
from pymem.cli.fragmentation import fragmentation
from pymem.cli.info import info
from pymem.cli.lab import lab
from pymem.cli.record import record
from pymem.cli.replay import replay
from pymem.cli.report import report
from pymem.cli.types import types
from pymem.cli.whatif import recommend, whatif
from pymem.errors import CorruptHeapError, PymemError

__all__ = ["app", "main"]

ERROR = 2
INTERRUPTED = 130

_COMMAND_LINE_ERROR: type[Exception] = typer.BadParameter.__mro__[
    2
]  # ClickException, wherever typer has it from


class _StopError(Exception):
    """A verb was interrupted, or lost its reader; typer has answers of its own to these, which differ by version."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, BrokenPipeError) as stop:
            raise _StopError from stop


app = typer.Typer(
    cls=_Verbs,
    name="pymem",
    help="Go 1.27's memory manager: record a real Go program, replay it, and check every address.",
    epilog=(
        "\b\nExample:\n  pymem record -o json.trace -- go test -bench . encoding/json\n  pymem replay json.trace\n\n"
        "Set PYMEM_TRACEBACK=1 to see where an error comes from."
    ),
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pymem {version('pymem-go')}, emulates Go 1.27")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _pymem(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _example(*lines: str) -> str:
    """Return an epilog that keeps its lines."""
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


app.command(
    epilog=_example(
        "pymem record -o json.trace -- go test -bench . encoding/json",
        "pymem record --gogc 20 --calibrate -o app.trace -- go test -bench . -benchtime 100x",
        "pymem record --gogc 20 -o types.trace -- go tool compile -o /dev/null types.go",
        "pymem record -o app.trace -- ./app        # the program traces into $PYMEM_TRACE",
        "pymem record --exact ./cmd/app -o app.log --gomaxprocs 1 -- -n 1000",
    ),
    context_settings={"allow_interspersed_args": False},
)(record)
app.command(epilog=_example("pymem info json.trace", "pymem info json.trace --json | jq .objects"))(info)
app.command(
    epilog=_example(
        "pymem replay json.trace",
        "pymem replay json.trace --json | jq .memstats.HeapSys",
        "pymem replay json.trace --gogc 200 --memory-limit 512MiB",
        "pymem replay json.trace --gogc 50 --gctrace",
    )
)(replay)
app.command(
    epilog=_example(
        "pymem whatif json.trace",
        "pymem whatif json.trace --gogc 50,100,off --memory-limit off,64MiB --gomaxprocs 2,4",
        "pymem whatif json.trace --memory-limit 64MiB --leak 5MiB/min --json | jq .rows[0].leak",
    )
)(whatif)
app.command(
    epilog=_example(
        "pymem recommend json.trace --limit 64MiB",
        "pymem recommend json.trace --limit 2GiB --max-gc-cpu 5% --headroom 20%",
    )
)(recommend)
app.command(
    epilog=_example(
        "pymem types json.trace",
        "pymem types json.trace --pool main.tree --gogc 50",
        "pymem types json.trace --resize main.tree=64 --noscan uint8",
        "pymem types json.trace --json | jq .types[0].lifetime_bytes",
    )
)(types)
app.command(
    epilog=_example(
        "pymem fragmentation json.trace",
        "pymem fragmentation json.trace --size-classes classes.txt",
        "pymem fragmentation json.trace --json | jq .advice",
    )
)(fragmentation)
app.command(
    epilog=_example(
        "pymem doctor json.trace",
        "pymem doctor json.trace --gogc 50 --memory-limit 64MiB",
        "pymem doctor json.trace --json | jq .findings[].rule",
    )
)(doctor)
app.command(
    epilog=_example(
        "pymem check json.trace",
        "pymem check app.log --mode open-loop --fail-under 1",
        "pymem check --rerun -- go test -run NONE -bench Marshal -benchtime 200x encoding/json",
        "pymem check --rerun --gogc 100,off --memory-limit 1.3x,2x --reruns 3 -- ./app",
    )
)(check)
app.command(
    epilog=_example(
        "pymem export --to pprof json.trace -o heap.pb.gz && go tool pprof -top heap.pb.gz",
        "pymem export --to pprof --by site app.log --at peak -o heap.pb.gz",
        "pymem export --to perfetto json.trace --gogc 50 -o json.pftrace",
        "pymem export --to benchfmt json.trace --gogc 50,100,200 -o new.txt && benchstat old.txt new.txt",
        "pymem export --to gctrace json.trace --gogc 200",
        "pymem export --to csv json.trace --table timeline | head",
    )
)(export)
app.command(
    epilog=_example(
        "pymem report json.trace",
        "pymem report json.trace --whatif 25,50,100,200,400",
        "pymem report json.trace --gogc 200 --memory-limit 512MiB -o json.html --png pictures",
    )
)(report)
app.command(epilog=_example("pymem lab", "pymem lab churn", "pymem lab churn --save churn.pymem"))(lab)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name) and return its exit status."""
    _replace_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of types are any Unicode; terminals are not
    try:
        status = app(list(sys.argv[1:] if arguments is None else arguments), standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_broken()
    except _StopError as stopped:
        if isinstance(stopped.__cause__, BrokenPipeError):
            return _pipe_broken()
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if os.environ.get("PYMEM_TRACEBACK"):
            raise
        return _fail(_sentence(error), ERROR)
    return int(status or 0)


def _replace_closed() -> None:
    """Throw away what goes to a stream that is closed (`>&-`). To Python it is None; a command we run would lack it."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))


def _fail(sentence: str, status: int) -> int:
    one_line = " ".join(sentence.split())
    print(f"pymem: {one_line}".encode("ascii", "backslashreplace").decode(), file=sys.stderr)
    return status


def _pipe_broken() -> int:
    """Who read our output has gone: end quietly, also when Python flushes at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


_REMEDIES = {
    errno.ENOENT: "check the name, or make a recording with `pymem record`",
    errno.EISDIR: "give a file in it",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "choose another place with -o",
    errno.ENOSPC: "make room on the disk, or choose another place",
    errno.ENOTDIR: "check the name",
}


def _sentence(error: Exception) -> str:
    """Say what went wrong, where, and what to do about it."""
    if isinstance(error, _COMMAND_LINE_ERROR):
        return _usage(error)
    if isinstance(error, CorruptHeapError):
        return f"{error}; this is a bug in pymem, please report it with the recording"
    if isinstance(error, PymemError):
        return str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "")
        return f"{where}{error.strerror or error}{'; ' + remedy if remedy else ''}"
    if isinstance(error, MemoryError):
        return f"{str(error) or 'out of memory'}; close other programs, or record a shorter run"
    return (
        f"{type(error).__name__}: {error}; this is a bug in pymem: please report it with what"
        " PYMEM_TRACEBACK=1 adds"
    )


def _usage(error: Exception) -> str:
    """Turn a mistake on the command line into one line that names the help to read."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "pymem"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    message = message.replace("Value error, ", "")  # pydantic's word, where typer has its types from there
    return f"{message.rstrip('.')}; `{command} --help` has the options and an example"
