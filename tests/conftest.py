"""What every test needs, and the fixtures of more than one file."""

import os
from pathlib import Path

import pytest
from command_line import Command, Result

from pymem.cli import main
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
