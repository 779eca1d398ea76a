"""Files that users name. Opening a FIFO waits for its other end, and replacing a device loses it: both are refused.

What is written is there whole or not at all.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pymem.errors import RecordingError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["check_regular", "written"]

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


@contextmanager
def written(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Yield a file beside the one named; it takes its place once the block ends well. Raises `OSError`."""
    check_regular(path, "choose another file to write")
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _opened(beside, path) as file:
            yield file
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _opened(beside: Path, path: Path) -> IO[bytes]:
    """Open the file beside; an error names the one that was asked for."""
    try:
        return beside.open("wb")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
