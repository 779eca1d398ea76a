"""Sweeps outside of this thread: on a Dask cluster that loses a worker, and after an interruption."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import LRU, Command, assert_one_line, spawn

from pymem.errors import ConfigError
from pymem.whatif import Row, grid, sweep

distributed = pytest.importorskip("distributed")  # the extra `sweep`

SCENARIOS = grid(gogc=[25, 50, 100, "off"], memory_limit=["off", "16MiB"])
DRAWS = 3


def written(rows: tuple[Row, ...]) -> bytes:
    """Return rows as a file has them, byte for byte."""
    return json.dumps([row.facts() for row in rows]).encode()


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("did not happen within 30 s")


@pytest.fixture(scope="module")
def serial() -> bytes:
    return written(sweep(LRU, SCENARIOS, draws=DRAWS))


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Start two workers, processes with a nanny each, and a scheduler."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


# ---- a cluster ----


def test_lost_worker_costs_a_retry(client: Any, serial: bytes) -> None:
    """Killed while it works on a row: another has to do that one again."""
    begun = time.time()
    pids: dict[str, int] = client.run(os.getpid)
    killed: list[str] = []

    def kill_one(done: int, total: int) -> None:
        if done < 3 or killed:
            return
        at_work = [worker for worker, keys in client.processing().items() if len(keys)]
        os.kill(pids[at_work[0]], signal.SIGKILL)
        killed.append(at_work[0])

    with client.get_executor(retries=3, pure=False) as executor:
        rows = sweep(LRU, SCENARIOS, draws=DRAWS, executor=executor, progress=kill_one)
    assert written(rows) == serial
    lost = [
        event
        for when, event in client.get_events("all")
        if when > begun and isinstance(event, dict) and event.get("action") == "remove-worker"
    ]
    assert [event["worker"] for event in lost] == killed
    assert lost[0]["processing-tasks"]


def test_command_on_a_cluster(client: Any, pymem: Command, tmp_path: Path) -> None:
    arguments = ("whatif", LRU, "--gogc", "50,off", "--draws", 2, "--json")
    results = tmp_path / "rows.jsonl"
    got = pymem(*arguments, "--cluster", client.scheduler.address, "--results", results)
    assert (got.status, got.out) == (0, pymem(*arguments).out)
    assert len(results.read_text().splitlines()) == 1 + 2


def test_worker_that_does_not_see_the_file(client: Any, pymem: Command) -> None:
    """What is open here by a number is not there."""
    number = 237
    with open(LRU, "rb") as file:
        os.dup2(file.fileno(), number)
    try:
        there = f"/proc/self/fd/{number}"
        got = pymem("whatif", there, "--gogc", "50", "--draws", 1, "--cluster", client.scheduler.address)
    finally:
        os.close(number)
    assert_one_line(got, there, "the worker on", "copy it there")


def test_worker_that_sees_another_file(client: Any, tmp_path: Path) -> None:
    """It changes between the start of the sweep and the first row."""
    file = shutil.copy(LRU, tmp_path)

    def change(done: int, total: int) -> None:
        with open(file, "ab") as end:
            end.write(b"x")

    with client.get_executor(pure=False) as executor, pytest.raises(ConfigError, match="another file"):
        sweep(file, SCENARIOS[:1], draws=1, executor=executor, progress=change)


@pytest.mark.parametrize(
    "address", ["nobody.invalid:8786", "tcp://127.0.0.1", "junk://x", "tcp://127.0.0.1:99999"]
)
def test_address_of_nobody(pymem: Command, address: str) -> None:
    assert_one_line(
        pymem("whatif", LRU, "--cluster", address), address, "no scheduler answers", "dask scheduler"
    )


def test_port_where_nobody_listens(pymem: Command) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        begun = time.monotonic()
        got = pymem("recommend", LRU, "--limit", "1GiB", "--cluster", address)
    assert_one_line(got, address, "refused", "dask scheduler")
    assert time.monotonic() - begun < 3


def test_scheduler_that_dies(tmp_path: Path) -> None:
    """It has no workers either, which is told."""
    log, err = tmp_path / "scheduler", tmp_path / "err"
    code = "import sys; from distributed.cli.dask_scheduler import main; sys.exit(main())"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    with (
        open(log, "w") as told,
        open(err, "w") as said,
        subprocess.Popen([sys.executable, "-c", code, *options], stderr=told) as scheduler,
    ):
        try:
            wait_until(lambda: re.search(r"tcp://127\.0\.0\.1:\d+", log.read_text()) is not None)
            address = re.findall(r"tcp://127\.0\.0\.1:\d+", log.read_text())[0]
            with spawn("whatif", LRU, "--cluster", address, stdout=-1, stderr=said) as command:
                wait_until(lambda: "no worker yet" in err.read_text())
                time.sleep(0.5)
                scheduler.kill()
                assert (command.communicate(timeout=60)[0], command.returncode) == ("", 2)
        finally:
            scheduler.kill()
    assert re.fullmatch(r"pymem: .*no worker yet.*\npymem: .*the scheduler has gone.*\n", err.read_text())


# ---- an interruption ----


def test_interrupted_command_goes_on(pymem: Command, tmp_path: Path) -> None:
    results = tmp_path / "rows.jsonl"
    gogc = list(range(20, 44, 2))
    arguments = ("whatif", LRU, "--gogc", ",".join(map(str, gogc)), "--draws", 2, "--json")

    def lines() -> int:
        return len(results.read_text().splitlines()) if results.exists() else 0

    with spawn(*arguments, "--results", results, stdout=-1, stderr=-1) as command:
        wait_until(lambda: lines() >= 3)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=60)
    assert (command.returncode, out, err) == (130, "", "pymem: interrupted\n")
    kept = results.read_bytes()
    assert 3 <= len(kept.splitlines()) < 1 + len(gogc)
    resumed = pymem(*arguments, "--results", results)
    assert results.read_bytes().startswith(kept)
    assert lines() == 1 + len(gogc)
    assert (resumed.status, resumed.out) == (0, pymem(*arguments).out)
