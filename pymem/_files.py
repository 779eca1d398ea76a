"""Files that users name. Opening a FIFO waits for its other end, and replacing a device loses it: both are refused."""

from __future__ import annotations

import os
import stat

from pymem.errors import RecordingError

__all__ = ["check_regular"]

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: str | os.PathLike[str], remedy: str) -> None:
    """Raise RecordingError for what is there but no file. Folders and what is missing fail when they are opened."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind:
        raise RecordingError(f"{os.fspath(path)}: {kind}, not a file; {remedy}")
