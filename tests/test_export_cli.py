"""`pymem export`: what it writes where, and its errors."""

from __future__ import annotations

import csv
import io
import re
import sys
from pathlib import Path

import pytest
from command_line import LRU, TRACE, Command, assert_one_line

from pymem.stats.gctrace import read_gctrace

FORMATS = ("pprof", "perfetto", "gctrace", "benchfmt", "csv", "parquet")


def _options(to: str) -> list[str]:
    return ["--gogc", "50"] if to in ("gctrace", "benchfmt") else []


@pytest.mark.parametrize("to", FORMATS)
def test_file(pymem: Command, tmp_path: Path, to: str) -> None:
    """A file is written, nothing else; the same bytes each time; and the next step is named."""
    out = tmp_path / "out"
    written = []
    for _ in range(2):
        result = pymem("export", "--to", to, LRU, "-o", out, *_options(to))
        assert (result.status, result.out) == (0, "")
        assert f"wrote {out}: {to}" in result.err
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("settings", [[], ["--gogc", "50", "--memory-limit", "64MiB", "--gomaxprocs", "2"]])
def test_json(pymem: Command, tmp_path: Path, to: str, settings: list[str]) -> None:
    out = tmp_path / "out"
    settings = settings or _options(to)
    answer = pymem("export", "--to", to, TRACE, "-o", out, "--json", *settings).json
    assert (answer["file"], answer["to"], answer["output"]) == (TRACE, to, str(out))
    assert answer["bytes"] == out.stat().st_size


def test_stdout(pymem: Command) -> None:
    result = pymem("export", "--to", "gctrace", LRU, "--gogc", "50")
    assert [line.number for line in read_gctrace(result.out.splitlines())] == list(range(1, 8))
    result = pymem("export", "--to", "csv", TRACE)
    assert [row["forced"] for row in csv.DictReader(io.StringIO(result.out))].count("1") == 2


def test_sweep(pymem: Command) -> None:
    result = pymem("export", "--to", "benchfmt", TRACE, "--gogc", "50,off", "--memory-limit", "off,1GiB")
    names = re.findall(r"^Benchmark(\S+) 1 ", result.out, re.M)
    assert names == [f"Rerun/gogc={g}/limit={m}-1" for g in ("50", "off") for m in ("off", "1GiB")]


def test_help(pymem: Command) -> None:
    result = pymem("export", "--help")
    assert result.status == 0
    assert result.out.isascii()
    assert set(re.findall(r"^ +pymem export --to (\w+)", result.out, re.M)) < set(FORMATS)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--to", "svg", TRACE], ["'svg'", "give one of pprof"]),
        (["--to", "pprof", TRACE], ["pprof needs a file", "-o"]),
        (["--to", "csv", TRACE, "--json"], ["--json needs a file", "-o"]),
        (["--to", "gctrace", TRACE], ["gctrace tells of reruns", "--gogc 100"]),
        (["--to", "benchfmt", TRACE], ["benchfmt tells of reruns", "--gogc 100"]),
        (["--to", "csv", TRACE, "--table", "types"], ["'types'", "cycles, timeline"]),
        (["--to", "csv", TRACE, "--gogc", "50,100"], ["'50,100'", "percentage"]),
        (["--to", "csv", TRACE, "--gomaxprocs", "two"], ["'two'", "whole number"]),
        (["--to", "csv", TRACE, "--gomaxprocs", "0"], ["give 1 to"]),
        (["--to", "pprof", TRACE, "-o", "x", "--at", "noon"], ["'noon'", "end or peak"]),
        (
            ["--to", "pprof", TRACE, "-o", "x", "--at", "peak", "--gogc", "50"],
            ["only the heap by type at its end"],
        ),
        (["--to", "pprof", TRACE, "-o", "x", "--by", "noon"], ["'noon'", "type or site"]),
        (["--to", "pprof", TRACE, "-o", "x", "--by", "site"], [TRACE, "pymem record --exact"]),
        (["--to", "csv", "/nowhere/at.all"], ["/nowhere/at.all"]),
        (["--to", "csv", TRACE, "-o", "/nowhere/at.all"], ["/nowhere/at.all"]),
        (["--to", "csv", TRACE, "-o", "/"], ["/"]),
        (["--to", "csv", TRACE, "-o", "/dev/null"], ["/dev/null", "a device"]),
    ],
)
def test_errors(
    pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    """One line with a remedy, and no file left behind."""
    monkeypatch.chdir(tmp_path)
    assert_one_line(pymem("export", *arguments), *parts)
    assert list(tmp_path.iterdir()) == []


def test_over_itself(pymem: Command, tmp_path: Path) -> None:
    """A recording is not written over."""
    path = tmp_path / "t.trace"
    path.write_bytes(Path(TRACE).read_bytes())
    assert_one_line(pymem("export", "--to", "csv", path, "-o", path), "the recording itself")
    assert path.read_bytes() == Path(TRACE).read_bytes()


@pytest.mark.parametrize(
    ("to", "module"),
    [("pprof", "google.protobuf.descriptor_pb2"), ("perfetto", "perfetto"), ("parquet", "pyarrow")],
)
def test_missing_extra(
    pymem: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, module: str
) -> None:
    """Without the library, a sentence says what brings it; what stood in the file's place still does."""
    out = tmp_path / "out"
    out.write_text("before")
    for name in [n for n in sys.modules if n == module or n.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert_one_line(pymem("export", "--to", to, TRACE, "-o", out), "pip install 'pymem-go[export]'")
    assert out.read_text() == "before"
