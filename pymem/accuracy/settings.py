"""The program under test with settings of ours, traced and untraced, whatever the user's environment sets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pymem.accuracy.measure import DEBUG
from pymem.record.subject import SETTINGS, untraced
from pymem.record.tracing import VARIABLE
from pymem.units import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pymem.record.subject import Subject
    from pymem.record.tracing import TracedCommand
    from pymem.whatif.scenario import Scenario

__all__ = ["environment", "measured_env", "traced"]


def traced(subject: Subject, path: Path, *, gogc: int | None, gomaxprocs: int | None) -> TracedCommand:
    """Return the command that leaves a trace there. Raises RecordingError."""
    env = environment(gogc=gogc, gomaxprocs=gomaxprocs)
    made = subject.traced(path, {"GODEBUG": env["GODEBUG"]})
    kept = {"GODEBUG": made.env["GODEBUG"], VARIABLE: made.env[VARIABLE]}
    return replace(made, env={**env, **kept})


def measured_env(scenario: Scenario) -> dict[str, str]:
    """Return the environment of an untraced run under these settings that prints what `measure` reads."""
    return environment(
        gogc=scenario.gogc,
        memory_limit=scenario.memory_limit,
        gomaxprocs=scenario.gomaxprocs,
        debug=DEBUG,
    )


def environment(
    *,
    gogc: int | None = None,
    memory_limit: int | None = None,
    gomaxprocs: int | None = None,
    debug: Sequence[str] = (),
) -> dict[str, str]:
    """Return this process's environment with settings for Go's runtime, and without any other of these.

    GOMAXPROCS stays as it is if none is given.
    """
    foreign = set(SETTINGS) - ({"GOMAXPROCS"} if gomaxprocs is None else set())
    env = {name: value for name, value in untraced(debug).items() if name not in foreign}
    if gogc is not None:
        env["GOGC"] = "off" if gogc < 0 else str(gogc)
    if memory_limit is not None and memory_limit < NO_LIMIT:
        env["GOMEMLIMIT"] = str(memory_limit)
    if gomaxprocs is not None:
        env["GOMAXPROCS"] = str(gomaxprocs)
    return env
