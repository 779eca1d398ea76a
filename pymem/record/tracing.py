"""Recording with the stock toolchain: a command that writes an execution trace with allocation events."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymem._files import check_regular
from pymem.errors import RecordingError, TraceError
from pymem.record._process import run
from pymem.record.overlay import find_toolchain
from pymem.trace import TraceInfo, TraceReader

__all__ = [
    "VARIABLE",
    "TracedCommand",
    "check_writable",
    "default_trace",
    "shown",
    "trace_command",
    "verify_trace",
    "without_allocations",
]

VARIABLE = "PYMEM_TRACE"
"""Environment variable that tells a recorded program which file to trace into."""

_SETTING = "traceallocfree"
_FLAGS = ("trace", "test.trace", "traceprofile")


@dataclass(frozen=True, slots=True)
class TracedCommand:
    """A command made ready to leave a trace; `run` runs it, `verify` looks at what it left."""

    words: tuple[str, ...]
    env: dict[str, str]
    trace: Path
    """Where the trace will be."""
    writes_trace: bool
    """A flag makes the command write it; otherwise the program itself has to, into $PYMEM_TRACE."""
    notes: tuple[str, ...]
    """What a user should know of before it runs."""
    before: tuple[int, int] | None
    """Inode and time of change (ns) of a file that is there already, to be told from a new one."""
    cwd: Path | None = None
    """Where it runs; None: here."""

    def run(self, *, stdout: int | None = None) -> int:
        """Run the command and return its exit status as a shell would say it."""
        return run(self.words, env=self.env, cwd=self.cwd, stdout=stdout)

    def verify(self) -> TraceInfo:
        """Return what the trace says about itself; RecordingError without one, or one without allocations."""
        if _identity(self.trace) in {None, self.before}:
            raise RecordingError(f"{shown(self.trace)}: the command wrote no trace there; {self._remedy()}")
        return verify_trace(shown(self.trace))

    def _remedy(self) -> str:
        if self.writes_trace:
            return "its own messages say why"
        return (
            f"let it trace (runtime/trace, trace.Start) into the file that ${VARIABLE} names, or give -o the"
            " file that it writes"
        )


def trace_command(
    command: Sequence[str],
    *,
    output: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> TracedCommand:
    """Make a command leave an execution trace with allocation events: its flags and its environment.

    `go test`, a compiled test binary and `go tool compile` get the flag that makes them trace, if it is not there
    already; any other command has to trace by itself. `env` (GOGC, say) is added to the environment.
    Raises RecordingError where the command does not exist or contradicts `output`, or where `output` cannot be
    written.
    """
    if not command:
        raise RecordingError("no command to record; give one, such as `pymem record -- go test -bench .`")
    words, notes = _with_toolchain(list(command))
    at, flag = _trace_flag(words)
    given = _given_trace(words, at)
    if given and output and flag and given != Path(output).absolute():
        raise RecordingError(
            f"{shown(given)}: -{flag} names this trace and -o names {output}; give one of the two"
        )
    path = Path(output).absolute() if output else given or Path(_default_name(words, at)).absolute()
    before = _identity(path)
    check_writable(path)
    if flag and not given:
        words[at:at] = [f"-{flag}={path}", *_keep_no_binary(words, at, flag)]
    return TracedCommand(
        words=tuple(words),
        env=_environment(path, env),
        trace=path,
        writes_trace=bool(flag or given),
        notes=tuple(notes),
        before=before,
    )


def verify_trace(path: str | os.PathLike[str]) -> TraceInfo:
    """Decode a trace to its end and return what it says about itself; TraceError without allocation events."""
    with TraceReader(path, kinds=()) as reader:
        for _ in reader.batches():
            pass
        info = reader.info
    if not info.has_allocations:
        raise TraceError(f"{os.fspath(path)}: {without_allocations(info)}")
    return info


def without_allocations(info: TraceInfo) -> str:
    """Say why a trace has no allocation events, and what to do."""
    if info.version < 23:
        return f"a trace of Go 1.{info.version}, which cannot record allocations; record with Go 1.27"
    return f"a trace without allocation events; record it under GODEBUG={_SETTING}=1, as `pymem record -- COMMAND` does"


def shown(path: Path) -> str:
    """Return a path as a user would type it here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _with_toolchain(words: list[str]) -> tuple[list[str], list[str]]:
    """Replace a bare `go` by a Go 1.27 where there is one, and say so if it is not the one on the PATH."""
    on_path = shutil.which(words[0])
    if words[0] != "go":
        if on_path is None:
            raise RecordingError(f"{words[0]}: no such command; check its name and the PATH")
        return words, []
    try:
        toolchain = find_toolchain(cwd=_folder(words))
    except RecordingError as error:
        if on_path is None:
            raise
        return words, [f"{error}; recording with it all the same"]
    if on_path and Path(on_path) != toolchain.go:
        return [str(toolchain.go), *words[1:]], [
            f"using {toolchain.go} ({toolchain.version}): the go on the PATH, {on_path}, is no Go 1.27"
        ]
    return [str(toolchain.go), *words[1:]], []


def _subcommand(words: list[str]) -> int:
    """Index of the go command's subcommand: only -C DIR may stand in front of it."""
    if len(words) > 1 and words[1].lstrip("-").partition("=")[0] == "C":
        return 2 if "=" in words[1] else 3
    return 1


def _folder(words: list[str]) -> Path | None:
    """Return the folder that `go -C` changes to."""
    at = _subcommand(words)
    folder = words[1].partition("=")[2] if at == 2 else words[2] if at == 3 and len(words) > 2 else None
    return Path(folder) if folder and Path(folder).is_dir() else None


def _trace_flag(words: list[str]) -> tuple[int, str | None]:
    """Return where the flag that makes a command trace belongs, and its name; None for a command without one."""
    if _is_go(words):
        at = _subcommand(words)
        if words[at : at + 1] == ["test"]:
            return at + 1, "trace"
        if words[at : at + 2] == ["tool", "compile"]:
            return at + 2, "traceprofile"
    if Path(words[0]).name.removesuffix(".exe").endswith(".test"):
        return 1, "test.trace"
    return 1, None


def _own_flags(words: list[str], at: int) -> list[str]:
    """Return the words among which a command's own flags are: what comes after -args is for the program."""
    own = words[at:]
    ends = [i for i, word in enumerate(own) if word in {"-args", "--args"}]
    return own[: ends[0]] if ends else own


def _flag_value(words: list[str], names: Sequence[str]) -> str | None:
    """Return the value of the last flag of one of these names, in any of the forms that Go's flags have."""
    value = None
    for i, word in enumerate(words):
        name, equals, rest = word.lstrip("-").partition("=")
        if word.startswith("-") and name in names:
            value = rest if equals else words[i + 1] if i + 1 < len(words) else None
    return value


def _given_trace(words: list[str], at: int) -> Path | None:
    """Return the trace that the command's own flags ask for."""
    own = _own_flags(words, at)
    value = _flag_value(own, _FLAGS)
    if not value:
        return None
    folder = (_folder(words) if _is_go(words) else None) or Path()
    return (folder / (_flag_value(own, ("outputdir", "test.outputdir")) or "") / value).absolute()


def _keep_no_binary(words: list[str], at: int, flag: str) -> list[str]:
    """`go test -trace` leaves the test binary behind, as -c does, unless it is sent away."""
    if flag != "trace" or _flag_value(_own_flags(words, at), ("o",)) is not None:
        return []
    return [f"-o={os.devnull}"]


def default_trace(command: Sequence[str]) -> str:
    """Return the name of a command's trace where none is given."""
    words = list(command)
    return _default_name(words, _trace_flag(words)[0])


def _default_name(words: list[str], at: int) -> str:
    """Name a trace after the package or program in a command: the last word that looks like a path."""
    paths = [w for w in _own_flags(words, at) if ("/" in w or w == ".") and not w.startswith("-")]
    if not paths:
        paths = ["." if _is_go(words) else words[0]]
    stem = Path(paths[-1]).absolute().name.removesuffix(".exe").removesuffix(".test").strip(".")
    return f"{stem or 'pymem'}.trace"


def _is_go(words: list[str]) -> bool:
    return Path(words[0]).name.removesuffix(".exe") == "go"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def check_writable(path: Path) -> None:
    """Find out before a long run that its trace could not be written; leave no file behind."""
    check_regular(path, "choose another file to write")
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise RecordingError(f"{shown(path)}: {error.strerror}; choose another file to write") from None
    if not existed:
        path.unlink()


def _environment(path: Path, env: Mapping[str, str] | None) -> dict[str, str]:
    whole = {**os.environ, **(env or {})}
    settings = [s for s in whole.get("GODEBUG", "").split(",") if s and s.partition("=")[0] != _SETTING]
    whole["GODEBUG"] = ",".join([*settings, f"{_SETTING}=1"])
    whole[VARIABLE] = str(path)
    return whole
