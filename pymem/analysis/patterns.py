"""Types by name or by pattern. Go's names have brackets in them, so only `*` and `?` are special in a pattern."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from pymem.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from pymem.workload.workload import WorkloadType

__all__ = ["UNKNOWN_NAME", "find_types", "name_of"]

UNKNOWN_NAME = "(unknown)"
"""How a type without a name is called: strings, bytes, and what else the recording has no type of."""


def name_of(type_: WorkloadType) -> str:
    """Return a type's name, as it is shown."""
    return type_.name or UNKNOWN_NAME


def find_types(types: Sequence[WorkloadType], pattern: str) -> npt.NDArray[np.bool_]:
    """Return which types a name or pattern means; a type of exactly that name is preferred to a pattern.

    `*` stands for any characters and `?` for one. Raises `ConfigError` where there is none.
    """
    names = [name_of(t) for t in types]
    found = np.array([name == pattern for name in names], bool)
    if not found.any():
        glob = re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
        found = np.array([glob.fullmatch(name) is not None for name in names], bool)
    if not found.any():
        raise ConfigError(f"no type of the recording is called {pattern!r}: {_remedy(pattern, names)}")
    return found


def _remedy(pattern: str, names: Sequence[str]) -> str:
    like = get_close_matches(pattern, names, n=3, cutoff=0.4)
    if pattern.startswith("[]"):
        like = [name for name in names if name == pattern[2:]] or like
    if like:
        return f"did you mean {' or '.join(repr(name) for name in like)}?"
    return "`pymem types FILE` lists them, and a pattern may have * and ? in it"
