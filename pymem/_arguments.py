"""What users pass in that is no array: numbers, functions, times, objects of a class. What is none is an error."""

from __future__ import annotations

import operator
from typing import Any, TypeVar

from pymem.errors import ConfigError, PymemError

__all__ = ["duration", "function", "instance", "whole"]

T = TypeVar("T")


def whole(
    what: str,
    value: Any,
    least: int | None = None,
    most: int | None = None,
    *,
    error: type[PymemError] = ConfigError,
) -> int:
    """Return a whole number from least to most, None being no bound."""
    try:
        n = int(operator.index(value))
    except TypeError:
        raise error(f"{what}={value!r}: give a whole number") from None
    if (least is not None and n < least) or (most is not None and n > most):
        range_ = f"{least:,} or more" if most is None else f"{most:,} or less" if least is None else ""
        raise error(f"{what}={n}: give {range_ or f'{least:,} to {most:,}'}")
    return n


def instance(what: str, value: T, cls: type | tuple[type, ...], remedy: str) -> T:
    """Return a value that is of a class, or one of several; remedy: what to give instead."""
    if not isinstance(value, cls):
        raise ConfigError(f"{what}={value!r}: give {remedy}")
    return value


def function(what: str, value: Any, remedy: str) -> Any:
    """Return what can be called."""
    if not callable(value):
        raise ConfigError(f"{what}={value!r}: give {remedy}")
    return value


def duration(ns: Any) -> float:
    """Return a time in nanoseconds that the clock can tell."""
    try:
        good = bool(0 <= ns < 1 << 62)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ConfigError(f"{ns!r} ns: give a time from 0 to below 2**62 ns")
    return ns  # type: ignore[no-any-return]
