"""What `import pymem` brings in: numpy and the core. How long it takes is measured in bench/."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import pymem

_LOADED = "import sys, json, pymem; print(json.dumps(sorted(sys.modules)))"


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    out = subprocess.run([sys.executable, "-c", _LOADED], check=True, capture_output=True, text=True)
    return set(json.loads(out.stdout))


def test_core_is_there(loaded: set[str]) -> None:
    assert {"numpy", "pymem._core", "pymem.runtime"} <= loaded


@pytest.mark.parametrize(
    "module", ["typer", "rich", "click", "cffi", "pymem.trace", "pymem.workload", "pymem.record", "pymem.cli"]
)
def test_left_for_later(module: str, loaded: set[str]) -> None:
    assert module not in loaded


def test_public_names() -> None:
    assert set(pymem.__all__) <= set(dir(pymem))
    for name in pymem.__all__:
        assert getattr(pymem, name) is not None


def test_no_such_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mallocs'"):
        _ = pymem.mallocs
