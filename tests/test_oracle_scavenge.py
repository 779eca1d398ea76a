"""The scavenger against the real one: each of its calls, recorded, answered by the emulator on the same heap."""

from __future__ import annotations

from pathlib import Path

import pytest
from scavenge_oracle import Verdict, compare, compare_goals

from pymem.record import build_recorder, record_binary
from pymem.record.overlay import Toolchain

SOURCE = Path(__file__).parent / "oracle" / "scavenge"


@pytest.fixture(scope="session")
def program(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_recorder(str(SOURCE), tmp_path_factory.mktemp("scavenge") / "scavenge")


def recorded(program: Path, folder: Path, name: str, procs: int = 1) -> Path:
    done = record_binary(program, [name], output=folder / "log", gomaxprocs=procs)
    assert (done.exit_status, done.truncated) == (0, False)
    return done.path


def same_pages(program: Path, folder: Path, name: str) -> Verdict:
    verdict = compare(recorded(program, folder, name))
    assert verdict.differing == ()
    assert verdict.pages > 100
    return verdict


def test_free_os_memory(program: Path, tmp_path: Path) -> None:
    assert same_pages(program, tmp_path, "free").forced >= 8


def test_background(program: Path, tmp_path: Path) -> None:
    """The page order, the densities, the generations: 64 KB at a time, whatever the program does meanwhile."""
    verdict = same_pages(program, tmp_path, "background")
    assert verdict.calls > 100
    assert verdict.runs > 100


def test_growth(program: Path, tmp_path: Path) -> None:
    same_pages(program, tmp_path, "growth")


def test_limit(program: Path, tmp_path: Path) -> None:
    """Allocations near the limit scavenge by force."""
    assert same_pages(program, tmp_path, "limit").forced > 0


@pytest.mark.parametrize("name", ["background", "growth", "limit"])
def test_goals(program: Path, tmp_path: Path, name: str) -> None:
    """Allocations give back as much as real ones, by goals of our own making; the background has work when it works."""
    verdict = compare_goals(recorded(program, tmp_path, name))
    assert verdict.differing == ()
    if name != "background":
        assert verdict.pages > 100


def test_wrong_choice_is_found(program: Path, tmp_path: Path) -> None:
    """Asked for a page more, it chooses otherwise: a check that agreed all the same would prove nothing."""
    log = recorded(program, tmp_path, "growth")
    assert compare(log, ask_more=8192).differing != ()
