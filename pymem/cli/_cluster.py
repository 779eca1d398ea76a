"""A Dask cluster to work on: found quickly or not at all, and what it fails of told in a sentence."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pymem._extras import need
from pymem.cli._output import note
from pymem.errors import ConfigError, PymemError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor

__all__ = ["cluster"]

_ANSWER_S = 5.0
_RETRIES = 3
"""Times that a row is tried again after an error; beside it Dask gives it to another worker when one is lost."""


@contextmanager
def cluster(address: str | None) -> Iterator[Executor | None]:
    """Give an executor on the cluster at a scheduler's address; None without one."""
    if address is None:
        yield None
        return
    distributed = need("distributed", "sweep")
    with (
        _silence(),
        _client(distributed, address) as client,
        client.get_executor(retries=_RETRIES, pure=False) as work,
    ):
        if not client.nthreads():
            note(f"the cluster has no worker yet, waiting for one: `dask worker {address}` starts one")
        try:
            yield work
        except distributed.KilledWorker as error:
            raise PymemError(
                f"--cluster {address}: one worker after the other died at the same row ({error.last_worker.address}"
                " was the last): give them more memory, or see their logs"
            ) from None
        except (CancelledError, distributed.comm.CommClosedError):
            raise PymemError(
                f"--cluster {address}: the scheduler has gone: start it and run again (with --results, rows are kept)"
            ) from None


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Dask's logs, tracebacks and all, from the user: what matters of them is told as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _client(distributed: Any, address: str) -> Any:
    """Connect. Dask tries again and again where nobody listens, so that is found out first."""
    try:
        if "://" not in address or address.startswith(("tcp://", "tls://")):
            socket.create_connection(
                distributed.comm.get_address_host_port(address), timeout=_ANSWER_S
            ).close()
        return distributed.Client(address, timeout=_ANSWER_S, set_as_default=False)
    except (OSError, ValueError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(
            f"--cluster {address}: no scheduler answers there ({why}): give the address that `dask scheduler` prints,"
            " such as tcp://10.0.0.1:8786"
        ) from None
