"""Many scenarios at once: on all processors by threads, in processes or on a cluster, with the same rows from each.

A row depends on nothing but program, scenario, draws and seed, so it does not matter who works it out, in which order,
or how often. Rows go to a file as they come, if one is given, and a sweep that was interrupted goes on from there.
"""

from __future__ import annotations

import json
import os
import zlib
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import astuple, dataclass, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from socket import gethostname
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from pymem._arguments import whole
from pymem._files import check_regular
from pymem.errors import ConfigError, RecordingError
from pymem.program import Program, read_program
from pymem.whatif.fitting import fitted
from pymem.whatif.predict import predict
from pymem.whatif.row import Row, mark_pareto
from pymem.workload.sources import open_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from pymem.gc.costs import Costs
    from pymem.program import Fit, Part
    from pymem.replay import EventSource
    from pymem.whatif.scenario import Scenario
    from pymem.workload.gctrace_log import GCTraceLog

__all__ = ["SharedFile", "source_for", "sweep"]

_MODEL = 4
"""Of the predictions: rows of another one are not mixed with these."""
_OF_SOURCES = ("types", "procs", "tier", "resolution", "arena_base", "padding_pages", "gives_way_ns")
"""What runs go by besides a source's rows."""


@dataclass(frozen=True)
class SharedFile:
    """A recording by its name, for a worker that reads it itself. It has to see the same file system."""

    path: str
    fingerprint: int
    costs: Costs | None
    fit: Fit | None = None
    """Worked out where it was asked for: a worker needs no log."""

    def read(self, *, keep: bool | None = None) -> Program:
        """Return the program. Raises ConfigError where this machine does not have the same file."""
        where = f"the worker on {gethostname()}"
        try:
            same = _crc_of_file(self.path) == self.fingerprint
        except OSError as error:
            raise ConfigError(
                f"{self.path}: {where} cannot read it ({error.strerror}): copy it there, to the same place, or use a"
                " file system that all share"
            ) from None
        if not same:
            raise ConfigError(f"{self.path}: {where} has another file of that name: copy this one there")
        program = read_program(open_stream(self.path), costs=self.costs, keep=keep)
        return program.fitted(self.fit) if self.fit else program


@lru_cache(maxsize=1)  # a worker works on one recording at a time, and it takes long to read
def _read(file: SharedFile) -> Program:
    return file.read()


_READING = Lock()
"""So that threads of one worker wait for the first to read the recording. Nothing else is shared."""


def _in_worker(what: SharedFile | Program, scenario: Scenario, draws: int, seed: int) -> Row:
    if isinstance(what, SharedFile):
        with _READING:
            program = _read(what)
    else:
        program = what
    return predict(program, scenario, draws=draws, seed=seed)


def sweep(
    source: str | os.PathLike[str] | EventSource | Program | SharedFile,
    scenarios: Iterable[Scenario],
    *,
    draws: int = 8,
    seed: int = 0,
    costs: Costs | None = None,
    calibrate: str | os.PathLike[str] | GCTraceLog | None = None,
    executor: Executor | None = None,
    results: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Row, ...]:
    """Predict scenarios and return their rows in the same order, those on the Pareto front marked.

    Args:
        source: a recording, its file, or a program read from it. Processes and clusters read a file themselves; what is
            given otherwise is sent to each of them.
        scenarios: what to predict.
        draws: runs a scenario; more give better intervals.
        seed: which draws.
        costs: what collecting costs where the recording does not tell.
        calibrate: a gctrace log of the same program untraced, to go by where the recording is off (`fitting`).
        executor: who works; None: a thread for each processor. Any `concurrent.futures.Executor` will do, Dask's too
            (`Client(...).get_executor(retries=3)`).
        results: a file that rows are added to as they come, a JSON object a line; those that it has are not worked
            out again.
        progress: called with (scenarios done, scenarios in all).

    Raises what `rerun` raises, and ConfigError for a file of other results.

    """
    wanted = tuple(scenarios)
    whole("draws", draws, 1)
    whole("seed", seed, 0)
    what = source_for(source, costs=costs, calibrate=calibrate, executor=executor)
    done = None
    if results is not None:
        done = _Results(results, source=_fingerprint(what), draws=draws, seed=seed)
    rows = dict(done.rows) if done else {}
    missing = [s for s in dict.fromkeys(wanted) if s not in rows]
    if progress:
        progress(len(wanted) - len(missing), len(wanted))
    with closing(_worked_out(what, missing, draws, seed, executor)) as coming:
        for scenario, row in coming:
            rows[scenario] = row
            if done:
                done.add(scenario, row)
            if progress:
                progress(sum(s in rows for s in wanted), len(wanted))
    return mark_pareto(rows[s] for s in wanted)


def source_for(
    source: Any,
    *,
    costs: Costs | None = None,
    calibrate: str | os.PathLike[str] | GCTraceLog | None = None,
    executor: Executor | None = None,
) -> SharedFile | Program:
    """Return what the rows are worked out from: a file's name if others are to read it, or else the program, read."""
    if isinstance(source, SharedFile | Program):
        if calibrate is None:
            return source
        if isinstance(source, Program):
            return fitted(source, calibrate)
        return replace(source, fit=fitted(source.read(), calibrate).fit)
    if not isinstance(source, str | os.PathLike) or executor is None or calibrate is not None:
        stream = open_stream(source) if isinstance(source, str | os.PathLike) else source
        program = read_program(stream, costs=costs)
        program = program if calibrate is None else fitted(program, calibrate)
        if executor is None or not isinstance(source, str | os.PathLike):
            return program
        fit = program.fit
    else:
        fit = None
    path = os.path.abspath(source)
    return SharedFile(path, _crc_of_file(path), costs, fit)


def _worked_out(
    what: SharedFile | Program,
    scenarios: Iterable[Scenario],
    draws: int,
    seed: int,
    executor: Executor | None,
) -> Generator[tuple[Scenario, Row]]:
    """Yield rows as they are done. Who stops asking ends what is at work here: an interrupt need not wait for it."""
    stop = Event()
    if executor is None and isinstance(what, Program):
        what = _Stoppable(**{f.name: getattr(what, f.name) for f in fields(Program)}, stop=stop)
    with nullcontext(executor) if executor else ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {pool.submit(_in_worker, what, s, draws, seed): s for s in scenarios}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stop.set()
            for future in futures:
                future.cancel()


class _StoppedError(Exception):
    """Nobody waits for this row any more."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Stoppable(Program):
    """A program whose runs end when they are told to, after some 100,000 rows at the latest."""

    stop: Event

    def parts(self) -> Iterator[Part]:
        for part in Program.parts(self):
            if self.stop.is_set():
                raise _StoppedError
            yield part


class _Results:
    """A file of rows. Its first line says what they are of; a last line that is cut off is written again."""

    def __init__(self, path: str | os.PathLike[str], *, source: int, draws: int, seed: int) -> None:
        self.path = Path(path)
        self.rows: dict[Scenario, Row] = {}
        head = {"pymem": f"whatif {_MODEL}", "source": source, "draws": draws, "seed": seed}
        try:
            check_regular(path, "give results a file of their own")
            if self.path.exists():
                self._read(head)
            else:
                self.path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; give results a file that can be written") from None
        except RecordingError as error:
            raise ConfigError(str(error)) from None

    def _read(self, head: dict[str, Any]) -> None:
        from pymem.whatif.scenario import Scenario

        lines = self.path.read_bytes().splitlines(keepends=True)
        try:
            found = json.loads(lines[0]) if lines else None
        except ValueError:
            found = None
        if found != head or not lines[0].endswith(b"\n"):
            raise ConfigError(
                f"{self.path}: holds no results, or those of another recording, seed or number of draws: give the"
                " name of a new file"
            )
        good = len(lines[0])
        for line in lines[1:]:
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                self.rows[Scenario(*entry["scenario"])] = Row.from_facts(entry["row"])
            except (ValueError, KeyError, TypeError):
                break
            good += len(line)
        with open(self.path, "r+b") as file:
            file.truncate(good)

    def add(self, scenario: Scenario, row: Row) -> None:
        line = json.dumps({"scenario": astuple(scenario), "row": row.facts()})
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


def _fingerprint(what: SharedFile | Program) -> int:
    """Return a checksum of all that rows depend on: the same for a program and for the file that it was read from."""
    program = what if isinstance(what, Program) else what.read(keep=False)
    crc = 0
    for field in fields(Program):
        if field.name not in {"source", "kept"}:
            crc = _crc(getattr(program, field.name), crc)
    source: Any = program.source
    if path := getattr(source, "path", None):
        return _crc(_crc_of_file(path), crc)
    for columns in source.chunks():
        crc = _crc(columns, crc)
    return _crc(tuple(getattr(source, name, None) for name in _OF_SOURCES), crc)


def _crc(value: object, crc: int) -> int:
    if isinstance(value, np.ndarray):
        return zlib.crc32(np.ascontiguousarray(value).data, crc)
    if is_dataclass(value):
        value = tuple(getattr(value, field.name) for field in fields(value))
    if isinstance(value, tuple):
        for part in value:
            crc = _crc(part, crc)
        return crc
    return zlib.crc32(repr(value).encode(), crc)


def _crc_of_file(path: str | os.PathLike[str]) -> int:
    crc = 0
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            crc = zlib.crc32(piece, crc)
    return crc
