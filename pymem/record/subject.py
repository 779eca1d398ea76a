"""A program that is run more than once: so that it traces, and the very same thing untraced.

It has to be one process that does the same work each time:

- `go test` compiles first. It is run once, with a shell script in the place of the test binary's runner (-exec), which
  keeps the binary, the arguments that go made for it, and the folder it runs in; the tests themselves do not run then.
- `go tool compile` starts the compiler as a process of its own. The compiler is called itself.
- `go run`, `go build` and their like start many programs, and none of them is the one meant.
- Any other command is run as it is.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pymem.errors import RecordingError
from pymem.record.overlay import find_toolchain
from pymem.record.tracing import VARIABLE, trace_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pymem.record.tracing import TracedCommand

__all__ = ["SETTINGS", "Subject", "prepare", "untraced"]

SETTINGS = ("GOGC", "GOMEMLIMIT", "GOMAXPROCS")
"""What Go's runtime takes from the environment."""
_TRACERS = ("traceallocfree", "gctrace", "gcpacertrace", "scavtrace")
"""Of GODEBUG: what makes a program slower, or say what is read here."""
_TRACING = re.compile(r"--?(test\.)?(trace|traceprofile)(=.*)?")
_BENCH = re.compile(r"--?test\.bench=(.+)")
_ROUNDS = re.compile(r"--?test\.benchtime=\d+x")


@dataclass(frozen=True, slots=True)
class Subject:
    """A command, ready to run under any settings."""

    command: tuple[str, ...]
    """As it was given."""
    words: tuple[str, ...]
    """What is really run."""
    cwd: Path | None
    compiler: bool = False
    """It is Go's compiler, which has a flag of its own to trace."""

    def traced(self, path: Path, env: Mapping[str, str] | None = None) -> TracedCommand:
        """Return the command that leaves a trace there, with this added to its environment. Raises RecordingError."""
        words = list(self.words)
        if self.compiler:
            words[1:1] = [f"-traceprofile={path}"]
        return replace(trace_command(words, output=path, env=env), cwd=self.cwd)


def untraced(debug: Sequence[str]) -> dict[str, str]:
    """Return this process's environment for a run that does not trace, and prints what these settings of GODEBUG do."""
    settings = [
        s for s in os.environ.get("GODEBUG", "").split(",") if s and s.partition("=")[0] not in _TRACERS
    ]
    env = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return {**env, "GODEBUG": ",".join([*settings, *debug])}


def prepare(command: Sequence[str], *, folder: Path) -> Subject:
    """Find out what is really to be run; a test binary is built into the folder. Raises RecordingError."""
    words = list(command)
    if not words:
        raise RecordingError(
            "no command to run; give one after --, such as `go test -bench . -benchtime 100x`"
        )
    if Path(words[0]).name.removesuffix(".exe") == "go":
        made = _of_go(words, folder)
    else:
        made = Subject(tuple(words), tuple(words), None)
    _check(made)
    return made


def _of_go(words: list[str], folder: Path) -> Subject:
    go, rest = [_go(words[0])], words[1:]
    if rest[:1] == ["-C"]:
        go, rest = [*go, *rest[:2]], rest[2:]
    match rest:
        case ["test", *flags]:
            return _test(words, go, flags, folder)
        case ["tool", "compile", *flags]:
            found = _run([*go, "tool", "-n", "compile"], words).stdout.strip()
            cwd = Path(go[2]).absolute() if len(go) > 1 else None
            return Subject(tuple(words), (found, *flags), cwd, compiler=True)
    shown = shlex.join(words[:2])
    raise RecordingError(
        f"{shown}: starts other programs, and those are not told apart here; build the program and give its binary"
    )


def _go(word: str) -> str:
    return str(find_toolchain().go) if word == "go" else word


def _test(words: list[str], go: list[str], flags: list[str], folder: Path) -> Subject:
    """Have go build a test and say how it would run it."""
    binary, said = folder / "kept.test", folder / "said"
    script = folder / "keep.sh"
    # a line for each package: how many words there are, the folder, the words
    script.write_text(
        "#!/bin/sh\n"
        f'cp "$1" {shlex.quote(str(binary))} || exit 1\nshift\n'
        f'printf "%s\\0" "$#" "$(pwd)" "$@" >> {shlex.quote(str(said))}\n'
    )
    script.chmod(0o700)
    said.unlink(missing_ok=True)
    if any(re.fullmatch(r"--?(exec|c|o|fuzz)(=.*)?", word) for word in _own_flags(flags)):
        raise RecordingError("go test: leave out -exec, -c, -o and -fuzz, the test is built and run here")
    _run([*go, "test", f"-exec={shlex.quote(str(script))}", *flags], words)
    runs = _runs(said)
    if len(runs) != 1:
        what = "has no test to run" if not runs else f"runs the tests of {len(runs)} packages"
        raise RecordingError(f"{shlex.join(words)}: {what}; name one package that has tests")
    cwd, arguments = runs[0]
    return Subject(tuple(words), (str(binary), *arguments), cwd)


def _runs(said: Path) -> list[tuple[Path, list[str]]]:
    if not said.exists():
        return []
    words = said.read_bytes().decode("utf-8", "surrogateescape").split("\0")[:-1]
    out = []
    while words:
        n, folder, words = int(words[0]), words[1], words[2:]
        out.append((Path(folder), words[:n]))
        words = words[n:]
    return out


def _run(words: list[str], command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    env = {
        k: v for k, v in os.environ.items() if k not in {"GODEBUG", *SETTINGS}
    }  # go itself prints no cycles
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        why = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise RecordingError(
            f"{shlex.join(command)}: cannot be built: {why[0] if why else f'status {done.returncode}'}"
        )
    return done


def _check(subject: Subject) -> None:
    """Refuse what would trace while it is measured, or would do more work the faster it is."""
    flags = _own_flags(subject.words[1:])
    if any(_TRACING.fullmatch(word) for word in flags):
        raise RecordingError(
            "the command traces by a flag of its own: leave the flag out, it is added for the recording"
        )
    benchmarks = any(_BENCH.fullmatch(word) for word in flags)
    if benchmarks and not any(_ROUNDS.fullmatch(word) for word in flags):
        raise RecordingError(
            "benchmarks run for a time here, and so do more the faster they are: give a number of rounds,"
            " such as -benchtime 100x"
        )


def _own_flags(words: Sequence[str]) -> Sequence[str]:
    """Return the words among which a test's own flags are: what comes after -args is for the program."""
    ends = [i for i, word in enumerate(words) if word in {"-args", "--args"}]
    return words[: ends[0]] if ends else words
