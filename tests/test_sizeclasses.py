"""The derived table of size classes against the toolchain's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import pymem
from pymem.record.overlay import find_toolchain


@pytest.fixture(scope="module")
def source() -> str:
    return Path(find_toolchain().goroot, "src/internal/runtime/gc/sizeclasses.go").read_text(encoding="utf-8")


def numbers(source: str, table: str) -> list[int]:
    found = re.search(rf"var {table} = .*?\{{(.*)\}}", source)
    assert found
    return [int(n) for n in found[1].split(",") if n.strip()]


def test_sizes(source: str) -> None:
    assert pymem.size_classes()["size"].tolist() == numbers(source, "SizeClassToSize")


def test_pages(source: str) -> None:
    assert pymem.size_classes()["pages"].tolist() == numbers(source, "SizeClassToNPages")


def test_size_to_class(source: str) -> None:
    """Go has two tables: steps of 8 bytes to 1,024, of 128 above."""
    fine, coarse = numbers(source, "SizeToSizeClass8"), numbers(source, "SizeToSizeClass128")
    want = [fine[-(-n // 8)] if n <= 1016 else coarse[-(-(n - 1024) // 128)] for n in range(1, 32769)]
    assert [pymem.size_to_class(n) for n in range(1, 32769)] == want


def test_class_0_is_large() -> None:
    assert pymem.size_classes()[0].tolist() == (0, 0, 0, 0, 0)
    assert pymem.size_to_class(32769) == 0


def test_slots_fit() -> None:
    """Slots and what a span keeps at its end fill the span, to less than one slot."""
    table = pymem.size_classes()[1:]
    size, room = table["size"].astype(int), table["pages"].astype(int) * 8192
    marks = np.where((size >= 16) & (size <= 512), 128, 0)
    pointers = np.where(size <= 512, room // 64, 0)
    for slots, reserve in [(table["slots_noscan"], marks), (table["slots_scan"], marks + pointers)]:
        left = room - reserve - slots * size
        assert (left >= 0).all()
        assert (left < size).all()


def test_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        pymem.size_classes()["size"][3] = 1
