"""Running a recorded program to its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

__all__ = ["run"]


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None = None,
    stdout: int | None = None,
) -> int:
    """Run a program and return its exit status, as a shell would say it: 128 + the number of a signal.

    The terminal's first interrupt reaches the program too, which may end in its own way; later ones insist.
    """
    with _Interrupts() as interrupts:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=stdout)
        interrupts.process = process
        status = process.wait()
    return status if status >= 0 else 128 - status


class _Interrupts:
    """Counts interrupts instead of raising them: an exception amid wait() would lose the program's status."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._count = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> _Interrupts:
        if (
            threading.current_thread() is threading.main_thread()
        ):  # no other may set handlers, or gets interrupts
            self._undo.enter_context(_handler(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 1 and self.process:
            self.process.send_signal(signal.SIGTERM if self._count == 2 else signal.SIGKILL)


@contextlib.contextmanager
def _handler(interrupts: _Interrupts) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, interrupts)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
