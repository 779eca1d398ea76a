"""Steps of the collector that nothing cuts in two: neither Ctrl-C, nor another thread, nor who looks on.

A step is many calls of the core, and the heap is whole after each; but a cycle that has begun and that nobody knows of
would be in the way for ever. So Ctrl-C and what an observer raises come when the step is over; another thread is
refused, and so is an observer that asks for a step amid one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from pymem.errors import ConfigError, ThreadError

if TYPE_CHECKING:
    from pymem._heap import Heap

__all__ = ["Owner", "Stepper", "many", "whole"]

_ELSEWHERE = "another thread is in this heap: give each thread a runtime of its own"

P = ParamSpec("P")
R = TypeVar("R")


class Owner:
    """Whether somebody is in a step, and what observers raised meanwhile."""

    __slots__ = ("depth", "raised", "telling")

    def __init__(self) -> None:
        self.depth = 0
        self.telling = False
        """Whether observers are being called: in the middle of a step."""
        self.raised: Exception | None = None
        """The first thing that an observer raised; it comes when the step is over."""


class Stepper(Protocol):
    """Whose steps are to be whole."""

    owner: Owner
    heap: Heap


S = TypeVar("S", bound=Stepper)


class _Waiting:
    """A handler of SIGINT that keeps the first for later. Who insists is not made to wait."""

    def __init__(self, then: Callable[..., Any]) -> None:
        self.then = then
        self.came: tuple[Any, ...] | None = None

    def __call__(self, *signal_and_frame: Any) -> None:
        if self.came:
            self.then(*signal_and_frame)
        self.came = signal_and_frame

    def deliver(self) -> None:
        """Have what was kept come now."""
        came, self.came = self.came, None
        if came:
            self.then(*came)


def whole(step: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method a whole step. ThreadError, ConfigError: nothing was done. Only the main thread is interrupted."""

    @wraps(step)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        owner = self.owner
        if not self.heap.lock.acquire(blocking=False):
            raise ThreadError(_ELSEWHERE)
        try:
            if owner.telling:
                raise ConfigError(
                    "an observer cannot do this, the collector is at work: do it when the call is over"
                )
            if owner.depth:
                return step(self, *args, **kwargs)
            owner.depth = 1
            try:
                return _uninterrupted(step, self, *args, **kwargs)
            finally:
                owner.depth = 0
                raised, owner.raised = owner.raised, None
                if raised is not None:
                    raise raised
        finally:
            self.heap.lock.release()

    return run


@contextmanager
def many(stepper: Stepper) -> Iterator[Callable[[], None]]:
    """Do many steps of one heap: what is yielded is to be called between them, and lets Ctrl-C through.

    A step by itself arms and disarms the handler, which takes longer than most steps do.
    """
    owner, lock = stepper.owner, stepper.heap.lock
    if not lock.acquire(blocking=False):
        raise ThreadError(_ELSEWHERE)
    waiting = _hold_back()
    owner.depth += 1
    try:
        yield waiting.deliver if waiting else _nothing
    finally:
        owner.depth -= 1
        lock.release()
        _let_go(waiting)


def _nothing() -> None:
    pass


def _uninterrupted(step: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    waiting = _hold_back()
    try:
        return step(*args, **kwargs)
    finally:
        _let_go(waiting)


def _hold_back() -> _Waiting | None:
    """Keep Ctrl-C for later, where it would come and nobody keeps it yet."""
    before = signal.getsignal(signal.SIGINT)
    foreign = threading.current_thread() is not threading.main_thread()
    if foreign or isinstance(before, _Waiting) or not callable(before):
        return None
    waiting = _Waiting(before)
    signal.signal(signal.SIGINT, waiting)
    return waiting


def _let_go(waiting: _Waiting | None) -> None:
    if waiting:
        signal.signal(signal.SIGINT, waiting.then)
        waiting.deliver()
