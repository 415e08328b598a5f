"""`quail doctor`: what works on this machine, and whether a config's run can."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from quail_lightning.command_line.own_options import divided
from quail_lightning.commands.examined_machine import devices, extras, formats, kernels, room, versions
from quail_lightning.commands.findings import Finding, as_json, table_of
from quail_lightning.errors import InputError
from quail_lightning.run.tables import output_console
from quail_lightning.storage.durable import check_writable, replace_text

CANNOT = 1  # exit status where something blocks
PURPOSE = (
    "Say what works here and what does not, with the remedy. --config and overrides, as fit takes them, are "
    "examined as well: what fit would refuse, memory, disk and the first epoch. Nothing is trained."
)


def run_doctor(arguments: Sequence[str]) -> None:
    """Print what is found, section by section.

    Raises:
        SystemExit: with status 1 where something blocks.
        InputError: the file of the JSON cannot be written.
    """
    parser = ArgumentParser(prog="quail doctor", description=PURPOSE, allow_abbrev=False)
    parser.add_argument("--json", metavar="FILE", help="write the findings there, too")
    parser.add_argument("--measure", action="store_true", help="load the config's model and time a step of it")
    parser.add_argument("-c", "--config", metavar="FILE", help="a config of fit; several merge key by key")
    parser.add_argument("--section.key", metavar="VALUE", help="an override of the config")
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
        return
    own, given = divided(arguments, ("--json",), ("--measure",))
    options = parser.parse_args(own)
    if options.json is not None:
        check_writable(Path(options.json).absolute().parent, "--json")
    if options.measure and not given:
        raise InputError("--measure times the model of a config, and none is given", remedy="Add --config")
    found: list[Finding] = []
    sections: list[Callable[[], Iterable[Finding]]] = [
        versions,
        room,
        extras,
        devices,
        lambda: [*kernels(), *formats()],
    ]
    if given:
        sections.append(lambda: _examined(given, options.measure))
    for section in sections:
        rows = list(section())
        found += rows
        output_console().print(table_of(rows))
        sys.stdout.flush()
    if options.json is not None:
        replace_text(Path(options.json), json.dumps(as_json(found), indent=2) + "\n")
    blocking = [each for each in found if each.state == "blocks"]
    if blocking:
        print(f"{len(blocking)} of these block{'s' if len(blocking) == 1 else ''}.")
        raise SystemExit(CANNOT)
    print("Nothing blocks." if given else "Nothing blocks; --config FILE examines a run as well.")


def _examined(arguments: list[str], measure: bool) -> list[Finding]:
    from quail_lightning.terminal import step

    with step("loading Lightning"):
        from quail_lightning.command_line.examined_run import examined_run
    return examined_run(arguments, measure)
