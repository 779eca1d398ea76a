"""Libraries that only some commands need: what is missing is said in one sentence, with the command that brings it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pymem.errors import MissingExtraError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["need"]


def need(module: str, extra: str) -> ModuleType:
    """Import a module that an extra of pymem-go brings, such as "pyarrow.parquet".

    Raises `MissingExtraError` where it is not installed, and what the module raises if it is there but broken.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingExtraError(
            f"{top} is not installed: `pip install 'pymem-go[{extra}]'` brings it"
        ) from error
