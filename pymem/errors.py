"""The exceptions of pymem: every one says what went wrong, where, and what to do about it."""

from __future__ import annotations

__all__ = [
    "AddressError",
    "ClosedError",
    "ConfigError",
    "CorruptHeapError",
    "MissingExtraError",
    "PymemError",
    "RecordingError",
    "SizeError",
    "ThreadError",
    "TraceError",
]


class PymemError(Exception):
    """Base of every error that pymem raises on purpose."""


class SizeError(PymemError, ValueError):
    """A size, count or alignment that no allocator could serve (negative, or beyond the address space)."""


class AddressError(PymemError, LookupError):
    """An address that is not a live object of this heap: foreign, freed, or inside a free slot."""


class ConfigError(PymemError, ValueError):
    """A setting out of its range, or a processor, goroutine or type that the runtime does not have."""


class ClosedError(PymemError, ValueError):
    """The runtime was closed; make a new one."""


class ThreadError(PymemError, RuntimeError):
    """A heap was entered from two threads at once; a heap has one owner at a time."""


class CorruptHeapError(PymemError, AssertionError):
    """An invariant of the heap does not hold: a bug in pymem (Go would `throw` here)."""


class MissingExtraError(PymemError, ImportError):
    """A library that an extra of pymem-go brings is not installed."""


class RecordingError(PymemError, ValueError):
    """A recording that cannot be made, read or understood."""


class TraceError(RecordingError):
    """An execution trace that is damaged, of a wrong version, or without allocation events."""
