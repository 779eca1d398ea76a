"""Libraries of an extra: found, or missed with the command that brings them."""

import json
import sys
from pathlib import Path

import pytest

from pymem._extras import need
from pymem.errors import MissingExtraError


def test_there() -> None:
    assert need("json", "report") is json


def test_missing() -> None:
    with pytest.raises(MissingExtraError, match=r"^nowhere_at_all is not installed: .*'pymem-go\[report\]'"):
        need("nowhere_at_all.part", "report")


def test_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there but lacks something of its own says so itself."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lacking_something.py").write_text("import nowhere_at_all\n")
    try:
        with pytest.raises(ModuleNotFoundError, match="nowhere_at_all"):
            need("lacking_something", "report")
    finally:
        sys.modules.pop("lacking_something", None)
