"""What every test needs, and the fixtures of more than one file."""

import os
from pathlib import Path

import pytest
from command_line import Command, Result
from oracle import make

from pymem.cli import main
from pymem.errors import RecordingError
from pymem.record.overlay import Toolchain, find_toolchain
from pymem.workload.synthetic import steady

# Children that tests start with `python -c` import the installed package. Without this they would find the sources in
# the working directory first, which have no compiled core.
os.environ["PYTHONSAFEPATH"] = "1"


@pytest.fixture
def pymem(capfd: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def workload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small recording that collects now and then."""
    return steady(3000, gc_every=500).save(tmp_path_factory.mktemp("cli") / "steady.pymem")


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """Find the Go that is emulated; without it what asks for this is skipped."""
    try:
        return find_toolchain()
    except RecordingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def oracle(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the programs of `tests/oracle` with the recorder."""
    return make.build_recording(tmp_path_factory.mktemp("oracle") / "oracle")


@pytest.fixture(scope="session")
def fixed(toolchain: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build them without the recorder and with it, both with the heap at a fixed address."""
    folder = tmp_path_factory.mktemp("fixed")
    plain = make.build_plain(folder / "plain", env=make.FIXED_BASE)
    return plain, make.build_recording(folder / "fixed", env=make.FIXED_BASE)
