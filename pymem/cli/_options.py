"""Options that several verbs have, and what their words stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pymem.errors import ConfigError

if TYPE_CHECKING:
    from pymem.gc.costs import Costs

__all__ = ["CostsFile", "load_costs", "with_commas"]

CostsFile = Annotated[
    str | None,
    typer.Option(
        "--costs",
        help="JSON file of what collecting costs (Costs.save); the defaults are real Go's, of one machine.",
        metavar="FILE",
    ),
]


def load_costs(path: str | None) -> Costs | None:
    """Return the costs of --costs."""
    from pymem.gc.costs import Costs

    if path is None:
        return None
    try:
        return Costs.load(path)
    except OSError as error:
        raise ConfigError(f"--costs {path}: {error.strerror}; give a file that Costs.save wrote") from None


def with_commas(option: str, text: str) -> list[str]:
    """Return the values of an option that takes several."""
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise ConfigError(f"{option} {text!r}: give values with commas between, such as 50,100,200")
    return words
