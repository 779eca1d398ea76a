"""Waiting for a recorded program to end."""

from __future__ import annotations

import contextlib
import subprocess

__all__ = ["wait"]


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program and return its exit status, as a shell would say it.

    The terminal's first interrupt has reached the program too; later ones insist.
    """
    for insist in (process.terminate, process.kill):
        try:
            return _status(process.wait())
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):
                return _status(process.wait())
            insist()
    return _status(process.wait())


def _status(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode
