"""The command line: one verb a file, what it prints beside it."""

from pymem.cli.main import app, main

__all__ = ["app", "main"]
