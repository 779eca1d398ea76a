"""The settings that a Go program takes from its environment: GOGC, GOMEMLIMIT, GOMAXPROCS and some of GODEBUG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pymem.errors import ConfigError
from pymem.units import NO_LIMIT, parse_byte_count, parse_integer

__all__ = ["Settings", "read_settings"]

_GOGC_DEFAULT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an environment asks for."""

    gogc: int | None = _GOGC_DEFAULT
    """Percent; None: off."""
    memory_limit: int = NO_LIMIT
    """Bytes."""
    gomaxprocs: int | None = None
    """Ps; None: it does not say. Go then takes the machine's processors, or its share of them in a container."""
    gctrace: int = 0
    """Lines are printed from 1 on. From 2 on Go adds tables that are not emulated."""
    gcpacertrace: int = 0
    scavtrace: int = 0
    gccheckmark: int = 0
    """From 1 on every cycle is marked a second time, with the world stopped."""


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings as Go does when a process starts.

    As in Go, a GOMEMLIMIT that makes no sense ends it all (here by ConfigError), and anything else that makes none is
    as if it were not there.
    """
    debug = _godebug(environ.get("GODEBUG", ""))
    return Settings(
        gogc=_gogc(environ.get("GOGC", "")),
        memory_limit=_gomemlimit(environ.get("GOMEMLIMIT", "")),
        gomaxprocs=_gomaxprocs(environ.get("GOMAXPROCS", "")),
        gctrace=debug.get("gctrace", 0),
        gcpacertrace=debug.get("gcpacertrace", 0),
        scavtrace=debug.get("scavtrace", 0),
        gccheckmark=debug.get("gccheckmark", 0),
    )


def _gogc(text: str) -> int | None:
    """Go: readGOGC."""
    n = -1 if text == "off" else parse_integer(text, 32)
    if n is None:
        return _GOGC_DEFAULT
    return n if n >= 0 else None


def _gomemlimit(text: str) -> int:
    """Go: readGOMEMLIMIT."""
    if text in ("", "off"):
        return NO_LIMIT
    limit = parse_byte_count(text)
    if limit is None:
        raise ConfigError(
            f"GOMEMLIMIT={text}: malformed GOMEMLIMIT; see `go doc runtime/debug.SetMemoryLimit`: "
            "write bytes, or a whole number with B, KiB, MiB, GiB or TiB, or off"
        )
    return limit


def _gomaxprocs(text: str) -> int | None:
    """Go: schedinit."""
    n = parse_integer(text, 32)
    return n if n is not None and n > 0 else None


def _godebug(text: str) -> dict[str, int]:
    """Return the whole numbers of a list of name=number; the last of a name counts. Go: parsegodebug."""
    pairs = (field.partition("=") for field in text.split(","))
    values = ((name, parse_integer(value, 32)) for name, _, value in pairs)
    return {name: n for name, n in values if n is not None}
