"""What `import pymem` brings in: its errors; numpy and the core come with the first name that needs them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import pymem

_LOADED = """
import sys, json, pymem
bare = sorted(sys.modules)
pymem.Runtime
print(json.dumps([bare, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def loaded() -> tuple[set[str], set[str]]:
    """Modules after `import pymem`, and after its Runtime was asked for."""
    out = subprocess.run([sys.executable, "-c", _LOADED], check=True, capture_output=True, text=True)
    bare, runtime = json.loads(out.stdout)
    return set(bare), set(runtime)


def test_light(loaded: tuple[set[str], set[str]]) -> None:
    assert not {"numpy", "pymem._core"} & loaded[0]


def test_core_is_there(loaded: tuple[set[str], set[str]]) -> None:
    assert {"numpy", "pymem._core", "pymem.runtime"} <= loaded[1]


@pytest.mark.parametrize(
    "module", ["typer", "rich", "click", "cffi", "pymem.trace", "pymem.workload", "pymem.record", "pymem.cli"]
)
def test_left_for_later(module: str, loaded: tuple[set[str], set[str]]) -> None:
    assert module not in loaded[1]


def test_public_names() -> None:
    assert set(pymem.__all__) <= set(dir(pymem))
    for name in pymem.__all__:
        assert getattr(pymem, name) is not None


def test_no_such_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mallocs'"):
        _ = pymem.mallocs
