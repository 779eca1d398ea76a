"""A history as tables, one of its cycles and one of its samples, in CSV or Parquet.

Columns are the same for all histories. What a history does not know (a recording: pauses, work, the pacer) and a goal
that is off are missing values: empty in CSV, null in Parquet. Each column's unit is in its name, or is bytes.
"""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from typing import IO, TYPE_CHECKING, Any

from pymem._extras import need
from pymem.errors import ConfigError
from pymem.export.history import NO_GOAL
from pymem.gc.state import CycleRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymem.export.history import History

__all__ = ["TABLES", "check_table", "table", "write_csv", "write_parquet"]

TABLES = ("cycles", "timeline")

_RECORDED = {
    *("number", "forced", "gomaxprocs", "start_ns", "mark_ns", "term_ns", "end_ns"),
    *("heap0", "heap1", "heap2"),
}
"""Of a cycle, what a recording tells."""
_LEFT_OUT = {"compaction", "stw_procs"}
_GOALS = {"goal", "start_goal", "heap_goal"}

Column = list[Any]


def table(history: History, name: str) -> dict[str, Column]:
    """Return a history's table `cycles` (fields of `CycleRecord`) or `timeline` (those of `TIMELINE`), by columns."""
    check_table(name)
    return _cycles(history) if name == "cycles" else _timeline(history)


def check_table(name: str) -> None:
    """Raise `ConfigError` for a table that there is not."""
    if name not in TABLES:
        raise ConfigError(f"table {name!r}: give one of {', '.join(TABLES)}")


def _cycles(history: History) -> dict[str, Column]:
    columns = {}
    for of in fields(CycleRecord):
        if of.name in _LEFT_OUT:
            continue
        known = history.emulated or of.name in _RECORDED
        values = [getattr(c, of.name) if known else None for c in history.cycles]
        columns[of.name] = _goals(values) if of.name in _GOALS else values
    return columns


def _timeline(history: History) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for name in history.timeline.dtype.names or ():
        values = history.timeline[name].tolist()
        if name in _GOALS:
            values = _goals(values) if history.goals else [None] * len(values)
        columns[str(name)] = values
    return columns


def _goals(values: Column) -> Column:
    return [None if value is None or value >= NO_GOAL else value for value in values]


def write_csv(columns: Mapping[str, Column], out: IO[bytes]) -> None:
    """Write columns as CSV in UTF-8 with a line of names; truth as 0 and 1."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(
        [int(v) if isinstance(v, bool) else v for v in row] for row in zip(*columns.values(), strict=True)
    )
    text.detach()


def write_parquet(columns: Mapping[str, Column], out: IO[bytes], *, history: History) -> None:
    """Write columns as Parquet; source and settings of the history are in the schema's metadata.

    Raises `MissingExtraError` without pyarrow.
    """
    arrow: Any = need("pyarrow", "export")
    parquet: Any = need("pyarrow.parquet", "export")
    kinds = {"bool": arrow.bool_(), "float": arrow.float64(), "int": arrow.int64()}
    types = {of.name: kinds.get(str(of.type), arrow.int64()) for of in fields(CycleRecord)}
    schema = arrow.schema(
        [arrow.field(name, types.get(name, arrow.int64())) for name in columns],
        metadata={"pymem.source": history.source, "pymem.settings": history.settings},
    )
    parquet.write_table(arrow.table(dict(columns), schema=schema), out, compression="zstd")
