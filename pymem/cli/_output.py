"""What all verbs print alike: tables, JSON, a progress bar, and the next command to try.

Answers go to stdout; progress, notes and hints to stderr. On a terminal tables are drawn by rich; into a pipe
they are plain ASCII columns. Nothing here imports rich before it draws.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from pymem.errors import ConfigError, PymemError
from pymem.units import NO_LIMIT, format_gogc, go_bytes

if TYPE_CHECKING:
    from pymem.replay import ClassUse

__all__ = [
    "File",
    "Json",
    "Progress",
    "class_cells",
    "count",
    "first_of",
    "note",
    "percent",
    "print_facts",
    "print_json",
    "print_table",
    "progress",
    "settings_text",
    "suggest",
]

File = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="An exact recording, an execution trace, a saved workload, a log of gctrace, or a table of samples.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, without hints or progress.")]

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""


class Settings(Protocol):
    """What a run went by: percent, -1 for off; bytes; Ps."""

    @property
    def gogc(self) -> int: ...
    @property
    def memory_limit(self) -> int: ...
    @property
    def gomaxprocs(self) -> int: ...


# ---- numbers for people ----


def count(n: int) -> str:
    """Write a whole number with its thousands apart."""
    return f"{n:,}"


def percent(part: int, whole: int) -> str:
    """Write a share so that only all of it is 100 %."""
    if part == whole:
        return "100 %"
    share = min(100 * part / whole, 99.9999)
    return f"{share:.4f} %"


# ---- answers ----


def print_json(answer: dict[str, Any]) -> None:
    """Print an answer as one JSON object."""
    print(json.dumps(answer, default=_plain, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """Turn what json does not know into what it does: dataclasses, and numpy's numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.item()


def first_of(title: str, shown: int, n: int) -> str:
    """Return the title of a table that shows so many of n rows at most."""
    return f"{title} (the first {shown} of {count(n)})" if n > shown else title


def settings_text(of: Settings) -> str:
    """Write settings as a shell would set them."""
    limit = "off" if of.memory_limit >= NO_LIMIT else go_bytes(of.memory_limit)
    return f"GOGC={format_gogc(of.gogc)} GOMEMLIMIT={limit} GOMAXPROCS={of.gomaxprocs}"


def class_cells(use: ClassUse) -> list[str]:
    """Name a size class in the first two cells of a row."""
    return [f"{count(use.size)} B" if use.size else "large", "no" if use.noscan else "yes"]


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Print lines of a name and a value, the values in a column."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        print(f"{name:<{width}}  {value}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print a table under its title: the first `left` columns are text, the others numbers."""
    if not rows:
        return
    print()
    if sys.stdout.isatty():
        _draw_table(title, columns, rows, left)
        return
    print(title)
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, ["-" * width for width in widths], *rows]:
        cells = [
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _draw_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


# ---- beside the answer ----


def note(sentence: str) -> None:
    """Tell the user something that is no part of the answer."""
    print(f"pymem: {sentence}", file=sys.stderr)


def suggest(*commands: Sequence[str]) -> None:
    """Name the next commands to try."""
    sys.stdout.flush()
    for command in commands:
        print(f"next: {shlex.join(['pymem', *command])}", file=sys.stderr)


@contextmanager
def progress(verb: str, what: str, *, quiet: bool) -> Iterator[Progress | None]:
    """Show a bar on stderr while the block runs, and give it what moves the bar; None where nobody would see it.

    Errors that leave the block name what was worked on, but for those of options, which have nothing to do with it.
    """
    try:
        with _bar(f"{verb} {what}", quiet=quiet) as tell:
            yield tell
    except ConfigError:
        raise
    except (PymemError, MemoryError) as error:
        if what in str(error):
            raise
        kind = MemoryError if isinstance(error, MemoryError) else type(error)  # numpy has one of its own
        raise kind(f"{what}: {str(error) or 'out of memory'}") from error


@contextmanager
def _bar(what: str, *, quiet: bool) -> Iterator[Progress | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
