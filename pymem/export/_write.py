"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pymem._files import check_regular

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["written"]


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
