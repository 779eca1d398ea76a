"""Calibration by a log of an untraced run: what was put into a log comes out of it again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pymem.errors import ConfigError
from pymem.program import Program, read_program
from pymem.rerun import Chance, rerun
from pymem.stats.gctrace import gctrace_line
from pymem.whatif import Scenario, fitted, grid, predict, source_for, sweep
from pymem.workload.sources import open_stream

LRU = Path(__file__).parent.parent / "examples" / "lru.trace"
GOGC = 25


@pytest.fixture(scope="module")
def program() -> Program:
    return read_program(open_stream(LRU))


def write_log(program: Program, path: Path, chance: Chance, *, gogc: int = GOGC, between: str = "") -> Path:
    """Write the log of a run that differs from the recording as `chance` says."""
    cycles = rerun(program, gogc=gogc, chance=chance).cycles
    path.write_text(f"# GOGC={gogc}\n" + "".join(f"{gctrace_line(cycle)}\n{between}" for cycle in cycles))
    return path


@pytest.mark.parametrize(("mark", "time"), [(1.0, 1.0), (1.6, 0.7), (0.5, 1.0), (1.0, 2.5)])
def test_what_the_log_differs_by(program: Program, tmp_path: Path, mark: float, time: float) -> None:
    log = write_log(program, tmp_path / "log", Chance(mark=mark, time=time), between="a line\n")
    found = fitted(program, log, gogc=GOGC)
    assert found.fit is not None
    assert found.fit.mark == pytest.approx(mark, rel=0.15)
    assert found.fit.time == pytest.approx(time, rel=0.15)
    assert found.costs.mark_byte_ns == pytest.approx(program.costs.mark_byte_ns * found.fit.mark)
    assert found.costs.stop_ns == pytest.approx(program.costs.stop_ns, rel=0.05)
    assert (found.fit.gogc, program.fit) == (GOGC, None)


def test_rows_go_by_it(program: Program, tmp_path: Path) -> None:
    """A slower program with cheaper marks collects for a smaller share of its time."""
    log = write_log(program, tmp_path / "log", Chance(mark=0.5, time=2.0))
    scenario = Scenario(GOGC)
    plain = predict(program, scenario)
    by_log = predict(fitted(program, log, gogc=GOGC), scenario)
    assert by_log.gc_cpu.value < 0.6 * plain.gc_cpu.value
    assert by_log.duration_ns.value > 1.3 * plain.duration_ns.value


def test_any_source_and_any_executor(program: Program, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    log = write_log(program, tmp_path / "log", Chance(time=1.5))
    scenarios = grid(gogc=[25, 50])
    here = sweep(LRU, scenarios, draws=2, calibrate=log)
    assert here == sweep(fitted(program, log), scenarios, draws=2)
    assert here != sweep(program, scenarios, draws=2)
    with ThreadPoolExecutor(1) as executor:
        assert here == sweep(LRU, scenarios, draws=2, calibrate=log, executor=executor)
        shared = source_for(LRU, calibrate=log, executor=executor)
        log.unlink()  # workers need none
        assert here == sweep(shared, scenarios, draws=2, executor=executor)


def test_results_with_another_fit_are_not_mixed(program: Program, tmp_path: Path) -> None:
    log = write_log(program, tmp_path / "log", Chance(time=1.5))
    sweep(program, grid(gogc=[50]), draws=1, results=tmp_path / "rows")
    with pytest.raises(ConfigError, match="results"):
        sweep(program, grid(gogc=[50]), draws=1, results=tmp_path / "rows", calibrate=log)


def test_a_fit_upon_a_fit(program: Program, tmp_path: Path) -> None:
    log = write_log(program, tmp_path / "log", Chance(mark=1.5, time=2.0))
    once = fitted(program, log, gogc=GOGC)
    twice = fitted(once, log, gogc=GOGC)
    assert once.fit is not None
    assert twice.fit is not None
    assert twice.fit.time == pytest.approx(once.fit.time, rel=0.1)
    assert twice.costs.mark_byte_ns == pytest.approx(once.costs.mark_byte_ns, rel=0.1)
    assert rerun(twice, gogc=50).virtual_ns == pytest.approx(rerun(once, gogc=50).virtual_ns, rel=0.15)


def test_a_shared_file_is_fitted_too(program: Program, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    log = write_log(program, tmp_path / "log", Chance(time=1.5))
    with ThreadPoolExecutor(1) as executor:
        plain = source_for(LRU, executor=executor)
        rows = sweep(plain, [Scenario(50)], draws=1, calibrate=log, executor=executor)
    assert rows == sweep(fitted(program, log), [Scenario(50)], draws=1)


def test_gogc_that_the_log_says(program: Program, tmp_path: Path) -> None:
    """Small heaps have the goals of many a GOGC."""
    log = write_log(program, tmp_path / "log", Chance(), gogc=20)
    found = fitted(program, log)
    assert found.fit is not None
    assert found.fit.gogc == 20


def changed(log: Path, edit: Callable[[list[str]], list[str]]) -> Path:
    log.write_text("\n".join(edit(log.read_text().splitlines())) + "\n")
    return log


def of_limit(program: Program, path: Path) -> Path:
    cycles = rerun(program, gogc=200, memory_limit="7MiB").cycles
    path.write_text("# GOGC=200\n" + "".join(f"{gctrace_line(cycle)}\n" for cycle in cycles))
    return path


BAD: dict[str, tuple[Callable[[Program, Path], Path], str]] = {
    "few": (
        lambda p, log: changed(write_log(p, log, Chance()), lambda lines: lines[:3]),
        "2 cycles do not tell",
    ),
    "slow": (lambda p, log: write_log(p, log, Chance(time=30.0)), "log the same program"),
    "amid": (
        lambda p, log: changed(write_log(p, log, Chance()), lambda lines: lines[5:]),
        "begins amid or has gaps",
    ),
    "gap": (
        lambda p, log: changed(write_log(p, log, Chance()), lambda lines: lines[:4] + lines[6:]),
        "begins amid or has gaps",
    ),
    "less work": (
        lambda p, log: changed(write_log(p, log, Chance()), lambda lines: lines[: len(lines) // 3]),
        "the program allocates",
    ),
    "larger heap": (
        lambda p, log: changed(
            write_log(p, log, Chance()),
            lambda lines: [
                re.sub(r"(\d+)(?=(->| MB,))", lambda m: str(int(m[1]) + 9), line) for line in lines
            ],
        ),
        "not those of one GOGC|MB alive",
    ),
    "other Ps": (
        lambda p, log: changed(
            write_log(p, log, Chance()), lambda lines: [line.replace(", 1 P", ", 4 P") for line in lines]
        ),
        "GOMAXPROCS=4, the recording has 1",
    ),
    "limit": (of_limit, "not those of one GOGC"),
    "no log": (lambda p, log: LRU, "no gctrace line"),
    "nothing": (lambda p, log: log, "No such file"),
    "folder": (lambda p, log: log.parent, "Is a directory"),
}


@pytest.mark.parametrize("bad", BAD)
def test_logs_that_do_not_do(program: Program, tmp_path: Path, bad: str) -> None:
    make, says = BAD[bad]
    with pytest.raises(ConfigError, match=says):
        fitted(program, make(program, tmp_path / "log"))


def test_what_cannot_be_calibrated(program: Program, tmp_path: Path) -> None:
    log = write_log(program, tmp_path / "log", Chance())
    with pytest.raises(ConfigError, match="leave the calibration out"):
        fitted(read_program(open_stream(log)), log)
    few = changed(write_log(program, log, Chance(), gogc=20), lambda lines: lines[:9])
    with pytest.raises(ConfigError, match=r"collections at GOGC=400|not those of one GOGC"):
        fitted(program, few, gogc=400)
