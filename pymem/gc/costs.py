"""What things cost in virtual time: data, given from outside, never read off a clock while emulating."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Self

from pymem.errors import ConfigError

if TYPE_CHECKING:
    import os

__all__ = ["Costs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Nanoseconds of one P's time.

    The defaults are real Go 1.27.3's on a shared virtual machine (AMD EPYC, linux/amd64, 2 processors), medians of
    `python bench/costs.py` in processor time. Marking one shape or another misses them by -30 to +160 %.
    """

    malloc_ns: float = 27.0
    """An allocation, with what the program does around it."""
    malloc_byte_ns: float = 0.024
    """A byte of the slot: clearing and first touch."""
    mark_byte_ns: float = 0.62
    """A byte of scan work."""
    mark_object_ns: float = 0.85
    """An object marked, besides its bytes."""
    sweep_span_ns: float = 300.0
    """A span swept."""
    stop_ns: int = 6_000
    """The world stopped to begin a cycle."""
    term_ns: int = 6_000
    """The world stopped to end marking."""
    worker_start_ns: int = 150_000
    """From when marking may begin until the first background worker does: a thread has to wake up."""
    mark_end_ns: int = 30_000
    """From when nothing is left to mark until the world is stopped: every P has to say that it found nothing."""
    move_object_ns: float = 100.0
    """An object moved by compaction. Go moves none: this and the next two are what our own core takes."""
    move_byte_ns: float = 0.4
    """Each byte of its slot."""
    fix_byte_ns: float = 0.35
    """A byte of scan work, looked through for pointers to what has moved."""
    scavenge_call_ns: float = 2200.0
    """A run of pages given back to the operating system."""
    scavenge_page_ns: float = 790.0
    """Each page of 8,192 bytes of it."""

    fault_page_ns: float = 5000.0
    """A page of 8,192 bytes touched first, in two page faults; in reruns only. Four programs' system time over their
    faults, the collector off."""
    trace_event_ns: float = 88.0
    """An event that a program writes into its own trace; comes off the recorded time."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or not 0 <= value < 1e9:
                raise ConfigError(f"costs: {field.name}={value!r}: give nanoseconds, from 0 to below 1e9")

    def scavenge_ns(self, released: int) -> int:
        """Return what giving back so many bytes takes, as if in one run of pages; 0 for none."""
        return round(self.scavenge_call_ns + self.scavenge_page_ns * (released / 8192)) if released else 0

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read costs from a JSON file, as `save` writes it."""
        try:
            with open(path, encoding="utf-8") as file:
                data = json.load(file)
            return cls(**data)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a file of costs ({error}): write one with Costs.save") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the costs as a JSON object, one number a name."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.write("\n")
