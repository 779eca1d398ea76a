"""Colours that can be told apart on light and on dark paper, and by people who see red and green alike."""

from __future__ import annotations

__all__ = ["BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "RED", "STATE_COLOURS", "STREAM_COLOURS"]

BLUE = "#3b82d6"
ORANGE = "#e08a1e"
GREEN = "#2a9d6f"
RED = "#d64550"
PURPLE = "#9a6fc9"
GREY = "#8a8f98"

STREAM_COLOURS = (
    BLUE,
    ORANGE,
    GREEN,
    PURPLE,
    "#c8b62d",
    "#45b3c9",
    RED,
    "#8c6d4f",
    "#d77fb3",
    GREY,
)
"""Of stacked types; the last one is of all others."""

STATE_COLOURS = (
    "#00000000",
    "#cfc8b4",
    "#efc94c",
    "#a678b8",
    "#cfe3f5",
    "#93c3ea",
    "#5a9fdc",
    "#2f78c4",
    "#124f95",
)
"""Of `heap_map.STATES`."""
