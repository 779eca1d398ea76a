"""`pymem lab`: synthetic programs that need no recording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pymem.cli._output import Json, note, print_json, print_table, progress, suggest
from pymem.cli.replay import print_run, run_facts

__all__ = ["lab"]

_Name = Annotated[
    str | None, typer.Argument(metavar="[NAME]", help="A program of the lab; without it, list them all.")
]
_Save = Annotated[
    str | None,
    typer.Option("--save", metavar="FILE", help="Keep the workload in a file that every command reads."),
]


def lab(name: _Name = None, *, save: _Save = None, as_json: Json = False) -> None:
    """Run a built-in synthetic program.

    No recording is needed; without a name, the programs are listed.
    """
    from pymem.workload.synthetic import LAB

    if name is None:
        if save:
            raise typer.BadParameter("--save keeps the workload of one program; give its NAME too")
        _list(as_json=as_json)
        return
    if name not in LAB:
        raise typer.BadParameter(
            f"there is no program {name!r} in the lab; `pymem lab` lists {', '.join(LAB)}"
        )
    from pymem.record.tracing import check_writable
    from pymem.replay import replay

    workload = LAB[name][1]()
    if save:
        check_writable(Path(save))
        workload.save(save)
    with progress("running", name, quiet=as_json) as tell:
        run = replay(workload, progress=tell)
    if as_json:
        print_json({"name": name, "saved": save, **run_facts(run)})
        return
    print_run(f"{name}: {LAB[name][0]}", run)
    if save:
        note(f"{save}: the workload was saved")
        suggest(["info", save], ["replay", save])
    else:
        suggest(["lab", name, "--save", f"{name}.pymem"])


def _list(*, as_json: bool) -> None:
    from pymem.workload.synthetic import LAB

    if as_json:
        print_json({name: description for name, (description, _) in LAB.items()})
        return
    print_table(
        "Programs of the lab", ["name", "what it does"], [[n, d] for n, (d, _) in LAB.items()], left=2
    )
    suggest(["lab", next(iter(LAB))])
