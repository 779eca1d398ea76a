"""Steps of the collector that Ctrl-C does not cut in two: it comes when the step is over.

A step is many calls of the core, and the heap is whole after each; but a cycle that has begun and that nobody knows of
would be in the way for ever.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

__all__ = ["whole"]

P = ParamSpec("P")
R = TypeVar("R")


class _Waiting:
    """A handler of SIGINT that keeps the first for later. Who insists is not made to wait."""

    def __init__(self, then: Callable[..., Any]) -> None:
        self.then = then
        self.came: tuple[Any, ...] | None = None

    def __call__(self, *signal_and_frame: Any) -> None:
        if self.came:
            self.then(*signal_and_frame)
        self.came = signal_and_frame


def whole(step: Callable[P, R]) -> Callable[P, R]:
    """Make a step whole. Only the main thread is ever interrupted."""

    @wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        before = signal.getsignal(signal.SIGINT)
        foreign = threading.current_thread() is not threading.main_thread()
        if foreign or isinstance(before, _Waiting) or not callable(before):
            return step(*args, **kwargs)
        waiting = _Waiting(before)
        signal.signal(signal.SIGINT, waiting)
        try:
            return step(*args, **kwargs)
        finally:
            signal.signal(signal.SIGINT, before)
            if waiting.came:
                before(*waiting.came)

    return run
